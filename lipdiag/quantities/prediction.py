"""How well the noise is predicted, and what a true model's prediction obeys."""

from .point import Point
from .quantity import L2, Quantity, Values, Variable, dot, norms


def stein(point: Point) -> Values:
    return {"stein_product": dot(point.noise, point.eps), "stein_square": dot(point.eps, point.eps)}


def loss(point: Point) -> Values:
    return {"loss": norms(point.eps.double() - point.noise.double()).square() / point.noise[0].numel()}


QUANTITIES = {
    "stein": Quantity(
        stein,
        {
            "stein_product": Variable("<noise, predicted noise>", "1", "inner product"),
            "stein_square": Variable("|predicted noise|^2; mean product / mean square is 1 for a true model", "1", L2),
        },
        of_noise=True,
    ),
    "loss": Quantity(
        loss,
        {"loss": Variable("squared error of the predicted noise, averaged over entries", "1", "mean square")},
        of_noise=True,
    ),
}
