"""The doctor on models with planted faults, of three sizes: each is found, and named."""

import copy
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lipdiag
from lipdiag.checkpoints.probe import MISREAD
from lipdiag.cli import main
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import convert, eps
from lipdiag.diffusion.schedule import Linear
from lipdiag.errors import CheckpointError, UsageError
from lipdiag.health.examine import PLAN, doctor
from tests.health.planted import (
    SMALL,
    USED,
    among,
    around,
    data,
    emptied,
    exact,
    perceptron,
    random_weights,
    transplanted,
    unet,
)
from tests.runs import make, write

QUICK = PLAN.replace(timesteps="pairs:4", draws=16, krylov_steps=4)


BANDS = QUICK.replace(timesteps="0,1,20,100,200,300,600,700,800,999")


def names(model, x0, plan=QUICK) -> list[str]:
    return [fault.name for fault in doctor(model, x0, plan=plan, progress=False).faults]


@pytest.mark.parametrize("way", [way for way in USED if not way.startswith("one")])
def test_a_model_that_is_used_wrongly(way):
    fault, how = USED[way]
    assert names(how(exact()), data(), BANDS if "band" in way else QUICK)[:1] == [fault]


def test_a_timestep_that_is_one_off():
    plan = QUICK.replace(timesteps="500", quantities=("stein", "loss"))
    assert names(USED["one less"][1](exact()), data(), plan) == ["shifted_time"]


def test_a_perceptron_is_healthy():
    assert doctor(perceptron(), data(SMALL), plan=QUICK, progress=False).verdict == "healthy"


@pytest.mark.parametrize("layer", ["first", "last"])
def test_weights_of_another_model_in_one_layer_of_a_perceptron(layer):
    donor = perceptron(1, 300)
    assert names(transplanted(perceptron(), donor, layer), data(SMALL))[:1] == ["foreign_weights"]


@pytest.mark.parametrize("way", ["backwards", "high band", "rounded"])
def test_a_perceptron_that_is_used_wrongly(way):
    fault, how = USED[way]
    assert names(how(perceptron()), data(SMALL), BANDS if "band" in way else QUICK)[:1] == [fault]


def test_a_dead_block_and_weights_that_were_never_trained():
    assert names(emptied(perceptron(), "blocks.1.3"), data(SMALL))[:1] == ["dead_block"]
    assert names(random_weights(perceptron()), data(SMALL))[:1] == ["untrained"]


@pytest.mark.parametrize("model", ["digits-ddpm", "digits-etsdm"])
def test_the_embedded_pair_is_healthy(model):
    found = doctor(model, plan=QUICK.replace(timesteps="0,19,20,300,999", draws=8), progress=False)
    assert found.verdict == "healthy", str(found)


def test_a_fault_of_the_embedded_model():
    fault, how = USED["larger"]
    assert names(how(unet()), "digits", QUICK.replace(timesteps="20,500,999", draws=10))[:1] == [fault]


def test_what_is_no_denoiser_is_never_healthy():
    """An answer of the right shape that has nothing to do with noise."""
    model = around(exact(), lambda ask, x, k: torch.tanh(3 * x.flip(1)) + torch.sin(k)[:, None])
    found = doctor(model, data(), plan=QUICK, progress=False)
    assert found.faults[0].name in ("no_denoiser", "untrained")


def test_answers_in_no_common_convention_are_not_blamed_on_a_layer():
    def odd(schedule, t):
        return torch.full_like(t, 0.8), torch.full_like(t, -0.7)

    def spoken(ask, x, k):
        return convert(ask(x, k), x, Timesteps().time(k.double()), Linear(), eps, odd)

    plan = PLAN.replace(timesteps="100,800", draws=8, quantities=("stein", "loss"))
    found = doctor(around(perceptron(), spoken), data(SMALL), plan=plan, progress=False)
    assert (found.verdict, found.undecided) == ("undecided", (MISREAD,))


def test_data_of_another_kind_are_not_blamed_on_the_model():
    strange = 1.5 * np.random.default_rng(0).standard_normal((64, SMALL))
    found = doctor(perceptron(), strange, plan=QUICK, progress=False)
    assert found.verdict == "undecided", str(found)
    assert "not what it was trained on" in str(found).replace("\n", " ")


