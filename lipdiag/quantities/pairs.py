"""Every timestep against every other: what the network answers at x_t when it is told t' instead of t.

Both quantities fill a row of a matrix for each (draw, t): its columns are the plan's own timesteps, in the dataset's
dimension `other`. Cost: a forward pass a column.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from .point import Point
from .quantity import L2, Quantity, Variable

Rows = Float[Tensor, "batch other"]


def others(point: Point) -> Iterator[Tensor]:
    """Each of the plan's timesteps in turn, one copy a pair."""
    for timestep in point.columns:
        yield torch.full_like(point.timestep, timestep)


@torch.no_grad()
def pairs(point: Point) -> dict[str, Rows]:
    """|eps(x_t, t) - eps(x_t, t')|_2, undivided, so that it is exactly 0 where t' = t."""
    clock, here = point.predictor.clock, point.eps.flatten(1).double()
    rows = []
    for other in others(point):
        there = torch.where(other == point.timestep, point.t, clock.base.time(other))
        rows.append((point.predictor(point.x, there).flatten(1).double() - here).norm(dim=1))
    return {"pair_difference": torch.stack(rows, 1)}


@torch.no_grad()
def swap(point: Point) -> dict[str, Rows]:
    """Squared error against the true noise, averaged over entries, of a network that is told t' at noise level t."""
    clock, truth, rows = point.predictor.clock, point.noise.flatten(1).double(), []
    for other in others(point):
        told = clock(clock.base.time(other))
        eps = point.predictor.conditioned(point.x, point.t, told).flatten(1).double()
        rows.append((eps - truth).square().mean(1))
    return {"swap_loss": torch.stack(rows, 1)}


QUANTITIES = {
    "pairs": Quantity(
        pairs,
        {"pair_difference": Variable("|eps(x_t, t) - eps(x_t, t')|, t' along `other`", "1", L2, ("other",))},
        lambda work: work.times,
    ),
    "swap": Quantity(
        swap,
        {"swap_loss": Variable("loss at t of a network told t', along `other`", "1", "mean square", ("other",))},
        lambda work: work.times,
        of_noise=True,
    ),
}
