"""Sampling and evaluating from Python: what the commands write, and models in memory left as they were."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lipdiag
from lipdiag.cli import main
from lipdiag.errors import NonFiniteError, UsageError


def typed(*words) -> dict:
    result = CliRunner().invoke(main, [*map(str, words), "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_samples_are_those_of_the_command(tmp_path):
    typed("sample", "digits-etsdm", "-n", 3, "--sampler", "dpm", "--steps", 2, "--seed", 4, "--out", tmp_path / "a.npz")
    x = lipdiag.sample(
        "digits-etsdm", 3, "dpm", 2, tmp_path / "b.npz", seed=4, progress=False, device="cpu", weights="ema"
    )
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert np.array_equal(a["samples"], b["samples"])
        assert np.array_equal(a["samples"], x.numpy())


def test_an_evaluation_is_that_of_the_command_and_needs_no_file(tmp_path):
    words = ("evaluate", "digits-ddpm", "--sampler", "ddim:2", "--n", 16, "--seeds", 1, "--seed", 3)
    line = typed(*words, "--out", tmp_path / "e.zarr")
    found = lipdiag.evaluate("digits-ddpm", ["ddim:2"], 16, 1, seed=3, progress=False, device="cpu")
    assert found["fid"].values.tolist() == line["fid"]
    stored = lipdiag.quality.evaluation.open_evaluation(tmp_path / "e.zarr")
    same = {name: value for name, value in found.attrs.items() if name not in ("command", "versions")}
    assert same == {name: stored.attrs[name] for name in same}


def test_a_model_in_memory_is_as_it_was():
    model = lipdiag.load("digits-ddpm").requires_grad_(True).train()
    lipdiag.sample(model, 1, steps=1, progress=False, device="cpu")
    found = lipdiag.evaluate(model, ["ddim:1"], 8, 1, data=torch.zeros(16, 1, 8, 8).uniform_(-1, 1), progress=False)
    assert found.attrs["checkpoint"] == "in memory"
    assert found.attrs["data"] == "an array"
    assert all(part.training for part in model.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_what_is_not_finite_is_not_written(tmp_path):
    model = lipdiag.load("digits-ddpm")
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="1 of 1 samples are not finite; none are written"):
        lipdiag.sample(model, 1, steps=1, out=tmp_path / "a.npz", progress=False)
    assert not (tmp_path / "a.npz").exists()
    with pytest.raises(UsageError, match=r"ends in \.gif"):
        lipdiag.sample(model, 1, out=tmp_path / "a.gif")