def test_averages_that_are_not_loaded_and_averages_of_the_beginning(tmp_path):
    good, rough = unet(), unet()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in rough.network.parameters():
            weight.mul_(1 + 0.3 * torch.randn_like(weight))
    plan = PLAN.replace(timesteps="20,500", draws=8, quantities=("loss", "stein"))
    for raw, ema, fault in ((rough, good, "ema_not_loaded"), (good, rough, "stale_ema")):
        path = tmp_path / f"{fault}.pt"
        lipdiag.save(path, raw, ema=ema.network.state_dict(), data="digits")
        chosen = "raw" if fault == "ema_not_loaded" else "ema"
        assert [f.name for f in doctor(path, weights=chosen, plan=plan, progress=False).faults] == [fault]


def test_the_command_judges_a_run_and_ends_as_it_is_asked(tmp_path):
    run = make(draws=12, checkpoint="ckpt.pt")
    path = str(write(run, tmp_path / "run.zarr"))
    result = CliRunner().invoke(main, ["doctor", path, "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["verdict"] == "undecided"
    assert CliRunner().invoke(main, ["doctor", path, "--fail-on", "undecided"]).exit_code == 1
    strict = ["doctor", path, "--threshold", "nothing=0.01"]
    result = CliRunner().invoke(main, [*strict, "--fail-on", "faults"])
    assert result.exit_code == 1
    assert CliRunner().invoke(main, strict).exit_code == 0
    refused = CliRunner().invoke(main, ["doctor", path, "--threshold", "nothing"])
    assert refused.exit_code == 2
    assert "is not CHECK=NUMBER" in refused.stderr
    listed = CliRunner().invoke(main, ["doctor", "--checks"])
    assert max(map(len, listed.stdout.splitlines())) <= 80


def test_a_run_takes_no_data():
    with pytest.raises(UsageError, match="a run is judged as it is"):
        doctor(make(), "digits")


class Generator(torch.nn.Module):
    """A network of one argument: noise to pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Linear(SMALL, SMALL)

    def forward(self, z):
        return torch.tanh(self.last(z))


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Linear(SMALL, 10)

    def forward(self, x, timestep):
        return self.last(x)


class Tokens(torch.nn.Module):
    """A network of discrete diffusion: tokens to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.last = torch.nn.Embedding(17, 8), torch.nn.Linear(8, 17)

    def forward(self, x, timestep):
        return self.last(self.embedding(x))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Generator(), r"it takes x and no timestep: it is no diffusion model, but a generator or a classifier$"),
        (Classifier(), r"got a tensor of shape \(2, 10\) from the network for x of shape \(2, 16\)"),
        (Tokens(), r"it is a model of tokens, and what is measured holds for continuous x$"),
    ],
)
def test_what_is_no_denoiser_by_its_call_is_refused_in_a_sentence(network, words):
    told = {"schedule": "linear", "parameterization": "eps", "clock": "timesteps(1000)", "shape": (SMALL,)}
    with pytest.raises(CheckpointError, match=words):
        doctor(network, data(SMALL), plan=QUICK, progress=False, **told)


def test_a_generator_that_is_told_the_time_is_no_denoiser():
    class Deaf(Generator):
        def forward(self, z, timestep):
            return super().forward(z)

    torch.manual_seed(0)
    told = {"schedule": "linear", "parameterization": "eps", "clock": "timesteps(1000)", "shape": (SMALL,)}
    with torch.no_grad():
        (network := Deaf()).last.weight.mul_(4)
    found = doctor(network, data(SMALL), plan=QUICK, progress=False, **told)
    assert found.faults[0].name == "no_denoiser"


def test_a_narrow_band_between_the_timesteps_of_the_run():
    def broken(ask, x, k):
        return torch.where(among(x, k, 550, 600), 0.3 * x.sin(), ask(x, k))

    found = doctor(around(exact(), broken), data(), plan=QUICK, progress=False)
    (fault, *_) = found.faults
    assert fault.name == "untrained_band"
    assert all(550 <= k < 600 for k in fault.timesteps), fault.timesteps


def test_an_embedding_of_time_in_half_precision():
    model = copy.deepcopy(perceptron())
    forward = model.network.forward
    model.network.forward = lambda x, timestep: forward(x, timestep.bfloat16().float())
    found = doctor(model, data(SMALL), plan=QUICK, progress=False)
    assert found.faults[0].name == "rounded_time"
    assert "plateau" in found.faults[0].also


def test_an_embedding_that_comes_round():
    model = copy.deepcopy(perceptron())
    forward = model.network.forward
    model.network.forward = lambda x, timestep: forward(x, timestep % 200)
    found = doctor(model, data(SMALL), plan=QUICK, progress=False)
    assert "aliased_time" in [fault.name for fault in found.faults]
    assert "looks like one far away, such as" in str(found).replace("\n  ", " ")
