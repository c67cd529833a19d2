"""The commands sample and evaluate, as a user types them."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from lipdiag import checkpoints
from lipdiag.cli import main
from lipdiag.quality import evaluation
from lipdiag.sampling.picture import grid, pixels
from lipdiag.sampling.sampler import sample


def run(*words, code: int = 0):
    """A command's result; its exit code is checked."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


SAMPLE = ("sample", "digits-etsdm", "-n", 5, "--steps", 3, "--sampler", "dpm", "--seed", 4)
EVALUATE = ("evaluate", "digits-ddpm", "--sampler", "dpm:2", "--n", 40, "--seeds", 2)


def test_samples_are_the_functions_in_every_form(tmp_path):
    """A grid, an array and a folder of the same samples, which are those of `sample`."""
    expected = sample(checkpoints.load("digits-etsdm"), 5, 3, 4, sampler="dpm")
    run(*SAMPLE, "--out", tmp_path / "a.npz", "--quiet")
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_allclose(file["samples"], expected, rtol=1e-4, atol=1e-5)
        stored = torch.from_numpy(file["samples"])
    said = run(*SAMPLE, "--out", tmp_path / "folder", "--quiet").stdout
    assert said == f"wrote 5 samples to {tmp_path / 'folder'}\n"
    files = sorted((tmp_path / "folder").iterdir())
    assert [file.name for file in files] == [f"{i:06d}.png" for i in range(5)]
    for file, picture in zip(files, pixels(stored), strict=True):
        with Image.open(file) as image:
            assert np.array_equal(np.asarray(image), picture[..., 0])
    line = json.loads(run(*SAMPLE, "--out", tmp_path / "grid.png", "--json", "--quiet").stdout)
    assert line == {
        "out": str(tmp_path / "grid.png"), "n": 5, "sampler": "dpm", "steps": 3, "seed": 4, "shape": [1, 8, 8],
    }  # fmt: skip
    with Image.open(tmp_path / "grid.png") as image:
        assert np.array_equal(np.asarray(image), grid(pixels(stored))[..., 0])


def test_what_sample_writes_can_be_measured_and_evaluated_against(tmp_path):
    run(*SAMPLE, "-n", 20, "--out", tmp_path / "a.npz", "--quiet")
    result = run(
        *EVALUATE, "--data", tmp_path / "a.npz", "--out", tmp_path / "e.zarr", "--seeds", 1, "--sampler", "dpm:2"
    )
    assert "FID[pixels]" in result.stdout
    assert "20 data" in result.stdout


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.AcceleratorError("CUDA error: unknown error\nCUDA kernel errors might"), "Error (CUDA error: unknown"),
        (torch.OutOfMemoryError("CUDA out of memory"), "or is full, with out of memory: free it"),
    ],
)
def test_a_device_that_fails_ends_any_command_in_a_sentence(tmp_path, monkeypatch, error, said):
    def failing(*told, **more):
        raise error

    monkeypatch.setattr("lipdiag.quality.sample.draw", failing)
    result = run(*SAMPLE, "--out", tmp_path / "a.npz", code=7)
    assert said in " ".join(result.stderr.split())
    assert "CUDA kernel" not in result.stderr


def test_pixels_are_cut_and_scaled():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0]).reshape(1, 1, 2, 2)
    assert pixels(x).ravel().tolist() == [0, 0, 128, 255]
    sheet = grid(pixels(x.expand(3, 3, 2, 2)))
    assert sheet.shape == (2 * 34 + 2, 2 * 34 + 2, 3)  # 2 x 2 pictures, each pixel 16 wide, two between
    assert (sheet[:2] == 255).all()
    assert (sheet[2:18, 2:18] == 0).all()
    assert (sheet[18:34, 36 + 16 : 36 + 32] == 255).all()


def test_evaluate_prints_what_is_stored_and_goes_on(tmp_path):
    out = tmp_path / "e.zarr"
    result = run(*EVALUATE, "--out", out)
    stored = evaluation.open_evaluation(out)
    assert result.stdout == evaluation.table(stored) + "\n"
    assert "160 evaluations" in result.stderr
    assert "data: digits (1797)" in result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    about = stored.attrs
    assert {key: about[key] for key in ("checkpoint", "extractor", "n", "n_real", "data", "clock", "schedule")} == {
        "checkpoint": "digits-ddpm", "extractor": "digits", "n": 40, "n_real": 1797, "data": "digits",
        "clock": "timesteps(1000)", "schedule": "linear(0.0001, 0.02, 1000)",
    }  # fmt: skip
    assert about["sha256"] == checkpoints.inspect("digits-ddpm").sha256
    line = json.loads(run(*EVALUATE, "--out", out, "--sampler", "ddim:2", "--json", "--quiet").stdout)
    assert line["sampler"] == ["dpm:2", "ddim:2"]
    assert line["fid"][0] == stored["fid"].values[0].tolist()
    assert np.isfinite(line["fid"]).all()
    refused = run(*EVALUATE, "--out", out, "--weights", "ema", "--n", 50, code=4)
    assert "has n 40 where 50" in refused.stderr


def test_a_dry_run_writes_nothing(tmp_path):
    out = tmp_path / "e.zarr"
    line = json.loads(run(*EVALUATE, "--out", out, "--dry-run", "--quiet").stdout)
    assert (line["evaluations"], line["extractor"], line["n"]) == (160, "digits", 40)
    assert not out.exists()


def test_ctrl_c_ends_with_130_and_keeps_the_run(tmp_path, monkeypatch):
    from lipdiag.quality import grading

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(grading, "frechet", interrupted)
    result = run(*EVALUATE, "--out", tmp_path / "e.zarr", code=130)
    assert "goes on with" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("sample",), 2, "needs a checkpoint"),
        (("sample", "digits-ddpm", "--out", "a.gif"), 2, "ends in .gif"),
        (("sample", "digits-ddpm", "--sampler", "euler"), 2, "does not fit a table"),
        (("sample", "digits-ddpm", "--steps", 2000), 2, "at most these"),
        (("sample", "nowhere"), 3, "no checkpoint nowhere"),
        (("evaluate",), 2, "needs a checkpoint"),
        (("evaluate", "digits-ddpm", "--sampler", "ddim"), 2, "such as ddim:20"),
        (("evaluate", "digits-ddpm", "--extractor", "inception"), 2, "no extractor 'inception'"),
        (("evaluate", "digits-ddpm", "--data", "nowhere"), 2, "no data called"),
    ],
)
def test_refusals(words, code, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*words, code=code)
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
