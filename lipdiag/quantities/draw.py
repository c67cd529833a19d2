"""Common random numbers: what is random in a study, and where it comes from.

Every random vector is drawn on its own from a counter-based generator keyed by (seed, role, draw), never by the
timestep or the model, on the CPU, in the sample's full shape. So the same draw has the same data, noise and random
directions at every timestep, for every model, in whatever order, batch or process it is measured.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

ROLES = {"data": 0, "noise": 1, "start": 2, "probe": 3, "model_sample": 4, "perturbation": 5}
"""Append only: a number here is part of every stored result."""


def generator(seed: int, role: str, *key: int) -> np.random.Generator:
    """A stream of its own for each (seed, role, key)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(ROLES[role], *key))))


def data_index(seed: int, draw: int, size: int) -> int:
    """Which of `size` data the draw takes: uniform, with replacement."""
    return int(generator(seed, "data", draw).integers(size))


def noise(seed: int, draw: int, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Standard normal noise of one draw, float64."""
    return torch.from_numpy(generator(seed, "noise", draw).standard_normal(shape))


def direction(seed: int, role: str, draw: int, size: int) -> Float[Tensor, " size"]:
    """A direction uniform on the unit sphere: the `start` of a Krylov space, or a `perturbation` of x."""
    v = torch.from_numpy(generator(seed, role, draw).standard_normal(size))
    return v / v.norm()


def probes(seed: int, draw: int, count: int, size: int) -> Float[Tensor, "count size"]:
    """Rademacher vectors of one draw; growing `count` keeps the first ones."""
    signs = [generator(seed, "probe", draw, k).integers(0, 2, size) for k in range(count)]
    return torch.from_numpy(np.stack(signs) * 2.0 - 1.0)
