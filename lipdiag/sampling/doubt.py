"""Whether samples of a model are what the model itself takes for data.

Data are what a network was shown while it was trained: noised again only little, it finds more of the noise in them
than a guess that knows nothing but their mean and variance. Samples in which it finds less are no data to it, and so
are those in which it finds hardly more while single entries stand far out of all others, as where sampling diverges:
derivatives at them say nothing of the model at its own data.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.continuous import along
from ..diffusion.predictor import Predictor
from .sampler import placement

LEVEL = 4.0
"""Log-SNR at which they are noised; the highest one of a schedule that ends below."""

FEWEST = 64
"""Entries of which mean and variance are known at all: fewer are not judged."""

NUMBERS = 2048
"""Entries over which errors are averaged at least: small samples are noised several times."""

NO_BETTER, HARDLY_BETTER = 1.05, 0.8
"""Errors over that of the guess: of the best model of normal data, which is the guess itself, it is 1."""

FAR = 8.0
"""Standard deviations from the mean: pictures reach 4, normal numbers 5."""


@torch.no_grad()
def doubt(predictor: Predictor, x0: Float[Tensor, "n *event"], seed: int = 0) -> str:
    """What speaks against samples of a model, in words; empty where nothing does.

    Cost: one evaluation of each sample, for small ones of as many as make `NUMBERS` entries.

    Args:
        predictor: The model.
        x0: A few of its samples, finite.
        seed: Of the noise.
    """
    if x0.numel() < FEWEST:
        return ""
    device, dtype = placement(predictor, x0)
    values = x0.to(device, torch.float64)
    mean, variance = values.mean(), values.var(correction=0)
    reach = float((values - mean).abs().max() / variance.sqrt().clamp_min(1e-300))
    values = values.repeat(-(-NUMBERS // values.numel()), *[1] * (values.ndim - 1))
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)
    clearest = predictor.schedule.logsnr(torch.tensor([1e-3], dtype=torch.float64, device="cpu")).clamp_max(LEVEL)
    t = predictor.schedule.time(clearest).to(device).expand(len(values))
    alpha, sigma = (along(c, values) for c in predictor.schedule(t))
    x = alpha * values + sigma * noise
    guess = sigma * (x - alpha * mean) / (alpha**2 * variance + sigma**2)
    own, guessed = ((said - noise).square().mean() for said in (predictor(x.to(dtype), t).double(), guess))
    ratio = float(own / guessed)
    if ratio <= HARDLY_BETTER or (ratio <= NO_BETTER and reach <= FAR):
        return ""
    spread = f"standard deviation {variance.sqrt():.3g}, from {x0.min():.3g} to {x0.max():.3g}"
    return (
        f"noised again to a log-SNR of {clearest.item():.3g}, the model errs {ratio:.3g} times as much on them as a "
        f"guess from their mean and variance ({spread})"
    )
