"""Samples of a model: diffusers' own update rules where diffusers has the schedule, a plain DDIM elsewhere.

The model is always told the time of its own clock; alpha and sigma are those of the true time, so that a shared clock
coarsens what the network is told and never how much noise there is.

Of a table of T betas "ddim" and "ddpm" take the timesteps round(i T / steps), i = steps - 1, ..., 0, as diffusers does
by default where `steps` divides T: the last one is the first of the table, and with few steps the first one stands
clearly below pure noise. "dpm" and "unipc" take round((i + 1) T / steps) - 1, from the very noise on. "euler" takes
equal steps of t, 1 to 0, of the straight schedule. All go from their last time to sigma = 0.

The x0 that is predicted on the way is kept in the range that the model's own files tell (`Predictor.limit`): by "ddim"
and "ddpm" always, by "dpm" and "unipc" where that range is dynamic, as diffusers does, by "euler" never.

References:
    Ho, Jain & Abbeel, Denoising diffusion probabilistic models, 2020. https://arxiv.org/abs/2006.11239
    Song, Meng & Ermon, Denoising diffusion implicit models, 2021. https://arxiv.org/abs/2010.02502
    Lu et al., DPM-Solver++, 2022. https://arxiv.org/abs/2211.01095
    Zhao et al., UniPC, 2023. https://arxiv.org/abs/2302.04867
"""

import copy
import itertools
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.ddim import ddim
from ..diffusion.limit import Clip, Dynamic, Limit
from ..diffusion.parameterization import convert, eps, velocity
from ..diffusion.predictor import Predictor
from ..diffusion.schedule import Schedule, Straight, Table
from ..errors import UsageError, meant

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"set_alpha_to_one": True}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm": ("DPMSolverMultistepScheduler", {"final_sigmas_type": "zero", "timestep_spacing": "trailing"}),
    "unipc": ("UniPCMultistepScheduler", {"final_sigmas_type": "zero", "timestep_spacing": "trailing"}),
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
}
STREAM = 7  # the key of this use of the seed: other random numbers of the same seed have other keys
LARGEST_RATIO = 1e3  # of sigma to alpha, and of alpha to sigma, between which eps and x tell the data


@torch.no_grad()
def sample(
    predictor: Predictor,
    n: int | None = None,
    steps: int = 50,
    seed: int = 0,
    *,
    noise: Float[Tensor, "n *event"] | None = None,
    sampler: str = "ddim",
    batch: int = 256,
    advance: Callable[[int], object] | None = None,
) -> Float[Tensor, "n *event"]:
    """Samples of the model, x0, on the predictor's device and in its dtype.

    Sample i starts from noise that follows from (seed, i) alone: two models start from the same, in any batch size.

    Args:
        predictor: The model.
        n: How many samples; as many as there is `noise`, if that is given.
        steps: Evaluations of the model per sample; for a table of T betas at most T.
        seed: Of the first noise, and of the noise that "ddpm" adds.
        noise: The first noise, standard normal, in place of the seed's.
        sampler: "ddim" (deterministic, first order), "dpm" (DPM-Solver++ 2M, deterministic, second order), "unipc"
            (UniPC, deterministic, second order), "ddpm" (ancestral), or "euler" (flow matching, first order). A
            schedule without a table has "ddim", the straight one also "euler".
        batch: Samples evaluated together.
        advance: Called with the number of evaluations that were made since its last call.

    Raises:
        UsageError: If the schedule has no such sampler, or cannot be cut into so many steps.
    """
    if noise is None:
        if n is None or n < 1:
            raise UsageError(f"got n = {n}: say how many samples to draw, at least 1")
        noise = torch.stack([normal(seed, i, predictor.shape) for i in range(n)])
    if (n is not None and n != len(noise)) or tuple(noise.shape[1:]) != predictor.shape:
        raise UsageError(f"got noise of shape {tuple(noise.shape)} where {n or 'n'} times {predictor.shape} is needed")
    if batch < 1:
        raise UsageError(f"got a batch of {batch}: at least 1 sample is needed")
    require_sampler(predictor.schedule, sampler, steps)
    device, dtype = placement(predictor, noise)
    parts = []
    for first in range(0, len(noise), batch):
        x = noise[first : first + batch].to(device, dtype)
        generators = [torch.Generator().manual_seed(stream(seed, first + i, 1)) for i in range(len(x))]
        if isinstance(predictor.schedule, Table):
            path = by_table(predictor, x, steps, sampler, generators)
        elif sampler == "euler":
            path = by_flow(predictor, x, steps)
        else:
            path = by_schedule(predictor, x, times(predictor, steps))
        for x in path:
            if advance is not None:
                advance(len(x))
        parts.append(x)
    return torch.cat(parts)


