"""How a change of x at one timestep is carried to the sample: the sampler's own derivative.

A step of DDIM is x <- a x + b eps(x, t), so a change v of x becomes v <- a v + b J v. From the pair's own time the
sampler takes `STEPS` such steps to the data, and the length of what becomes of a random unit vector is the sensitivity
there. As the steps get shorter, it tends to the derivative of the probability-flow map.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.clock import Clock
from ..diffusion.continuous import Schedule, along
from ..diffusion.ddim import ddim
from ..linalg.linearize import linearize
from .point import Point
from .quantity import L2, Quantity, Values, Variable, norms

STEPS = 20
"""From any timestep to the data; where there are fewer integer timesteps on the way, some stand still."""

PASSES = 2 * STEPS
"""A step is one evaluation and one Jacobian product, both at another x: neither is shared with any quantity."""

LAST_LOGSNR = 2 * math.log(1e3)
"""Where a model of continuous time takes its last step to the data: at sigma / alpha = 1e-3."""


def path(clock: Clock, schedule: Schedule, t: Float[Tensor, " batch"], steps: int) -> Float[Tensor, "steps batch"]:
    """Times at which the sampler evaluates the model, from t on falling towards the data.

    Evenly spaced in integer timesteps for a model of these, and in the log signal-to-noise ratio for the others.

    Args:
        clock: The model's; what it shares is not looked at.
        schedule: The model's.
        t: Where each sampler starts.
        steps: How many evaluations.
    """
    share = torch.arange(steps, dtype=torch.float64, device=t.device)[:, None] / steps
    if clock.discrete:
        left = (clock.base(t) + 1) * (1 - share)
        nodes = clock.base.time(torch.ceil(left - 1e-9) - 1)
    else:
        first = schedule.logsnr(t)
        nodes = schedule.time(first + share * (LAST_LOGSNR - first))
    return torch.cat([t[None], torch.minimum(nodes[1:], t)])


def transported(point: Point, direction: Float[Tensor, "batch n"], steps: int) -> Float[Tensor, "batch *event"]:
    """What the sampler makes of a small change of x along a direction, per unit of it; float64."""
    times = path(point.predictor.clock, point.predictor.schedule, point.t, steps)
    a, b = ddim(*point.predictor.schedule(times))
    x, v = point.x.double(), direction.double().reshape(point.x.shape)
    for t, kept, added in zip(times, a, b, strict=True):
        line = linearize(point.predictor, x.to(point.x.dtype), t, point.methods, record=False)
        product = line.jvp(dx=v.to(point.x.dtype)).double()
        x = along(kept, x) * x + along(added, x) * line.output.double()
        v = along(kept, x) * v + along(added, x) * product
    return v


def sensitivity(point: Point) -> Values:
    return {"sensitivity": norms(transported(point, point.perturbation, STEPS))}


QUANTITIES = {
    "sensitivity": Quantity(
        sensitivity,
        {
            "sensitivity": Variable(
                f"change of the sample, of DDIM in {STEPS} steps from here, per change of x in a random direction",
                "1",
                L2,
            )
        },
        lambda work: PASSES,
        of_noise=True,
    )
}
