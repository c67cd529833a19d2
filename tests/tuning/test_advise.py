"""The front door of advice: what is asked of a run, what of a model, and what is refused."""

import json

import pytest
import torch
from click.testing import CliRunner

import lipdiag
from lipdiag.advice.sharing import Advice
from lipdiag.cli import main
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.limit import Clip
from lipdiag.diffusion.schedule import Linear, Straight
from lipdiag.errors import UsageError
from lipdiag.sampling.walk import walk
from lipdiag.tuning.advise import advise, advise_steps
from tests.runs import make, write


def gaussian(schedule=None, clock=None):
    model = Gaussian(torch.zeros(2), torch.tensor([0.1, 1.0]), schedule or Linear())
    model.clock = clock or (Timesteps(1000) if schedule is None else model.clock)
    return model


def test_a_run_is_asked_where_to_share(tmp_path):
    run = make(draws=4)
    path = write(run, tmp_path / "run.zarr")
    assert isinstance(lipdiag.advise(run), Advice)
    assert lipdiag.advise(path).edges == lipdiag.advise(str(path)).edges == lipdiag.advise(run).edges


def test_a_model_is_asked_when_to_sample():
    """The grid that is printed gives the samples that were judged."""
    model = gaussian()
    advice = advise(model, sampler="ddim", steps=4, draws=16)
    timesteps = torch.tensor(advice.timesteps(0), dtype=torch.float64)
    torch.testing.assert_close((timesteps + 1) / 1000, torch.from_numpy(advice.choices[0].t))
    alpha, sigma = model.schedule((timesteps + 1) / 1000)
    assert advice.levels(0) == pytest.approx([*(sigma / alpha).tolist(), 0.0], rel=1e-5)
    *_, (_, x0) = walk(model, torch.ones(1, 2, dtype=torch.float64), (timesteps + 1) / 1000, "ddim")
    assert x0.isfinite().all()


def test_a_network_in_memory_is_asked_and_is_as_it_was():
    network = torch.nn.Conv2d(1, 1, 1).train()
    words = {"schedule": "linear", "parameterization": "eps", "clock": "timesteps(1000)", "shape": (1, 2, 2)}

    def called(x, timestep):
        assert not network.training
        return torch.nn.Conv2d.forward(network, x)

    network.forward = called
    advice = advise(network, sampler="ddim", steps=1, draws=8, device="cpu", **words)
    assert advice.choices
    assert network.training
    assert all(weight.requires_grad for weight in network.parameters())


def test_sigmas_of_the_straight_path_are_its_times():
    advice = advise_steps(gaussian(Straight()), "euler", [4], 16)
    assert advice.levels(0)[:-1] == pytest.approx(advice.choices[0].t.tolist(), rel=1e-5)
    assert any("FlowMatchEuler" in tool for tool in advice.code(0))


def test_a_limit_that_was_left_out_is_said():
    model = gaussian()
    model.limit = Clip()
    assert "keep x0 in range" in str(advise_steps(model, "ddim", [4], 8))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"steps": 5}, "steps is about sampling"),
        ({"weights": "raw"}, "weights is about sampling"),
        ({"sampler": "ddim", "end": 100}, "end is about sharing"),
        ({"sampler": "ddpm"}, "there is no sampler 'ddpm'"),
        ({"sampler": "ddim", "steps": [5, 0]}, "got 0 steps; give numbers from 1 to 1000"),
        ({"sampler": "ddim", "steps": 1001}, "got 1001 steps"),
        ({"sampler": "ddim", "steps": []}, "got no steps"),
        ({"sampler": "ddim", "draws": 2}, "got 2 draws"),
    ],
)
def test_words_that_do_not_apply_are_refused(words, said):
    with pytest.raises(UsageError, match=said):
        advise(gaussian() if "sampler" in words else make(draws=4), **words)


def test_raw_output_is_not_sampled():
    with pytest.raises(UsageError, match="raw output"):
        advise("digits-ddpm", sampler="ddim", function="raw")


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(make(draws=4), tmp_path / "run.zarr")
    monkeypatch.setattr("lipdiag.tuning.search.NODES", 8)
    monkeypatch.setattr("lipdiag.tuning.search.PASSES", 20)

    def run(*arguments):
        return CliRunner().invoke(main, ["advise", *arguments])

    assert run("run.zarr", "--quiet").output.startswith("edges:0,")
    told = run("digits-ddpm", "--sampler", "dpm", "--steps", "2,3", "--draws", "8", "--json", "--quiet")
    grids = json.loads(told.stdout)["grids"]
    assert [len(grid["timesteps"]) for grid in grids] == [2, 3]
    assert [len(grid["sigmas"]) for grid in grids] == [3, 4]
    quiet = run("digits-ddpm", "--sampler", "ddim", "--steps", "2", "--draws", "8", "--quiet")
    assert [float(text) for text in quiet.stdout.split(",")][-1] == 0
    for wrong in (
        ("run.zarr", "--steps", "5"),
        ("run.zarr", "--label", "1"),
        ("run.zarr", "--seed", "1"),
        ("digits-ddpm", "--sampler", "ddim", "--steps", "five"),
        ("digits-ddpm", "--sampler", "ddim", "--blocks", "5"),
        (),
    ):
        assert run(*wrong).exit_code == 2, wrong
    assert run("nothing.pt", "--sampler", "ddim").exit_code == 3
