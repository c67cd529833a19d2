"""A network in memory, used as its owner says in a few words, measured as the predictor that says it all."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lipdiag
from lipdiag.diffusion.clock import Sigma, Timesteps, Unit
from lipdiag.diffusion.parameterization import eps, score, v, velocity
from lipdiag.diffusion.schedule import VE, Linear, ScaledLinear, SquaredCosine, Straight
from lipdiag.errors import LipdiagWarning, UsageError
from lipdiag.quantities.draw import data_index
from lipdiag.study.network import of_network
from tests.networks import Tiny

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
    ("name", "expected"),
    [
        ("FlowMatchEulerDiscreteScheduler", (Straight(), velocity, Unit(1000))),
        ("FlowMatchHeunDiscreteScheduler", (Straight(), velocity, Unit(1000))),
        ("ScoreSdeVeScheduler", (VE(0.01, 1348.0), score, Sigma(VE(0.01, 1348.0)))),
        ("UnCLIPScheduler", (SquaredCosine(1000), eps, Timesteps(1000))),
    ],
)
def test_a_scheduler_that_was_read_from_no_file_is_known_by_its_class(name, expected):
    import diffusers

    assert of_network(Net(), X, schedule=getattr(diffusers, name)()).convention.whole == expected


def test_a_class_is_told_to_a_network_in_memory():
    """That of each x0 by labels, one for all by its number, and none else; by the same network called by hand."""
    from diffusers import DDPMScheduler, UNet2DModel

    unet = UNet2DModel(4, 1, 1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4, num_class_embeds=3,
                       down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))  # fmt: skip
    told = {"schedule": DDPMScheduler()}
    labels = torch.arange(20) % 3
    own = measured(unet, data={"samples": X.numpy(), "labels": labels.numpy()}, **told)
    each = [measured(unet, data=X, label=k, **told)["loss"].values for k in range(3)]
    which = [int(labels[data_index(PLAN.seed, i, len(X))]) for i in range(PLAN.draws)]
    assert len(set(which)) > 1
    np.testing.assert_allclose(own["loss"], np.stack([each[k][:, i] for i, k in enumerate(which)], 1), rtol=1e-5)
    by_hand = measured(lambda x, t: unet(x, t, class_labels=torch.full((len(x),), 2)).sample, data=X, **told)
    np.testing.assert_allclose(each[2], by_hand["loss"], rtol=1e-5)
    with pytest.warns(LipdiagWarning, match="conditioned on class_labels = 0 throughout"):
        assert np.array_equal(measured(unet, data=X, **told)["loss"], each[0])
    with pytest.raises(UsageError, match="the UNet2DModel in memory knows the classes 0 to 2: 3 is none of them"):
        measured(unet, data=X, label=3, **told)


@pytest.mark.parametrize("name", ["meta", "hpu", "vulkan"])
def test_a_network_stays_whole_where_a_device_is_none(name):
    tiny = Tiny()
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    with pytest.raises(UsageError, match=f"device '{name}' is not at hand: give auto, or cpu"):
        lipdiag.measure(tiny, data=X, plan=PLAN, device=name, progress=False, probe=False, **TOLD)
    assert all(torch.equal(before[key], value) for key, value in tiny.state_dict().items())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (TOLD | {"label": 1, "shape": (1, 4, 4)}, "by the name of its argument, conditioning={'class_labels': torch"),
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
