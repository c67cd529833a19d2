"""Evaluations on disk: gone on with, kept through kills, paired; and of models whose quality is known beforehand."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

from lipdiag.diffusion.exact import Empirical, Gaussian
from lipdiag.diffusion.schedule import VP, Linear
from lipdiag.errors import NonFiniteError, RunError, StorageError, UsageError
from lipdiag.quality import evaluation
from lipdiag.quality.extractor import extractor
from lipdiag.quality.grading import grade, parse_sampler
from lipdiag.quality.metric import Kernel, own_distance

SHAPE = (3,)
FACTS = {"data": "normal", "sha256": "abc", "schedule": "linear", "clock": "timesteps(1000)"}


def model(mean: float = 0.0) -> Gaussian:
    """The exact model of standard normal data around a mean."""
    return Gaussian(torch.full(SHAPE, mean, dtype=torch.float64), torch.ones(SHAPE).double(), Linear())


def data(n: int = 400) -> torch.Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def run(predictor=None, samplers=("dpm:10",), seeds=(0, 1), out=None, n=200, **given):
    given.setdefault("attributes", FACTS)
    return grade(predictor or model(), data(), extractor("pixels"), samplers, n, seeds, out, **given)


def test_an_exact_model_is_as_good_as_data_and_a_shifted_one_is_not():
    """FID grows by the squared shift, 3 x 0.5^2; the error of a FID at n = 200 is below 0.05 in three dimensions."""
    good, bad = run(), run(model(0.5))
    floor = good.attrs["floor_fid"]
    assert abs(float(good["fid"].mean()) - floor) < 0.05
    assert float(bad["fid"].mean()) == pytest.approx(0.75 + floor, abs=0.2)
    assert (abs(good["kid"]) < 4 * good["kid_standard_error"]).all()
    assert (bad["kid"] > 2 * bad["kid_standard_error"]).all()
    assert (bad["kid"] > good["kid"]).all()


def test_a_model_that_knows_its_data_by_heart_is_found_out():
    law_by_heart = Empirical(data(40), Linear())
    found = grade(law_by_heart, data(40), extractor("pixels"), ("dpm:50",), 30, (0,))
    assert found["copies"].values.tolist() == [[30.0]]
    assert found["nearest_ratio"].item() < 1e-3
    assert run(n=30)["copies"].max() < 15
    assert own_distance(data(40)) > 0


def test_samples_that_were_drawn_before_can_be_judged():
    """As those of a sampler and seed, which are asked for in the words of `sample`."""
    asked = []

    def drawn(predictor, n, steps, seed, *, sampler, **how):
        asked.append((n, steps, seed, sampler))
        return data() if seed else data() + 0.5

    found = run(draw=drawn)
    assert asked == [(200, 10, 0, "dpm"), (200, 10, 1, "dpm")]
    assert found["fid"].values[0] == pytest.approx([0.75, 0], abs=1e-9)


def test_what_is_finished_is_kept(tmp_path):
    out, calls = tmp_path / "e.zarr", []
    first = run(out=out, advance=calls.append)
    assert sum(calls) == 2 * 200 * 10
    before = (out / "zarr.json").stat().st_mtime_ns
    again = run(out=out)
    assert (out / "zarr.json").stat().st_mtime_ns == before  # nothing was written
    xr.testing.assert_identical(first.drop_attrs(), again.drop_attrs())
    calls.clear()
    grown = run(out=out, samplers=("ddim:10", "dpm:10"), seeds=(0, 1, 2), advance=calls.append)
    assert grown["sampler"].values.tolist() == ["dpm:10", "ddim:10"]
    assert grown["seed"].values.tolist() == [0, 1, 2]
    xr.testing.assert_identical(grown.sel(sampler=["dpm:10"], seed=[0, 1]).drop_attrs(), first.drop_attrs())
    assert np.isfinite(grown["fid"].values).all()
    fresh = run(samplers=("dpm:10", "ddim:10"), seeds=(0, 1, 2))
    xr.testing.assert_identical(
        grown.drop_vars("seconds").drop_attrs(), fresh.drop_vars("seconds").drop_attrs()
    )  # gone on with is uninterrupted


def test_an_interruption_keeps_what_was_finished(tmp_path):
    out, calls = tmp_path / "e.zarr", []

    def stop(count):
        calls.append(count)
        if len(calls) == 25:  # in the middle of the third cell
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(out=out, samplers=("dpm:10", "ddim:10"), advance=stop)
    kept = evaluation.open_evaluation(out)
    assert np.isfinite(kept["fid"].sel(seed=0)).all()
    assert kept["fid"].sel(seed=1).isnull().all()
    assert "-" in evaluation.table(kept.isel(seed=[1])).splitlines()[1]
    whole = run(out=out, samplers=("dpm:10", "ddim:10"))
    xr.testing.assert_identical(kept.sel(seed=[0]).drop_attrs(), whole.sel(seed=[0]).drop_attrs())


@pytest.mark.parametrize("change", [{"n": 100}, {"attributes": FACTS | {"sha256": "def"}}])
def test_an_evaluation_of_something_else_is_refused(tmp_path, change):
    run(out=tmp_path / "e.zarr", samplers=("dpm:5",), seeds=(0,))
    with pytest.raises(RunError, match=f"has {'n 200' if 'n' in change else 'sha256 abc'}"):
        run(out=tmp_path / "e.zarr", samplers=("dpm:5",), seeds=(0,), **change)


def test_a_kill_between_the_renames_loses_nothing(tmp_path, monkeypatch):
    out = tmp_path / "e.zarr"
    old = run(out=out, samplers=("dpm:5",), seeds=(0,))
    rename, calls = os.rename, []

    def killed(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluation.write(old, out)
    assert not out.exists()
    xr.testing.assert_identical(evaluation.open_evaluation(out), old)
    run(out=out, samplers=("dpm:5",), seeds=(0, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["e.zarr"]


def test_others_read_it_with_xarray_alone(tmp_path):
    found = run(out=tmp_path / "e.zarr", samplers=("dpm:5",), seeds=(0,))
    with xr.open_zarr(tmp_path / "e.zarr") as read:
        assert read["fid"].values.tolist() == found["fid"].values.tolist()
    script = (
        "import sys; from lipdiag.quality.evaluation import open_evaluation, table;"
        f"print(table(open_evaluation({str(tmp_path / 'e.zarr')!r}))); assert 'torch' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown == evaluation.table(found) + "\n"
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", ["pixels", "digits", "some.package.of.mine:an_extractor_with_a_long_name"])
def test_the_table_fits_80_columns_and_names_the_extractor(name):
    filled = evaluation.new(
        ["ddpm:1000", "euler:1000"], [0, 1],
        {"extractor": name, "n": 30, "n_real": 60000, "floor_fid": 123.4567, "floor_kid": -1.2e-3, "floor_n": 30,
         "features": 64},
    )  # fmt: skip
    filled["fid"][:] = [[1234.5, 1300.1], [0.1234, np.nan]]
    filled["kid"][:] = -0.012345
    filled["seconds"][:] = [[1.0, 1.0], [1.0, np.nan]]
    lines = evaluation.table(filled).splitlines()
    assert max(map(len, lines)) <= 80
    assert "1267 +- 33" in lines[1]
    assert "0.1234" in lines[2]
    assert "+-" not in lines[2][:31]
    assert any("singular" in line for line in lines)
    assert any(name in line for line in lines)


def test_the_floor_is_of_data_against_the_rest():
    """For one law, E FID is about d (1/n + 1/m) (1 + (d + 1) / 4) to first order in 1/n; here within a factor of 2."""
    found = run(n=100, seeds=(0,), samplers=("dpm:5",)).attrs
    assert found["floor_n"] == 100
    first_order = 3 * (1 / 100 + 1 / 300) * (1 + 4 / 4)
    assert first_order / 2 < found["floor_fid"] < 2 * first_order


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"samplers": ("ddim",)}, "ddim:20"),
        ({"samplers": ("ddim:0",)}, "at least 1"),
        ({"samplers": ("heun:5",)}, "no sampler"),
        ({"n": 7}, "at least 8"),
        ({"predictor": Gaussian(torch.zeros(3), torch.ones(3), VP()), "samplers": ("dpm:5",)}, "choose ddim"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(given, word):
    with pytest.raises(UsageError, match=word):
        run(**given)


def test_samplers_are_spelled_with_their_steps():
    assert parse_sampler("ddpm:1000") == ("ddpm", 1000)


def test_samples_that_are_not_finite_end_in_a_sentence():
    class Broken(Gaussian):
        def conditioned(self, x, t, timestep):
            return super().conditioned(x, t, timestep) * torch.nan

    with pytest.raises(NonFiniteError, match="200 of 200 samples by dpm:10"):
        run(Broken(torch.zeros(3), torch.ones(3), Linear()))


def test_what_is_no_evaluation_is_refused(tmp_path):
    with pytest.raises(RunError, match="there is no evaluation"):
        evaluation.open_evaluation(tmp_path / "none.zarr")
    for name, text, word in (
        ("broken", "{", "cannot be read"),
        ("deep", '{"attributes":' + "[" * 1500 + "]" * 1500 + "}", "too deeply"),
        ("other", '{"attributes": {"format": "lipdiag run"}}', "something else"),
        ("newer", '{"attributes": {"format_version": "lipdiag-quality/2"}}', "newer"),
        ("damaged", '{"attributes": {"format_version": "lipdiag-quality/1"}}', "damaged"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text(text)
        with pytest.raises(RunError, match=word):
            evaluation.open_evaluation(tmp_path / name)


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        evaluation.write(evaluation.new(["a:1"], [0], {}), tmp_path / "file" / "e.zarr")


def test_the_floor_parts_the_data(monkeypatch):
    """Every datum is on one side of each split: data against themselves would be too near."""
    features, seen = data(50), []
    module = sys.modules["lipdiag.quality.grading"]
    monkeypatch.setattr(module, "frechet", lambda rest, some: seen.append((rest, some)) or 0.0)
    monkeypatch.setattr(module, "kernel", lambda rest, some, seed: seen.append((rest, some)) or Kernel(0.0, 0.0))
    assert module.floor(features, 20)["floor_n"] == 20
    assert module.floor(features, 40)["floor_n"] == 25
    assert [len(some) for _, some in seen] == 8 * [20] + 8 * [25]
    for rest, some in seen:
        assert sorted(torch.cat([rest, some]).tolist()) == sorted(features.tolist())
    assert len({tuple(map(tuple, some.tolist())) for _, some in seen[:8]}) == 4
