"""The points of a plan: each timestep by each draw, with common random numbers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..diffusion.continuous import along, slope
from ..diffusion.predictor import NetworkPredictor, Predictor, RawOutput, device_of
from ..quantities import draw
from ..quantities.catalogue import needs
from ..quantities.modules import listed
from ..quantities.point import Point
from .plan import Plan, resolve_timesteps


def ends(timesteps: np.ndarray, most: int = 4) -> list[float]:
    """So many timesteps from the first to the last, or all of fewer."""
    last = len(timesteps) - 1
    return list(timesteps[np.linspace(0, last, min(last + 1, most)).round().astype(int)].tolist())


def informed(
    predictor: Predictor,
    told: Callable[[int], Mapping[str, Tensor]] | None,
    draws: Sequence[int],
    dtype: torch.dtype,
    times: int = 1,
) -> Predictor:
    """The predictor, told what goes with each of these draws, as often over as there are times."""
    if told is None or not isinstance(predictor, NetworkPredictor | RawOutput):
        return predictor
    each, home = [told(i) for i in draws], device_of(predictor)
    stacked = {name: torch.stack([of[name] for of in each] * times) for name in each[0]}
    return predictor.told({k: v.to(home, dtype if v.is_floating_point() else None) for k, v in stacked.items()})


def points(
    predictor: Predictor,
    plan: Plan,
    sample: Callable[[int], Tensor],
    timesteps: Sequence[float],
    draws: range,
    record: bool = True,
    told: Callable[[int], Mapping[str, Tensor]] | None = None,
) -> Point:
    """The point of all given timesteps by all given draws, timestep-major.

    Args:
        predictor: The model, already in eval mode.
        plan: Seeds and accuracy.
        sample: Draw number -> x0.
        timesteps: In the model's own unit.
        draws: Draw numbers.
        record: Whether enough products will follow to pay for recording them.
        told: Draw number -> what a network is told with it, by its keywords.
    """
    inside = listed(predictor) if {"modules", "modules_x"} & set(plan.quantities) else ()
    device = next((p.device for p in [*predictor.parameters(), *predictor.buffers()]), torch.device("cpu"))
    times, number, n = len(timesteps), len(draws), 1
    x0 = torch.stack([sample(i).double() for i in draws])
    noise = torch.stack([draw.noise(plan.seed, i, predictor.shape) for i in draws])
    n = noise[0].numel()
    start = torch.stack([draw.start(plan.seed, i, n) for i in draws])
    probes = torch.stack([draw.probes(plan.seed, i, plan.probes, n) for i in draws], 1)

    perturbation = None
    if "perturbation" in needs(plan.quantities):
        drawn = torch.stack([draw.perturbation(plan.seed, i, n) for i in draws])
        perturbation = drawn.repeat(times, 1).to(device)

    timestep = torch.tensor(timesteps, dtype=torch.float64).repeat_interleave(number)
    t = predictor.clock.base.time(timestep)
    clock_rate = slope(predictor.clock.base, t)
    alpha, sigma = predictor.schedule(t)
    x0, noise = (z.repeat(times, *[1] * len(predictor.shape)) for z in (x0, noise))
    x = along(alpha, x0) * x0 + along(sigma, x0) * noise

    def place(z: Tensor) -> Tensor:
        return z.to(device, plan.torch_dtype)

    return Point(
        predictor=informed(predictor, told, draws, plan.torch_dtype, times),
        accuracy=plan.accuracy,
        t=t.to(device),
        timestep=timestep.to(device),
        rate=(1 / clock_rate).to(device),
        x=place(x),
        noise=place(noise),
        start=start.repeat(times, 1).to(device),
        probes=probes.repeat(1, times, 1).to(device),
        record=record,
        perturbation=perturbation,
        quantities=plan.quantities,
        columns=tuple(resolve_timesteps(plan.timesteps, predictor.clock, predictor.schedule).tolist()),
        modules=inside,
        count=plan.ranks if "ranks" in needs(plan.quantities) else 1,
    )
