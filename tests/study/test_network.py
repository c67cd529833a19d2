"""A network in memory, used as its owner says in a few words, measured as the predictor that says it all."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lipdiag
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import v
from lipdiag.diffusion.schedule import Linear, ScaledLinear
from lipdiag.errors import UsageError
from lipdiag.study.network import of_network

X = torch.linspace(-1, 1, 20 * 16).reshape(20, 1, 4, 4)
PLAN = lipdiag.Plan(timesteps="10,500", draws=4, quantities=("time_difference", "loss"))
TOLD = {"schedule": "linear", "parameterization": "v", "clock": "timesteps(1000)"}


class Net(nn.Module):
    def forward(self, x, timestep):
        return torch.tanh(x) * torch.cos(timestep / 1000)[:, None, None, None]


def measured(model, **words):
    return lipdiag.measure(model, plan=PLAN, device="cpu", progress=False, probe=False, **words)


def test_words_say_what_objects_say():
    expected = measured(lipdiag.NetworkPredictor(Net(), Linear(), v, Timesteps(1000), (1, 4, 4)), data=X.numpy())
    spelled = lipdiag.NetworkPredictor(Net(), "linear", "v", "timesteps(1000)", (1, 4, 4))
    for model, data, words in (
        (spelled, X, {}),
        (Net(), X, TOLD),
        (Net(), DataLoader(TensorDataset(X), batch_size=3), TOLD | {"schedule": Linear()}),
        (lambda x, timestep: Net()(x, timestep), X, TOLD),
    ):
        found = measured(model, data=data, **words)
        for name in ("time_difference", "loss"):
            assert np.array_equal(found[name], expected[name])


def test_a_pipeline_and_a_scheduler_of_diffusers_tell_all():
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(4, 1, 1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
                       down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))  # fmt: skip
    scheduler = DDPMScheduler(500, 0.00085, 0.012, "scaled_linear", prediction_type="v_prediction")
    for made in (of_network(DDPMPipeline(unet, scheduler)), of_network(unet, schedule=scheduler)):
        assert (made.schedule, made.clock) == (ScaledLinear(0.00085, 0.012, 500), Timesteps(500))
        assert made.parameterization is v
        assert made.shape == (1, 4, 4)
        assert made.network is unet
    assert of_network(unet, schedule=scheduler, parameterization="x0").parameterization.__name__ == "x0"
    x = lipdiag.sample(DDPMPipeline(unet, scheduler), 2, steps=1, progress=False, device="cpu")
    assert x.shape == (2, 1, 4, 4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({}, "a Net in memory does not tell its schedule, parameterization and clock: give schedule='linear', "),
        (TOLD | {"clock": None}, r"does not tell its clock: give clock='timesteps\(1000\)'"),
        (TOLD | {"schedule": "line"}, "got 'line'"),
        (TOLD | {"schedule": 3}, "got a int as the schedule"),
        (TOLD | {"weights": "ema"}, "weights cannot be said of a network in memory: known are .*, function$"),
        (TOLD | {"draws": 2}, r"got draws=2, which is of the plan .*; give plan=Plan\(draws=2\)"),
        (TOLD, r"does not tell the shape of a sample: give shape=\(3, 32, 32\)"),
    ],
)
def test_what_is_not_told_is_asked_for_in_pythons_words(words, sentence):
    with pytest.raises(UsageError, match=sentence):
        measured(Net(), **words)


def test_what_is_of_the_plan_is_sent_there_for_a_checkpoint_too():
    with pytest.raises(UsageError, match=r"give plan=Plan\(draws=2, seed=3\)"):
        lipdiag.measure("digits-ddpm", seed=3, draws=2)