def require_sampler(schedule: Schedule, sampler: str, steps: int) -> None:
    """Refuse a sampler that a schedule does not have, or a number of steps that cannot be.

    Raises:
        UsageError: In that case.
    """
    table = isinstance(schedule, Table)
    possible = [name for name in SAMPLERS if name != "euler"] if table else ["ddim"]
    possible += ["euler"] if isinstance(schedule, Straight) else []
    if sampler not in SAMPLERS:
        raise UsageError(
            f"there is no sampler {sampler!r}{meant(sampler, SAMPLERS)}: choose one of {', '.join(SAMPLERS)}"
        )
    if sampler not in possible:
        kind = "a table of betas" if table else f"the schedule {type(schedule).__name__}, which has no table of betas,"
        raise UsageError(f"{sampler} does not fit {kind}: choose {' or '.join(possible)}")
    if steps < 1:
        raise UsageError(f"got {steps} steps: at least 1 is needed")
    if isinstance(schedule, Table) and steps > schedule.timesteps:
        raise UsageError(f"got {steps} steps: the table has {schedule.timesteps} timesteps, so take at most these")


def stream(seed: int, index: int, role: int) -> int:
    """The seed of one sample's generator for one role: 0 the first noise, 1 the noise that is added on the way."""
    sequence = np.random.SeedSequence(seed, spawn_key=(STREAM, index, role))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def normal(seed: int, index: int, shape: tuple[int, ...]) -> Float[Tensor, "*event"]:
    """The standard normal noise that a sample starts from, float64."""
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(stream(seed, index, 0)), dtype=torch.float64, device="cpu"
    )


