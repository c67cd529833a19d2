"""Every estimator against every closed form: what an installation's numbers are worth, in seconds.

Deterministic quantities are compared in float64 with the closed forms of `diffusion.exact` down to t = 1e-6, relative
to the largest value among the pairs; Krylov methods go to full depth, where they are exact. Stochastic ones are
compared in units of the standard error that they report.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .diffusion.clock import Unit
from .diffusion.exact import Empirical, Gaussian, GaussianMixture
from .diffusion.schedule import VP, Cosine, Schedule, Straight
from .quantities.accuracy import Accuracy
from .quantities.catalogue import measure_point
from .quantities.flow import flow_velocity
from .quantities.point import Point
from .quantities.quantity import norms

TIMES = (1e-6, 1e-4, 1e-2, 0.3, 0.9)
DIMENSION = 6
EXACT = 1e-10
STANDARD_ERRORS = 4.0


class Row(NamedTuple):
    """One comparison: the largest error, and what is allowed."""

    quantity: str
    truth: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed


def models(schedule: Schedule) -> Iterator[tuple[str, Gaussian | GaussianMixture | Empirical]]:
    """The closed forms, in a few dimensions, at any scale a data set may have."""
    g = torch.Generator().manual_seed(1)
    d = DIMENSION

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    square = normal(d, d)
    yield "diagonal Gaussian", Gaussian(normal(d), torch.logspace(-3, 0, d, dtype=torch.float64), schedule, Unit())
    yield "Gaussian", Gaussian(normal(d), square @ square.T / d, schedule, Unit())
    squares = normal(3, d, d)
    covariances = squares @ squares.mT / d + 0.01 * torch.eye(d, dtype=torch.float64)
    yield (
        "Gaussian mixture",
        GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), 2 * normal(3, d), covariances, schedule, Unit()),
    )
    yield "points", Empirical(normal(20, d), schedule, Unit())


def point(model: Gaussian | GaussianMixture | Empirical, draws: int = 8) -> Point:
    """A model at all TIMES, at samples of its own law."""
    g = torch.Generator().manual_seed(2)
    t = torch.tensor(TIMES, dtype=torch.float64).repeat_interleave(draws)
    alpha, sigma = (s[:, None] for s in model.schedule(t))
    noise = torch.randn(len(t), DIMENSION, generator=g, dtype=torch.float64)
    x = alpha * model.draw(len(t), g) + sigma * noise
    start = torch.randn(len(t), DIMENSION, generator=g, dtype=torch.float64)
    probes = torch.randint(0, 2, (8, len(t), DIMENSION), generator=g).double() * 2 - 1
    accuracy = Accuracy(step=1e-3, certified_width=1e-12, krylov_steps=DIMENSION, ranks=DIMENSION, probes=8)
    group = torch.arange(len(TIMES)).repeat_interleave(draws)
    drawn = {"start": start / start.norm(dim=1, keepdim=True), "probes": probes}.__getitem__
    rate = torch.ones_like(t)
    return Point(model, accuracy, t, t, rate, x, noise, drawn, group, quantities=QUANTITIES, count=DIMENSION)


def truths(model: Gaussian | GaussianMixture | Empirical, at: Point) -> dict[str, Tensor]:
    """Each quantity from the closed forms alone: dense Jacobian, partial derivative, formula at both times."""
    J = model.jacobian(at.x, at.t)
    partial = model.time_derivative(at.x, at.t)
    exact_eps = model(at.x, at.t)
    total = partial + (J @ flow_velocity(at)[..., None])[..., 0]
    values = torch.linalg.svdvals(J)
    symmetric = torch.linalg.eigvalsh((J + J.mT) / 2)[:, -1]
    return {
        "time_derivative": norms(partial),
        "time_difference": norms(model(at.x, at.t + 1e-3) - exact_eps) / 1e-3,
        "trajectory_derivative": norms(total),
        "spectral_norm": values[:, 0],
        "singular_values": values,
        "one_sided_lipschitz": symmetric,
        "squared_frobenius_norm": J.square().sum((1, 2)),
        "trace": J.diagonal(dim1=1, dim2=2).sum(1),
    }


SCHEDULES: dict[str, Callable[[], Schedule]] = {"vp": VP, "cosine": Cosine, "straight": Straight}
QUANTITIES = (
    "time_derivative",
    "time_difference",
    "trajectory_derivative",
    "spectral_norm",
    "singular_values",
    "one_sided_lipschitz",
    "squared_frobenius_norm",
    "trace",
)


def selftest() -> Iterator[Row]:
    """Compare every quantity with every closed form, the worst case over the schedules; see the module."""
    worst: dict[tuple[str, str], Row] = {}
    for schedule in SCHEDULES.values():
        for name, model in models(schedule()):
            for row in compare(name, model):
                key = (row.quantity, row.truth)
                if key not in worst or row.error > worst[key].error:
                    worst[key] = row
    yield from (worst[key] for key in sorted(worst, key=lambda key: QUANTITIES.index(key[0])))


def compare(name: str, model: Gaussian | GaussianMixture | Empirical) -> Iterator[Row]:
    """Every quantity of one model against its closed form."""
    at = point(model)
    found, true = measure_point(at), truths(model, at)
    for quantity, value in true.items():
        error = found[quantity] - value
        reported = found.get(f"{quantity}_standard_error")
        if reported is None:
            # total derivatives cancel where the data are points: the largest term is the partial one
            term = torch.maximum(value, true["time_derivative"]) if quantity == "trajectory_derivative" else value
            scale = by_time(term.abs()).amax(1)
            yield Row(quantity, name, float((by_time(error.abs()).amax(1) / scale).max()), EXACT)
        else:
            # summed over the draws of a timestep; a multiple of the identity has no spread, rounding is allowed for
            spread = by_time(reported).square().sum(1).sqrt() + 1e-12 * by_time(value.abs()).sum(1)
            yield Row(quantity, name, float((by_time(error).sum(1).abs() / spread).max()), STANDARD_ERRORS)


def by_time(values: Tensor) -> Tensor:
    """One row a time."""
    return values.reshape(len(TIMES), -1)
