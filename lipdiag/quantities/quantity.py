"""What can be measured at a point, each with its evidence and its price.

A quantity is a function of a `Point` that returns one number (or a short list) per (draw, timestep) pair. To add
one: write the function, and its entry in `QUANTITIES`; plan, store, command line and reports pick it up.

Time derivatives are per timestep, the model's own unit of time. Norms are Euclidean over all entries of a sample.
A largest value over draws is a lower bound of a Lipschitz constant, never the constant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.clock import Clock
from ..linalg.lanczos import extreme_eigenvalues
from ..linalg.operator import Operator, symmetric_part
from ..linalg.trace import hutchinson_squared_frobenius_norm, hutchinson_trace
from ..study.plan import Plan
from .embedding import embedding
from .flow import flow_velocity
from .pairs import columns, pairs, swap
from .point import Point
from .sensitivity import PASSES, STEPS, transported
from .vectors import vectors

Pairs = Float[Tensor, " batch"]
Values = dict[str, Tensor]


class Variable(NamedTuple):
    """How a dataset variable is described: what it is, its unit, its norm, and its dimensions after time and draw."""

    long_name: str
    units: str
    norm: str
    dimensions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quantity:
    """A measurement: the function, the variables it fills (the first is its headline), and its price.

    Attributes:
        measure: The function.
        variables: Name -> description; one number per (draw, timestep) pair, or a list of ranks.
        passes: Passes through the network, in forward passes, that it adds to what it `needs`, after k Krylov steps.
        needs: What it shares with others: `krylov` (2 k passes), `probes` (one pass a probe).
        of_noise: Whether it means something only where the output is a prediction of the noise.
    """

    measure: Callable[[Point], Values]
    variables: dict[str, Variable]
    passes: Callable[[Plan, int], int]
    needs: frozenset[str] = frozenset()
    of_noise: bool = False

    @property
    def headline(self) -> str:
        return next(iter(self.variables))


def norms(z: Float[Tensor, "batch *event"]) -> Pairs:
    """Euclidean norm of each sample, float64."""
    return z.flatten(1).double().norm(dim=1)


def dot(a: Float[Tensor, "batch *event"], b: Float[Tensor, "batch *event"]) -> Pairs:
    return (a.flatten(1).double() * b.flatten(1).double()).sum(1)


def time_derivative(point: Point) -> Values:
    return {"time_derivative": norms(point.linearization.jvp(dt=point.rate))}


def other_time(clock: Clock, timestep: Tensor, step: float | None) -> Tensor:
    """The second time of the difference quotient: one step later, or earlier where that would leave [0, 1]."""
    if step is None and not clock.discrete:
        t = clock.base.time(timestep)
        return clock.base(torch.where(t + 1e-3 <= 1, t + 1e-3, t - 1e-3))
    distance = 1.0 if step is None else step
    other = timestep + distance
    later = clock.base.time(other)
    # A clock may end where its schedule does and tell its last timestep from there on: a way that is not travelled.
    travelled = (clock.base(later) - other).abs() <= 1e-6 * abs(distance)
    inside = (later >= 0) & (later <= 1 + 1e-12) & travelled
    if step is None:  # an index that is read backwards has one more at t = 0, which is none of the table's
        inside &= other <= max(clock.base.ends)
    return torch.where(inside, other, timestep - distance)


@torch.no_grad()
def time_difference(point: Point) -> Values:
    clock = point.predictor.clock
    other = other_time(clock, point.timestep, point.plan.step)
    changed = point.predictor(point.x, clock.base.time(other)).double() - point.eps.double()
    return {"time_difference": norms(changed) / (other - point.timestep).abs()}


def trajectory_derivative(point: Point) -> Values:
    expand = (-1, *[1] * (point.x.ndim - 1))
    dx = (flow_velocity(point) * point.rate.view(expand)).to(point.x.dtype)
    return {"trajectory_derivative": norms(point.linearization.jvp(dx=dx, dt=point.rate))}


def spectral_norm(point: Point) -> Values:
    found = point.singular_values
    return {
        "spectral_norm": found.values[:, 0],
        "spectral_norm_upper": found.upper,
        "spectral_norm_steps": torch.full_like(found.upper, found.steps),
    }


def singular_values(point: Point) -> Values:
    found = point.singular_values
    return {"singular_values": found.values, "singular_values_residual": found.residuals}


def jacobian_square(point: Point) -> Operator:
    A = point.linearization.jacobian
    if A.rows != A.columns:
        raise ValueError(f"the Jacobian is {A.rows} x {A.columns}, it must be square")
    return A


def one_sided_lipschitz(point: Point) -> Values:
    symmetric = symmetric_part(jacobian_square(point))
    largest = extreme_eigenvalues(
        symmetric, point.start, steps=min(point.plan.krylov_steps, symmetric.columns), width=point.plan.certified_width
    ).largest
    sigma = point.predictor.schedule(point.t)[1]
    return {"one_sided_lipschitz": largest, "denoising_bound": sigma * largest}


def squared_frobenius_norm(point: Point) -> Values:
    found = hutchinson_squared_frobenius_norm(point.images[1], point.group)
    return {
        "squared_frobenius_norm": found.value,
        "squared_frobenius_norm_standard_error": found.standard_error,
    }


def trace(point: Point) -> Values:
    found = hutchinson_trace(*point.images, point.group)
    return {"trace": found.value, "trace_standard_error": found.standard_error}


def asymmetry(point: Point) -> Values:
    z, Jz = point.images
    transposed = torch.stack([point.linearization.jacobian.vm(p.to(point.x.dtype)).double() for p in z])
    difference, total = ((Jz + sign * transposed).square().sum((0, 2)) for sign in (-1, 1))
    return {"asymmetry": (difference / total).sqrt()}


def stein(point: Point) -> Values:
    return {"stein_product": dot(point.noise, point.eps), "stein_square": dot(point.eps, point.eps)}


def loss(point: Point) -> Values:
    return {"loss": norms(point.eps.double() - point.noise.double()).square() / point.noise[0].numel()}


def sensitivity(point: Point) -> Values:
    if point.perturbation is None:
        raise ValueError("this point was made for a plan without sensitivity")
    return {"sensitivity": norms(transported(point, point.perturbation, STEPS))}


def one_pass(plan: Plan, k: int) -> int:
    return 1


def no_pass(plan: Plan, k: int) -> int:
    return 0


KRYLOV = frozenset({"krylov"})
L2 = "Euclidean, over all entries of a sample"
L2_EMBEDDING = "Euclidean, over all entries of the embedding"
SPECTRAL = "operator norm, Euclidean to Euclidean"
RANKS = ("rank",)

QUANTITIES: dict[str, Quantity] = {
    "time_derivative": Quantity(
        time_derivative,
        {"time_derivative": Variable("partial derivative of eps in the timestep at fixed x", "1/timestep", L2)},
        one_pass,
    ),
    "time_difference": Quantity(
        time_difference,
        {"time_difference": Variable("K(t, t'): change of eps between two timesteps at fixed x", "1/timestep", L2)},
        one_pass,
    ),
    "trajectory_derivative": Quantity(
        trajectory_derivative,
        {
            "trajectory_derivative": Variable(
                "total derivative of eps along the probability-flow trajectory", "1/timestep", L2
            )
        },
        one_pass,
        of_noise=True,
    ),
    "spectral_norm": Quantity(
        spectral_norm,
        {
            "spectral_norm": Variable("largest singular value of d eps / d x, lower bound", "1", SPECTRAL),
            "spectral_norm_upper": Variable("the same, upper bound at the plan's confidence", "1", SPECTRAL),
            "spectral_norm_steps": Variable("Krylov steps taken", "1", "count"),
        },
        no_pass,
        KRYLOV,
    ),
    "singular_values": Quantity(
        singular_values,
        {
            "singular_values": Variable("leading singular values of d eps / d x, lower bounds", "1", SPECTRAL, RANKS),
            "singular_values_residual": Variable("distance to a true singular value, at most", "1", SPECTRAL, RANKS),
        },
        no_pass,
        KRYLOV,
    ),
    "vectors": Quantity(
        vectors,
        {
            "vector_singular_values": Variable("singular values of the vectors, lower bounds", "1", SPECTRAL, RANKS),
            "vector_residuals": Variable("distance to a true singular value, at most", "1", SPECTRAL, RANKS),
            "right_singular_vectors": Variable("directions in x", "1", "unit length", ("rank", "entry")),
            "left_singular_vectors": Variable("directions in eps", "1", "unit length", ("rank", "entry")),
        },
        lambda plan, k: 2 * k,
        frozenset({"many products"}),
    ),
    "pairs": Quantity(
        pairs,
        {"pair_difference": Variable("|eps(x_t, t) - eps(x_t, t')|, t' along `other`", "1", L2, ("other",))},
        columns,
    ),
    "swap": Quantity(
        swap,
        {"swap_loss": Variable("loss at t of a network told t', along `other`", "1", "mean square", ("other",))},
        columns,
        of_noise=True,
    ),
    "embedding": Quantity(
        embedding,
        {
            "embedding_difference": Variable("change of the embedding of time", "1/timestep", L2_EMBEDDING),
            "embedding_norm": Variable("size of the embedding of time", "1", L2_EMBEDDING),
        },
        lambda plan, k: 2,
    ),
    "one_sided_lipschitz": Quantity(
        one_sided_lipschitz,
        {
            "one_sided_lipschitz": Variable("largest eigenvalue of the symmetric part of d eps / d x", "1", "signed"),
            "denoising_bound": Variable("sigma times it: at most 1 for a true model", "1", "signed"),
        },
        lambda plan, k: 2 * k,
        frozenset({"many products"}),
    ),
    "squared_frobenius_norm": Quantity(
        squared_frobenius_norm,
        {
            "squared_frobenius_norm": Variable(
                "sum of squared singular values of d eps / d x", "1", "Frobenius, squared"
            ),
            "squared_frobenius_norm_standard_error": Variable("its standard error over probes", "1", "standard error"),
        },
        no_pass,
        KRYLOV | {"probes"},
    ),
    "trace": Quantity(
        trace,
        {
            "trace": Variable("trace of d eps / d x (divergence of eps)", "1", "signed"),
            "trace_standard_error": Variable("its standard error over probes", "1", "standard error"),
        },
        no_pass,
        KRYLOV | {"probes"},
    ),
    "asymmetry": Quantity(
        asymmetry,
        {"asymmetry": Variable("|J - J^T| / |J + J^T|: 0 for a true score", "1", "Frobenius, over probes")},
        lambda plan, k: plan.probes + 1,
        KRYLOV | {"probes"},
    ),
    "stein": Quantity(
        stein,
        {
            "stein_product": Variable("<noise, predicted noise>", "1", "inner product"),
            "stein_square": Variable("|predicted noise|^2; mean product / mean square is 1 for a true model", "1", L2),
        },
        no_pass,
        of_noise=True,
    ),
    "loss": Quantity(
        loss,
        {"loss": Variable("squared error of the predicted noise, averaged over entries", "1", "mean square")},
        no_pass,
        of_noise=True,
    ),
    "sensitivity": Quantity(
        sensitivity,
        {
            "sensitivity": Variable(
                f"change of the sample, of DDIM in {STEPS} steps from here, per change of x in a random direction",
                "1",
                L2,
            )
        },
        lambda plan, k: PASSES,
        of_noise=True,
    ),
}

OWNERS = {variable: name for name, quantity in QUANTITIES.items() for variable in quantity.variables}
"""Which quantity fills a variable, so that a plan may ask for either name."""


def recorded(plan: Plan) -> bool:
    """Whether so many products follow that recording the linearization pays."""
    return any(QUANTITIES[name].needs for name in plan.quantities)


def passes(plan: Plan, krylov_steps: int) -> int:
    """The floor: passes through the network that a (draw, timestep) pair needs, in forward passes.

    Every Jacobian product repeats the multiplications of a forward pass, so it counts one; the linearization itself
    is one more.
    """
    asked = [QUANTITIES[name] for name in plan.quantities]
    needs = frozenset[str]().union(*(quantity.needs for quantity in asked))
    shared = 2 * krylov_steps * ("krylov" in needs) + plan.probes * ("probes" in needs)
    return 1 + shared + sum(quantity.passes(plan, krylov_steps) for quantity in asked)


def measure_point(point: Point) -> Values:
    """Every variable of the point's plan, float64, one entry (or a list of ranks) per pair."""
    values: Values = {}
    for name in point.plan.quantities:
        values |= QUANTITIES[name].measure(point)
    return {name: value.detach().double() for name, value in values.items()}
