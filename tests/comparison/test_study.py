"""The study: it goes on where it was stopped, and its tables hold all that its figure and verdict need."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lipdiag
from lipdiag.comparison.comparison import compare
from lipdiag.quality.evaluation import write as write_evaluation
from tests.comparison.test_comparison import evaluation
from tests.runs import EDGES, LOG_TIMES, write

FIGURES = Path(__file__).parents[2] / "figures"
TIMES = np.union1d(LOG_TIMES, np.array(EDGES[1:]) - 1)
sys.path.append(str(FIGURES))

import sizes  # noqa: E402  # programs beside the package, which import each other by these names
import study  # noqa: E402
import tables  # noqa: E402

DIGITS = sizes.SIZES["digits"]
SEVEN = ("ddim:1", "ddim:2", "dpm:1", "dpm:2", "dpm:3", "ddpm:1", "ddpm:2")  # too many for a place each in the figure
TINY = sizes.Size(
    *("tiny", "small photographs", "tiny32", "0,19,39,59,79,99,100,999", SEVEN),
    *(("pixels", f"{__name__}:colours"), {"shape": (3, 8, 8), "steps": 2, "batch": 4, "warmup": 1}),
    side=8,
    held=24,
    seeds=2,
    draws=1,
    few=("ddim:2",),
    n=12,
    swapped={"ddpm_shared": sizes.SWAPPED["ddpm_shared"]},
    variants={"log_snr": sizes.VARIANTS["log_snr"]},
)
TINY.settings["network_config"] = sizes.SMALL | {"block_out_channels": [8, 16]}


def colours():
    """Features of three numbers."""
    return lambda x: x.mean((2, 3))


@pytest.fixture(scope="module")
def measured(run):
    """What measuring the model of that name would have left."""

    def measured(name, checkpoint, path):
        kind, _, seed = name.rpartition("-")
        height = 0.11 + 0.01 * int(seed)
        shared = kind in ("etsdm", "ddpm_shared")
        dataset = run(TIMES, draws=6, shared=shared, height=height, seed=int(seed), checkpoint=checkpoint)
        dataset = dataset.assign(sensitivity=dataset["loss"])
        frozen = dataset.attrs["frozen"]
        frozen = frozen | {"model": frozen["model"] | {"weights_sha256": name * 4}}
        launches = [{"versions": {"torch": "2"}}]
        dataset = dataset.assign_attrs(frozen=frozen, launches=launches)
        write(dataset, path)
        return dataset

    return measured


@pytest.fixture(scope="module")
def models(tmp_path_factory, measured):
    """What training, measuring and evaluating would have left."""
    tmp_path = tmp_path_factory.mktemp("models")
    for name in DIGITS.trainings:
        kind, seed = name.split("-")
        measured(name, name, tables.run_of(tmp_path, name))
        fid = np.random.default_rng([int(seed), len(kind)]).normal(5, 1, (2, DIGITS.sampling_seeds))
        write_evaluation(evaluation(fid, f"elsewhere/{name}"), tables.evaluation_of(tmp_path, name, "digits"))
    return tmp_path


def test_small_tables_give_what_the_runs_give(models):
    tables.keep(DIGITS, models, models)
    small = tables.kept(DIGITS, models / "study")
    names = [[f"{kind}-{seed}" for kind in sizes.KINDS] for seed in range(DIGITS.seeds)]
    pairs = [tuple(tables.run_of(models, name) for name in pair) for pair in names]
    judged = [tuple(tables.evaluation_of(models, name, "digits") for name in pair) for pair in names]
    whole = compare(*pairs[0], pairs[1:], judged, tables.LABELS)
    assert len(small.statements) == len(whole.statements) > 10
    for s, t in zip(small.statements, whole.statements, strict=True):
        assert (s.name, s.verdict) == (t.name, t.verdict)
        for a, b in zip(s.effect.difference, t.effect.difference, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9, err_msg=s.name)
    assert sum(path.stat().st_size for path in (models / "study").iterdir()) < 300_000


def test_figure_and_words_come_from_the_tables_alone(models, tmp_path):
    tables.keep(DIGITS, models, tmp_path)
    tables.redraw(DIGITS, tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"study", *(f"study.{end}" for end in ("pdf", "svg", "png", "csv", "md"))}
    text, about = (tmp_path / "study.md").read_text(), (tmp_path / "study" / "about.json").read_text()
    assert "5 training seeds" in text
    assert "| K, sum &lt; 100 |" in text
    assert str(models) not in text + about
    assert json.loads(about)["runs"]["ddpm-0"]["checkpoint"] == "ddpm-0"


@pytest.mark.parametrize("size", sizes.SIZES.values(), ids=sizes.SIZES)
def test_every_edge_is_measured_on_both_sides(size):
    timesteps = [int(k) for k in size.timesteps.split(",")]
    assert timesteps == sorted(set(timesteps))
    assert {k + side for k in EDGES[1:] for side in (-1, 0)} <= set(timesteps)
    assert timesteps[0] == 0
    assert timesteps[-1] == 999


class StoppedError(Exception):
    """As if by Ctrl-C."""


def test_it_goes_on_elsewhere_from_where_it_was_stopped(tmp_path, monkeypatch, measured):
    """Stopped while it trains and while it judges, and its folder moved in between: every model is made once."""
    photographs = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "photographs.npz", photographs)
    monkeypatch.setattr(study, "LARGEST_MODEL", 2**17)  # a little less than these models have
    done: list[str] = []
    train, grade = lipdiag.train, study.grade

    def trained(recipe, name, **told):
        if len(done) == 2:
            done.append("stopped")
            raise StoppedError
        done.append(name)
        return train(recipe, name, progress=False, **told)

    def judged(*asked, **how):
        if done.count("judged") == 3:
            done.append("judged")
            raise StoppedError
        done.append("judged")
        return grade(*asked, **how)

    def run(model, data, plan, out, **how):
        assert (data, plan.timesteps, plan.draws) == ("judge.npy", TINY.timesteps, TINY.draws)
        owner, clock = TINY.swapped.get(out.stem.rpartition("-")[0], (None, None))
        assert how.get("clock") == clock
        assert owner is None or model.rpartition("-")[0] == owner
        return measured(out.stem, model if isinstance(model, str) else "in memory", out)

    monkeypatch.setattr(lipdiag, "train", trained)
    monkeypatch.setattr(lipdiag, "measure", run)
    monkeypatch.setattr(study, "grade", judged)
    folders = [tmp_path / name for name in ("here", "there", "elsewhere")]
    folders[0].mkdir()
    for folder, after in zip(folders, [*folders[1:], None], strict=True):
        given = tmp_path / "photographs.npz" if folder == folders[0] else None
        monkeypatch.chdir(folder)
        if after is None:
            study.carry_out(TINY, given, "cpu")
        else:
            with pytest.raises(StoppedError):
                study.carry_out(TINY, given, "cpu")
            folder.rename(after)
    assert [name for name in done if name in TINY.trainings] == list(TINY.trainings)
    assert done.count("judged") == 1 + 2 * len(TINY.models)
    last = folders[-1]
    means = photographs.reshape(64, 8, 2, 8, 2, 3).mean((2, 4))
    assert np.array_equal(np.load(last / "train.npy"), np.round(means[:40]))
    assert np.array_equal(np.load(last / "judge.npy"), np.round(means[40:]))
    for name in TINY.trainings:
        assert {tensor.dtype for tensor in load_file(last / name / "model.safetensors").values()} == {torch.float16}
        assert (last / name / "model.safetensors").stat().st_size <= study.LARGEST_MODEL
        assert not (last / name / "snapshot.safetensors").exists()
    tables.keep(TINY, last, tmp_path)
    tables.redraw(TINY, tmp_path)
    text = (tmp_path / "tiny.md").read_text()
    assert "2 training seeds" in text
    assert f"The same samples, seen by {__name__}:colours" in text
    assert "| | DDPM, one more training, 95 % | log_snr |" in text
    assert "judge.npy" not in text
    assert (tmp_path / "tiny-pixels.png").stat().st_size > 10_000
    quality = tables.Tables(tmp_path / "tiny").rows["quality"]
    assert len(quality) == 2 * (6 * 7 + 1)  # extractors, pairs and swapped with all samplers, the variant with one
    judged = lipdiag.store.reader.open_evaluation(tables.evaluation_of(last, "ddpm_shared-0", "pixels"))
    assert judged.attrs["clock"] == "shared(timesteps(1000), 100, 5)"
    assert "| | DDPM, shared | against DDPM, 95 % | is |" in text
    (shared,) = tables.swaps(TINY, tables.Tables(tmp_path / "tiny"), "pixels")
    (fid,) = [s.effect for s in shared.statements if s.name == "FID dpm:3"]
    for kind, found in (("ddpm", fid.a), ("ddpm_shared", fid.b)):
        seeds = [
            row["fid"]
            for row in quality
            if (row["kind"], row["extractor"], row["sampler"]) == (kind, "pixels", "dpm:3")
        ]
        assert len(seeds) == TINY.seeds
        np.testing.assert_allclose(found, np.mean(list(map(float, seeds))))


def test_a_swapped_kind_is_told_the_time_as_its_twin_was():
    clocks = {
        kind: lipdiag.training.door.described("tiny32", told.get("etsdm")).clock for kind, told in sizes.KINDS.items()
    }
    for owner, clock in sizes.SWAPPED.values():
        (twin,) = {*sizes.KINDS} - {owner}
        assert clock == clocks[twin] != clocks[owner]


def test_a_model_told_the_log_snr_is_measured_by_timestep():
    """It is the same predictor, and its K is the quotient of its predictions at neighbours in the table."""
    recipe = lipdiag.training.door.described("tiny32", None, TINY.settings | TINY.variants["log_snr"])
    plain = lipdiag.training.loop.build(recipe)
    told = study.by_timestep(plain)
    k = torch.tensor([0.0, 1, 500], dtype=torch.float64)
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(told(x, (k + 1) / 1000), plain(x, (k + 1) / 1000))
    plan = lipdiag.Plan(timesteps=tuple(k.tolist()), draws=1, quantities=("time_difference",))
    found = lipdiag.measure(told, torch.rand(4, 3, 8, 8), plan, progress=False, probe=False)
    assert found["timestep"].values.tolist() == k.tolist()
    assert found["time_difference"].attrs["units"] == "1/timestep"


def test_one_more_training_lies_in_the_interval_of_prediction(seed, p_value):
    """In 95 of 100 cases, of normal numbers and of those whose logarithm is normal."""
    from tests.holm import coverage

    numbers = np.random.default_rng(seed).normal(0, 1, (4000, 4))
    for by_ratio, values in ((False, numbers), (True, np.exp(numbers))):
        ends = np.array([tables.one_more(row[:3], by_ratio) for row in values])
        hits = (ends[:, 0] <= values[:, 3]) & (values[:, 3] <= ends[:, 1])
        p_value(coverage(int(hits.sum()), len(hits), 0.95))


def test_the_sine_table_is_the_sine():
    """sigma = sin(pi t / 2) at every timestep but the last, where a beta of 1 would leave nothing to divide by."""
    from lipdiag.diffusion.schedule import SCHEDULES
    from lipdiag.diffusion.spelling import parse

    t = torch.arange(1, 1000, dtype=torch.float64) / 1000
    sigma = parse(sizes.sine(), SCHEDULES)(t)[1]
    torch.testing.assert_close(sigma, torch.sin(t * torch.pi / 2), rtol=1e-10, atol=0)
