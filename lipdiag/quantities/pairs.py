"""Every timestep against every other: what the network answers at x_t when it is told t' instead of t.

Both quantities fill a row of a matrix for each (draw, t): its columns are the plan's own timesteps, in the dataset's
dimension `other`. Cost: a forward pass a column.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.clock import Unit
from ..study.plan import Plan, _read, resolve_timesteps
from .point import Point

Rows = Float[Tensor, "batch other"]


def columns(plan: Plan, krylov_steps: int = 0) -> int:
    """How many timesteps the plan has, and with it the price of a row in forward passes."""
    return len(plan.timesteps) if not isinstance(plan.timesteps, str) else _read(plan.timesteps, Unit()).size


def others(point: Point) -> Iterator[Tensor]:
    """Each of the plan's timesteps in turn, one copy a pair."""
    for timestep in resolve_timesteps(point.plan.timesteps, point.predictor.clock).tolist():
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
