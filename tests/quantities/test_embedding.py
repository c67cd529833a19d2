"""The embedding of time, of a network whose embedding is a known linear map of known features."""

import numpy as np
import pytest
import torch
from torch import nn

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.diffusion.clock import Clock, Shared, Timesteps
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear
from lipdiag.errors import CheckpointError

SHAPE = (1, 4, 4)
DATA = np.random.default_rng(0).normal(size=(4, *SHAPE))
TIMES = (0, 19, 20, 300, 999)


class Told(nn.Module):
    """Adds an embedding of log(1 + timestep) to x."""

    def __init__(self, name: str = "time_embed"):
        super().__init__()
        self.name = name
        layer = nn.Linear(1, 3, bias=False)
        layer.weight.data = torch.tensor([[1.0], [2.0], [2.0]])
        setattr(self, name, layer)

    def forward(self, x, timestep):
        e = getattr(self, self.name)(torch.log1p(timestep)[:, None])
        return 0.5 * x + e.mean(1)[:, None, None, None]


def measured(network: nn.Module, clock: Clock, device="cpu"):
    model = NetworkPredictor(network, Linear(), eps, clock, SHAPE)
    plan = Plan(timesteps=TIMES, draws=2, dtype="float64", quantities=("embedding",))
    return lipdiag.measure(model, DATA, plan, progress=False, device=str(device))


def test_speed_and_size_of_a_known_embedding(device):
    run = measured(Told(), Timesteps(), device)
    k = np.array(TIMES, dtype=float)
    other = np.where(k < 999, k + 1, k - 1)
    expected = 3 * np.abs(np.log1p(other) - np.log1p(k))  # |(1, 2, 2)| = 3
    for draw in range(2):
        np.testing.assert_allclose(run["embedding_difference"].values[:, draw], expected, rtol=1e-12)
        np.testing.assert_allclose(run["embedding_norm"].values[:, draw], 3 * np.log1p(k), rtol=1e-12)


def test_a_shared_timestep_is_embedded_as_its_block():
    found = measured(Told(), Shared(Timesteps(), 100, 5))["embedding_difference"].values[:, 0]
    np.testing.assert_allclose(found[:3], [0, 3 * np.log(21), 0], rtol=1e-12)


def test_a_network_without_a_known_embedding_is_refused_in_a_sentence():
    with pytest.raises(CheckpointError, match=r"no module called time_embedding, .* leave quantities='embedding' out"):
        measured(Told("my_own"), Timesteps())


def test_the_speed_is_per_timestep_whatever_the_step():
    model = NetworkPredictor(Told(), Linear(), eps, Timesteps(), SHAPE)
    plan = Plan(timesteps=TIMES, draws=1, dtype="float64", quantities=("embedding",), step=5.0)
    k = np.array(TIMES, dtype=float)
    other = np.where(k < 995, k + 5, k - 5)
    found = lipdiag.measure(model, DATA, plan, progress=False)["embedding_difference"].values[:, 0]
    np.testing.assert_allclose(found, 3 * np.abs(np.log1p(other) - np.log1p(k)) / 5, rtol=1e-12)