def placement(predictor: Predictor, noise: Tensor) -> tuple[torch.device, torch.dtype]:
    """The device and dtype of the model's weights, or of the noise for a model without any."""
    for tensor in itertools.chain(predictor.parameters(), predictor.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return noise.device, noise.dtype


def by_table(predictor: Predictor, x: Tensor, steps: int, sampler: str, generators: list[torch.Generator]):
    """The states after each step of one of diffusers' schedulers for tables of betas, from standard normal x."""
    import diffusers

    schedule = predictor.schedule
    assert isinstance(schedule, Table)
    count = schedule.timesteps
    name, options = SAMPLERS[sampler]
    options = options | limited(predictor.limit, clips=sampler in ("ddim", "ddpm"))
    # diffusers multiplies in float32, where 1 - alpha^2 of the first timesteps has lost its digits.
    grid = torch.arange(1, count + 1, dtype=torch.float64, device="cpu") / count
    with torch.device("cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy, at how diffusers turns tensors into arrays
        scheduler: Any = getattr(diffusers, name)(count, trained_betas=schedule.betas.tolist(), **options)
        scheduler.alphas_cumprod = (schedule(grid)[0] ** 2).clamp(min=2**-24)
        if sampler == "ddpm":
            scheduler.set_timesteps(timesteps=leading(count, steps))
        else:
            scheduler.set_timesteps(steps)
        if sampler == "ddim":
            scheduler.timesteps = torch.tensor(leading(count, steps))
    extra = {} if sampler == "unipc" else {"generator": generators}
    for k, after in zip(scheduler.timesteps, [*scheduler.timesteps[1:], -1], strict=True):
        if sampler == "ddim":
            # It takes k - T // steps as the timestep that follows, which holds for equal steps alone. As a fraction,
            # T over the gap at hand, `steps` makes this the timestep that does follow.
            scheduler.num_inference_steps = Fraction(count, int(k - after))
        t = ((k.double() + 1) / count).to(x.device).expand(len(x))
        eps = predictor(scheduler.scale_model_input(x, k), t)
        x = scheduler.step(eps, k, x, **extra).prev_sample.to(x.dtype)
        yield x


def limited(limit: Limit | None, clips: bool) -> dict[str, Any]:
    """A limit as options of one of diffusers' schedulers, of which some do not clip."""
    if isinstance(limit, Dynamic):
        return {"thresholding": True, "dynamic_thresholding_ratio": limit.ratio, "sample_max_value": limit.largest}
    if isinstance(limit, Clip):
        return {"clip_sample": True, "clip_sample_range": limit.largest} if clips else {}
    return {"clip_sample": False} if clips else {}


def leading(count: int, steps: int) -> list[int]:
    """Timesteps i count / steps, rounded, falling to 0."""
    return [round(Fraction(i * count, steps)) for i in reversed(range(steps))]


def by_flow(predictor: Predictor, x: Tensor, steps: int):
    """The states after each of diffusers' Euler steps along the velocity eps - x0, from standard normal x."""
    import diffusers

    name, options = SAMPLERS["euler"]
    scheduler: Any = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(sigmas=[i / steps for i in range(steps, 0, -1)])
    # The network's own words are asked for, and not the noise: at t = 1 the noise, which is x, says nothing of v.
    source = getattr(predictor, "parameterization", eps)
    if source != eps:
        predictor = copy.copy(predictor)
        predictor.parameterization = eps  # type: ignore[assignment]  # and so nothing is converted
    latest = 1.0 if source == velocity else LARGEST_RATIO / (1 + LARGEST_RATIO)
    for i, k in enumerate(scheduler.timesteps):
        t = torch.full((len(x),), min((steps - i) / steps, latest), dtype=torch.float64, device=x.device)
        y = convert(predictor(x, t), x, t, predictor.schedule, source, velocity)
        x = scheduler.step(y, k, x).prev_sample.to(x.dtype)
        yield x


def times(predictor: Predictor, steps: int) -> Float[Tensor, " steps"]:
    """Times from noise to data, equally spaced in the log signal-to-noise ratio."""
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64, device="cpu")
    bound = 2 * float(np.log(LARGEST_RATIO))
    low, high = predictor.schedule.logsnr(ends).clamp(-bound, bound).tolist()
    return predictor.schedule.time(torch.linspace(low, high, steps, dtype=torch.float64, device="cpu"))


def by_schedule(predictor: Predictor, noise: Tensor, grid: Float[Tensor, " steps"]):
    """The states after each step of a plain DDIM that starts at sigma * noise at the first of the times.

    Where the model has a limit, x0 = (x - sigma eps) / alpha is kept in it and x is made anew of both, as diffusers
    does.
    """
    amplitudes = predictor.schedule(grid)
    alphas, sigmas = ([*c.tolist(), end] for c, end in zip(amplitudes, (1.0, 0.0), strict=True))
    x = sigmas[0] * noise
    for i, (t, a, b) in enumerate(zip(grid, *(c.tolist() for c in ddim(*amplitudes)), strict=True)):
        eps = predictor(x, t.to(x.device).expand(len(x)))
        if predictor.limit is None:
            x = a * x + b * eps
        else:
            x = alphas[i + 1] * predictor.limit((x - sigmas[i] * eps) / alphas[i]) + sigmas[i + 1] * eps
        yield x
