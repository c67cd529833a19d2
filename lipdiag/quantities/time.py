"""How fast the prediction changes with the timestep: at a fixed x, between two times, along the sampler's path."""

from typing import Any

import torch
from torch import Tensor

from ..diffusion.clock import Clock
from ..diffusion.continuous import along
from .accuracy import Accuracy
from .flow import flow_velocity
from .point import Point
from .quantity import L2, Quantity, Values, Variable, norms


def time_derivative(point: Point) -> Values:
    return {"time_derivative": norms(point.linearization.jvp(dt=point.rate))}


def other_time(clock: Clock, timestep: Tensor, step: float | None) -> Tensor:
    """The second time of the difference quotient: one step later, or earlier where that would leave [0, 1]."""
    if step is None and not clock.discrete:
        t = clock.base.time(timestep)
        after = clock.base((t + 1e-3).clamp(max=1))  # a log-SNR may end in infinity, which no network is told
        return torch.where((t + 1e-3 <= 1) & after.isfinite(), after, clock.base(t - 1e-3))
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
    other = other_time(clock, point.timestep, point.accuracy.step)
    changed = point.predictor(point.x, clock.base.time(other)).double() - point.eps.double()
    return {"time_difference": norms(changed) / (other - point.timestep).abs()}


def step_taken(clock: Clock, accuracy: Accuracy, timestep: Tensor) -> dict[str, Any]:
    """The distance of the quotient's two times, at the first timestep; the same everywhere for an index."""
    return {"step": (other_time(clock, timestep, accuracy.step) - timestep).abs().item()}


def trajectory_derivative(point: Point) -> Values:
    dx = (flow_velocity(point) * along(point.rate, point.x)).to(point.x.dtype)
    return {"trajectory_derivative": norms(point.linearization.jvp(dx=dx, dt=point.rate))}


QUANTITIES = {
    "time_derivative": Quantity(
        time_derivative,
        {"time_derivative": Variable("partial derivative of eps in the timestep at fixed x", "1/timestep", L2)},
        lambda work: 1,
    ),
    "time_difference": Quantity(
        time_difference,
        {
            "time_difference": Variable(
                "K(t, t'): change of eps between two timesteps at fixed x", "1/timestep", L2, facts=step_taken
            )
        },
        lambda work: 1,
    ),
    "trajectory_derivative": Quantity(
        trajectory_derivative,
        {
            "trajectory_derivative": Variable(
                "total derivative of eps along the probability-flow trajectory", "1/timestep", L2
            )
        },
        lambda work: 1,
        of_noise=True,
    ),
}
