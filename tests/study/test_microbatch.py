"""Micro-batches put together again, and how much memory one takes, told beforehand."""

import numpy as np
import pytest
import torch
from torch import nn

from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear
from lipdiag.study.microbatch import KEPT, PASSING, in_batches, memory, pass_bytes


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 100])
def test_every_pair_is_measured_once_and_lies_in_its_place(batch):
    """A variable that names its own timestep and draw."""
    seen = []

    def measure(timesteps, draws):
        assert len(timesteps) * len(draws) <= batch
        seen.extend((k, i) for k in timesteps for i in draws)
        return {"k": np.array([[100 * k + i for i in draws] for k in timesteps])}

    found, size = in_batches(measure, [3.0, 1.0, 2.0], range(4, 9), batch)
    assert size == batch
    np.testing.assert_array_equal(found["k"], 100 * np.array([[3.0], [1.0], [2.0]]) + np.arange(4, 9))
    assert len(seen) == len(set(seen)) == 15


class Wide(nn.Module):
    """Four numbers, a thousand, four: what a pass makes is known."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 1000), nn.Linear(1000, 4)

    def forward(self, x, t):
        return self.down(self.up(x).tanh().view(len(x), 10, 100).flatten(1))


def test_a_pass_makes_what_its_layers_say():
    """Two layers of a thousand float32 and the output; views are not made. Times and amplitudes are a few numbers."""
    predictor = NetworkPredictor(Wide(), Linear(), eps, Timesteps(), (4,)).eval()
    t = torch.full((3,), 0.5, dtype=torch.float64)
    found = pass_bytes(predictor, torch.randn(3, 4), t)
    wanted = 3 * 4 * (1000 + 1000 + 4)
    assert wanted <= found <= wanted + 3 * 8 * 100
    one = pass_bytes(predictor, torch.randn(1, 4), t[:1])
    weights = 4 * (4 * 1000 + 1000 + 1000 * 4 + 4)
    assert memory(predictor, one, 64, True) == int(weights + 64 * one * KEPT)
    assert memory(predictor, one, 64, False) == int(weights + 64 * one * PASSING)
    assert pass_bytes(predictor.double(), torch.randn(3, 4).double(), t) >= 2 * wanted
