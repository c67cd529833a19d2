"""What a run records of its model: all that changes its numbers, so that another model is never gone on with."""

import pytest
import torch

from lipdiag.design.description import describe
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor, RawOutput
from lipdiag.diffusion.schedule import Linear


class Conditioned(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, timestep, shift=0.0, scale=1.0):
        return scale * self.weight * x + shift


def model(**conditioning):
    return NetworkPredictor(Conditioned(), Linear(), eps, Timesteps(1000), (1, 2, 2), conditioning)


@pytest.mark.parametrize(
    "other",
    [
        lambda: model(shift=torch.full((1, 1, 1, 1), 2.0)),
        lambda: model(shift=torch.ones(1, 1, 1, 1), scale=2.0),
        lambda: model(),
        lambda: RawOutput(model(shift=torch.ones(1, 1, 1, 1))),
    ],
    ids=["another condition", "a further one", "none", "the raw output"],
)
def test_models_that_say_other_things_are_described_otherwise(other):
    def mine():
        return model(shift=torch.ones(1, 1, 1, 1))

    assert describe(mine()) == describe(mine())
    assert describe(other()) != describe(mine())
    assert describe(other())["network"] == "Conditioned"
