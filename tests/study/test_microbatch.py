"""How much memory a micro-batch takes, told beforehand."""

import torch
from torch import nn

from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear
from lipdiag.study.microbatch import KEPT, PASSING, memory, pass_bytes


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
