"""Whether predictions at different times belong to one diffusion: what is left of the Fokker-Planck equation.

In y = x / alpha and rho = sigma / alpha noise is added by the heat equation, d p / d rho = rho Laplace p. So the score
S = grad log p obeys dS/drho = rho grad (div S + |S|^2), and the prediction u = -rho S, whose Jacobian is symmetric,
    R = rho (du/drho + 2 J u) - u - rho^2 Laplace u = 0,        J = du/dy.
The first part is one derivative along (2 u, 1), the second a mean over random z of E z z^T = 1 of second differences
along rho z. R of two independent z is multiplied, so that the mean of what is measured is |R|^2 without the variance
of either.

References:
    Lai et al., FP-Diffusion: improving score-based diffusion models by enforcing the underlying score Fokker-Planck
    equation, 2023. https://arxiv.org/abs/2210.04296
"""

import torch
from torch import Tensor

from ..diffusion.continuous import along, slope
from .point import Point
from .quantity import Quantity, Values, Variable, dot

STEP = 0.03
"""Step of a second difference, in parts of the noise that is there: float32 leaves a thousandth of rounding in it."""


def fokker_planck(point: Point) -> Values:
    """|R|^2 over the number of entries, where that of the noise is 1; its mean is right, a draw may be below 0.

    Of a network that looks integer timesteps up, and has no derivative in time, it is NaN.
    """
    if getattr(point.predictor, "integers", None):
        return {"fokker_planck_residual": torch.full_like(point.t, torch.nan)}
    schedule, x, u = point.predictor.schedule, point.x.double(), point.eps.double()
    alpha, sigma = (along(s, x) for s in schedule(point.t))
    alpha_rate = along(schedule.rates(point.t)[0], x)
    rate = -2 / slope(schedule.logsnr, point.t)  # of t in log rho
    dx = along(rate, x) * alpha_rate / alpha * x + 2 * sigma * u
    moved = point.linearization.jvp(dx=dx.to(point.x.dtype), dt=rate).double()
    directions = point.probes[0], point.start.double() * point.start.shape[1] ** 0.5
    first, second = (moved - u - curvature(point, sigma * z.reshape(x.shape)) for z in directions)
    return {"fokker_planck_residual": dot(first, second) / point.start.shape[1]}


@torch.no_grad()
def curvature(point: Point, z: Tensor) -> Tensor:
    """The second derivative of eps along z at fixed time, by a central difference."""
    far = (STEP * z).to(point.x.dtype)
    ahead, behind = (point.predictor(point.x + sign * far, point.t).double() for sign in (1, -1))
    return (ahead - 2 * point.eps.double() + behind) / STEP**2


QUANTITIES = {
    "fokker_planck": Quantity(
        fokker_planck,
        {
            "fokker_planck_residual": Variable(
                "squared residual of the Fokker-Planck equation of eps, averaged over entries: 0 for a true model",
                "1",
                "mean square",
            )
        },
        lambda work: 5,
        of_noise=True,
    )
}
