"""How far a model's output moves from one timestep to the next, on draws that stay the same: the paper's quotient.

K(k, k + 1) = mean over x of ||eps(x, k) - eps(x, k + 1)||, x drawn at k, and the squared error of eps(x, k) beside it,
which costs nothing more. Of a model whose time is no index, a timestep is a thousandth of t.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.dataset import Data
from ..diffusion.continuous import along
from ..diffusion.predictor import Predictor

TIMESTEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 900)
DRAWS = 256
TOGETHER = 2**22
"""Numbers of x that are evaluated at once."""


class Difference(NamedTuple):
    """What is seen at one timestep.

    Attributes:
        timestep: The index k.
        time_difference: K(k, k + 1), the mean over draws of data and noise at k.
        standard_error: Its own, over draws alone.
        loss: Squared error of the predicted noise, averaged over entries and draws.
        loss_standard_error: Its own, over draws alone.
    """

    timestep: int
    time_difference: float
    standard_error: float
    loss: float
    loss_standard_error: float


def differences(
    predictor: Predictor, data: Data, draws: int = DRAWS, timesteps: Sequence[int] = TIMESTEPS, seed: int = 0
) -> Iterator[Difference]:
    """K and the loss at some timesteps and at the edges of shared blocks.

    Two models, or steps of a training, share the draws of a seed, and their means err together.

    Cost: two evaluations of the model on `draws` samples, a timestep.
    """
    x0, noise = drawn(data, draws, seed)
    for k in looks(predictor, timesteps):
        yield difference(predictor, x0, noise, k)


def looks(predictor: Predictor, timesteps: Sequence[int] = TIMESTEPS) -> list[int]:
    """The timesteps that there are, of those asked for, and the edges of shared blocks."""
    return sorted({k for k in (*timesteps, *edges(predictor)) if k < count(predictor) - 1})


def edges(predictor: Predictor) -> list[int]:
    """The last timestep of each shared block, where timesteps are counted."""
    if not predictor.clock.base.discrete:
        return []
    return [int(edge) - 1 for edge in getattr(predictor.clock, "bounds", ()) if edge > 0]


def count(predictor: Predictor) -> int:
    """How many timesteps there are between the data and the noise."""
    return getattr(predictor.clock.base, "count", 1000)


def drawn(data: Data, draws: int, seed: int = 0) -> tuple[Float[Tensor, "draw *event"], Float[Tensor, "draw *event"]]:
    """Data and noise, the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(len(data), (draws,), generator=generator, device="cpu")
    x0 = torch.stack([data[index] for index in indices.tolist()])
    return x0, torch.randn(x0.shape, generator=generator, device="cpu")


@torch.no_grad()
def difference(
    predictor: Predictor, x0: Float[Tensor, "draw *event"], noise: Float[Tensor, "draw *event"], k: int
) -> Difference:
    """K(k, k + 1) and the loss at k on these draws of data and noise."""
    now, then = ((step + 1) / count(predictor) for step in (k, k + 1))
    device: torch.device | str = next((weight.device for weight in predictor.parameters()), torch.device("cpu"))
    norms, errors = [], []
    size = max(1, TOGETHER // x0[0].numel())
    for x, z in zip(x0.split(size), noise.split(size), strict=True):
        at, after = (torch.full((len(x),), time, dtype=torch.float64, device="cpu") for time in (now, then))
        alpha, sigma = (along(c, x).to(x.dtype) for c in predictor.schedule(at))
        x, z = (alpha * x + sigma * z).to(device), z.to(device)
        eps = predictor(x, at.to(device))
        norms.append((predictor(x, after.to(device)) - eps).flatten(1).norm(dim=1).double())
        errors.append((eps - z).flatten(1).square().mean(1).double())
    moved, missed = torch.cat(norms), torch.cat(errors)
    root = math.sqrt(len(moved))
    numbers = (moved.mean(), moved.std() / root, missed.mean(), missed.std() / root)
    return Difference(k, *(value.item() for value in numbers))
