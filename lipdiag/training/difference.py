"""How far a model's output moves from one timestep to the next, on draws that stay the same: the paper's quotient.

K(k, k + 1) = mean over x of ||eps(x, k) - eps(x, k + 1)||, x drawn at k. Of a model whose time is no index, a timestep
is a thousandth of t.
"""

import math
from collections.abc import Iterator

import torch

from ..data.dataset import Data
from ..diffusion.continuous import along
from ..diffusion.predictor import Predictor

TIMESTEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 900)
DRAWS = 256


def differences(predictor: Predictor, data: Data, draws: int = DRAWS) -> Iterator[tuple[int, float, float]]:
    """(k, K(k, k + 1), its standard error) at some timesteps and at the edges of shared blocks."""
    for k in sorted({k for k in (*TIMESTEPS, *edges(predictor)) if k < count(predictor) - 1}):
        yield k, *difference(predictor, data, k, draws)


def edges(predictor: Predictor) -> list[int]:
    """The last timestep of each shared block, where timesteps are counted."""
    if not predictor.clock.base.discrete:
        return []
    return [int(edge) - 1 for edge in getattr(predictor.clock, "bounds", ()) if edge > 0]


def count(predictor: Predictor) -> int:
    """How many timesteps there are between the data and the noise."""
    return getattr(predictor.clock.base, "count", 1000)


@torch.no_grad()
def difference(predictor: Predictor, data: Data, k: int, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """K(k, k + 1), the mean over draws of data and noise at k, and its standard error.

    Seen over draws alone: two models, or steps of a training, share the draws of a seed, and their means err together.
    Cost: two evaluations of the model on `draws` samples.
    """
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(len(data), (draws,), generator=generator)
    x0 = torch.stack([data[index] for index in indices.tolist()])
    noise = torch.randn(x0.shape, generator=generator)
    now, then = (torch.full((draws,), (step + 1) / count(predictor), dtype=torch.float64) for step in (k, k + 1))
    alpha, sigma = (along(c, x0).to(x0.dtype) for c in predictor.schedule(now))
    x = alpha * x0 + sigma * noise
    device: torch.device | str = next((weight.device for weight in predictor.parameters()), torch.device("cpu"))
    x, now, then = x.to(device), now.to(device), then.to(device)
    norms = (predictor(x, then) - predictor(x, now)).flatten(1).norm(dim=1).double()
    return norms.mean().item(), norms.std().item() / math.sqrt(draws)
