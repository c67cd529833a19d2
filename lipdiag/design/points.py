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

Make = Callable[[str, int], Tensor]
"""What is random or sampled of a draw: its role ("x0", "noise", "start", "perturbation" or "probes"), its number."""

Rows = Callable[[Make, str, Sequence[int], torch.device], Tensor]
"""What is made of several draws, one row each, on a device."""


def rows(make: Make, role: str, draws: Sequence[int], device: torch.device) -> Tensor:
    """What is made of several draws where it is asked for."""
    return torch.stack([make(role, i) for i in draws]).to(device)


def ends(timesteps: np.ndarray, most: int = 4) -> list[float]:
    """So many timesteps from the first to the last, or all of fewer."""
    last = len(timesteps) - 1
    return list(timesteps[np.linspace(0, last, min(last + 1, most)).round().astype(int)].tolist())


def informed(
    predictor: Predictor, told: Callable[[int], Mapping[str, Tensor]] | None, draws: Sequence[int], dtype: torch.dtype
) -> Predictor:
    """The predictor, told for each sample what goes with its draw."""
    if told is None or not isinstance(predictor, NetworkPredictor | RawOutput):
        return predictor
    each, home = {i: told(i) for i in dict.fromkeys(draws)}, device_of(predictor)
    stacked = {name: torch.stack([each[i][name] for i in draws]) for name in each[draws[0]]}
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
    """The point of all given timesteps by all given draws, timestep-major; see `joined`."""
    return joined(predictor, plan, sample, [(timesteps, draws)], record, told)


def joined(
    predictor: Predictor,
    plan: Plan,
    sample: Callable[[int], Tensor],
    blocks: Sequence[tuple[Sequence[float], range]],
    record: bool = True,
    told: Callable[[int], Mapping[str, Tensor]] | None = None,
    rows: Rows = rows,
) -> Point:
    """The point of several blocks, each of all its timesteps by all its draws, timestep-major.

    What is random is drawn once a draw, on the processor, and spread over the timesteps on the device.

    Args:
        predictor: The model, already in eval mode.
        plan: Seeds and accuracy.
        sample: Draw number -> x0.
        blocks: Timesteps in the model's own unit and draw numbers of each; their estimates are pooled by themselves.
        record: Whether enough products will follow to pay for recording them.
        told: Draw number -> what a network is told with it, by its keywords.
        rows: Has what is random made; see `study.ahead`.
    """
    pairs = [(k, i, b) for b, (timesteps, draws) in enumerate(blocks) for k in timesteps for i in draws]
    each = sorted({i for _, i, _ in pairs})
    inside = listed(predictor) if {"modules", "modules_x"} & set(plan.quantities) else ()
    across: tuple[float, ...] = ()
    if {"pairs", "swap"} & set(plan.quantities):
        across = tuple(resolve_timesteps(plan.timesteps, predictor.clock, predictor.schedule).tolist())
    device, shape = device_of(predictor), predictor.shape
    n = int(np.prod(shape))
    groups = {place: number for number, place in enumerate(dict.fromkeys((b, k) for k, _, b in pairs))}
    places = [[each.index(i), groups[b, k]] for k, i, b in pairs]
    which, group = torch.tensor(places, device="cpu").to(device).unbind(1)

    def make(role: str, i: int) -> Tensor:
        if role == "x0":
            return sample(i).double()
        if role == "noise":
            return draw.noise(plan.seed, i, shape)
        if role == "probes":
            return draw.probes(plan.seed, i, plan.probes, n)
        return draw.direction(plan.seed, role, i, n)

    def drawn(role: str) -> Tensor:
        spread = rows(make, role, each, device)[which]
        return spread.transpose(0, 1).contiguous() if role == "probes" else spread

    timestep = torch.tensor([k for k, _, _ in pairs], dtype=torch.float64, device="cpu")
    t = predictor.clock.base.time(timestep)
    numbers = t, timestep, 1 / slope(predictor.clock.base, t), *predictor.schedule(t)
    t, timestep, rate, alpha, sigma = torch.stack(numbers).to(device)
    x0, noise = drawn("x0"), drawn("noise")
    return Point(
        predictor=informed(predictor, told, [i for _, i, _ in pairs], plan.torch_dtype),
        accuracy=plan.accuracy,
        t=t,
        timestep=timestep,
        rate=rate,
        x=(along(alpha, x0) * x0 + along(sigma, x0) * noise).to(plan.torch_dtype),
        noise=noise.to(plan.torch_dtype),
        drawn=drawn,
        group=group,
        block=torch.tensor([b for _, _, b in pairs], device="cpu"),
        record=record,
        quantities=plan.quantities,
        columns=across,
        modules=inside,
        count=plan.accuracy.kept(n) if "ranks" in needs(plan.quantities) else 1,
    )
