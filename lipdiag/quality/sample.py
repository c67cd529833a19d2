"""Samples of a model: diffusers' own update rules where diffusers has the schedule, a plain DDIM elsewhere.

DDIM follows the probability-flow trajectory of x = alpha x0 + sigma eps. In x / alpha it reads

    d(x / alpha) = eps(x, t) d(sigma / alpha),

and one explicit Euler step of it, eps held fixed, is the rule of DDIM: first order in the step. The last step goes to
sigma = 0. The model is always told the time of its own clock; alpha and sigma are those of the true time, so that a
shared clock coarsens what the network is told and never how much noise there is.

References:
    Song, Meng & Ermon, Denoising diffusion implicit models, 2021. https://arxiv.org/abs/2010.02502
"""

import itertools
import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lipdiag.diffusion.predictor import Predictor
from lipdiag.diffusion.schedule import Table
from lipdiag.errors import UsageError

# With `leading` spacing DDIM and DDPM never begin where alpha = 0.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "leading"}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "timestep_spacing": "leading"}),
    "dpm": ("DPMSolverMultistepScheduler", {"final_sigmas_type": "zero", "timestep_spacing": "trailing"}),
}
STREAM = 7  # the key of this use of the seed: other random numbers of the same seed have other keys
LARGEST_RATIO = 1e3  # of sigma to alpha, and of alpha to sigma, between which the plain DDIM steps


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
) -> Float[Tensor, "n *event"]:
    """Samples of the model, x0, on the predictor's device and in its dtype.

    Sample i starts from noise that follows from (seed, i) alone: two models start from the same, in any batch size.

    Args:
        predictor: The model.
        n: How many samples; as many as there is `noise`, if that is given.
        steps: Evaluations of the model per sample; for a table of T betas a divisor of T.
        seed: Of the first noise, and of the noise that "ddpm" adds.
        noise: The first noise, standard normal, in place of the seed's.
        sampler: "ddim" (deterministic, first order), "dpm" (DPM-Solver++, deterministic, second order) or "ddpm"
            (ancestral); a schedule without a table has "ddim" alone.
        batch: Samples evaluated together.

    Raises:
        UsageError: If the schedule has no such sampler, or cannot be cut into so many steps.
    """
    if noise is None:
        if n is None or n < 1:
            raise UsageError(f"Got n = {n}: say how many samples to draw, at least 1.")
        noise = torch.stack([normal(seed, i, predictor.shape) for i in range(n)])
    if (n is not None and n != len(noise)) or tuple(noise.shape[1:]) != predictor.shape:
        raise UsageError(f"Got noise of shape {tuple(noise.shape)} where {n or 'n'} times {predictor.shape} is needed.")
    if sampler not in SAMPLERS:
        raise UsageError(f"There is no sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}.")
    if not isinstance(predictor.schedule, Table) and sampler != "ddim":
        raise UsageError(f"{sampler} needs a schedule with a table of betas: use ddim for this one.")
    if steps < 1:
        raise UsageError(f"Got {steps} steps: at least 1 is needed.")
    device, dtype = placement(predictor, noise)
    parts = []
    for first in range(0, len(noise), batch):
        x = noise[first : first + batch].to(device, dtype)
        if isinstance(predictor.schedule, Table):
            parts.append(by_diffusers(predictor, x, steps, sampler, seed, first))
        else:
            parts.append(ddim(predictor, x, times(predictor, steps)))
    return torch.cat(parts)


def stream(seed: int, index: int, role: int) -> int:
    """The seed of one sample's generator for one role: 0 the first noise, 1 the noise that is added on the way."""
    sequence = np.random.SeedSequence(seed, spawn_key=(STREAM, index, role))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def normal(seed: int, index: int, shape: tuple[int, ...]) -> Float[Tensor, "*event"]:
    """The standard normal noise that a sample starts from, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(stream(seed, index, 0)), dtype=torch.float64)


def placement(predictor: Predictor, noise: Tensor) -> tuple[torch.device, torch.dtype]:
    """The device and dtype of the model's weights, or of the noise for a model without any."""
    for tensor in itertools.chain(predictor.parameters(), predictor.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return noise.device, noise.dtype


def by_diffusers(
    predictor: Predictor, x: Float[Tensor, "batch *event"], steps: int, sampler: str, seed: int, first: int
) -> Float[Tensor, "batch *event"]:
    """Samples by one of diffusers' schedulers, from standard normal x; `first` counts the samples before these."""
    import diffusers

    schedule = predictor.schedule
    assert isinstance(schedule, Table)
    count = schedule.timesteps
    if count % steps:
        raise UsageError(f"Got {steps} steps for a table of {count}: choose a divisor of {count}, for equal steps.")
    name, options = SAMPLERS[sampler]
    betas = schedule.betas.tolist()
    scheduler: Any = getattr(diffusers, name)(count, trained_betas=betas, **options)
    # diffusers multiplies in float32, where 1 - alpha^2 of the first timesteps has lost its digits.
    grid = torch.arange(1, count + 1, dtype=torch.float64) / count
    scheduler.alphas_cumprod = (schedule(grid)[0] ** 2).clamp(min=2**-24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy, at how diffusers turns tensors into arrays
        scheduler.set_timesteps(steps)
    generators = [torch.Generator().manual_seed(stream(seed, first + i, 1)) for i in range(len(x))]
    for k in scheduler.timesteps:
        t = ((k.double() + 1) / count).to(x.device).expand(len(x))
        eps = predictor(scheduler.scale_model_input(x, k), t)
        x = scheduler.step(eps, k, x, generator=generators).prev_sample.to(x.dtype)
    return x


def times(predictor: Predictor, steps: int) -> Float[Tensor, " steps"]:
    """Times from noise to data, equally spaced in the log signal-to-noise ratio."""
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    bound = 2 * float(np.log(LARGEST_RATIO))
    low, high = predictor.schedule.logsnr(ends).clamp(-bound, bound).tolist()
    return predictor.schedule.time(torch.linspace(low, high, steps, dtype=torch.float64))


def ddim(
    predictor: Predictor, noise: Float[Tensor, "batch *event"], grid: Float[Tensor, " steps"]
) -> Float[Tensor, "batch *event"]:
    """The end of the trajectory that starts at sigma * noise at the first of the times, one evaluation at each."""
    alphas, sigmas = (c.tolist() for c in predictor.schedule(grid))
    x = sigmas[0] * noise
    for i, t in enumerate(grid):
        eps = predictor(x, t.to(x.device).expand(len(x)))
        alpha, sigma = (alphas[i + 1], sigmas[i + 1]) if i + 1 < len(grid) else (1.0, 0.0)
        x = alpha / alphas[i] * x + (sigma - alpha * sigmas[i] / alphas[i]) * eps
    return x
