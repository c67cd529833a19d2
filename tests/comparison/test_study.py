"""The study's tables hold all that its figure and verdict need."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from lipdiag.comparison.comparison import compare
from lipdiag.quality.evaluation import write as write_evaluation
from tests.comparison.test_comparison import evaluation
from tests.runs import EDGES, LOG_TIMES, write

SCRIPT = Path(__file__).parents[2] / "figures" / "study.py"
TIMES = np.union1d(LOG_TIMES, np.array(EDGES[1:]) - 1)


@pytest.fixture(scope="module")
def study():
    found = importlib.util.spec_from_file_location("study", SCRIPT)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(tmp_path_factory, study, run):
    """What training, measuring and evaluating would have left."""
    tmp_path = tmp_path_factory.mktemp("models")
    for seed in study.SEEDS:
        for kind in study.KINDS:
            name = f"{kind}-{seed}"
            dataset = run(TIMES, draws=6, shared=kind == "etsdm", height=0.11 + 0.01 * seed, seed=seed, checkpoint=name)
            dataset = dataset.assign(sensitivity=dataset["loss"])
            frozen = dataset.attrs["frozen"]
            frozen = frozen | {"model": frozen["model"] | {"weights_sha256": name * 4}}
            write(
                dataset.assign_attrs(frozen=frozen, launches=[{"versions": {"torch": "2"}}]),
                study.run_of(tmp_path, name),
            )
            fid = np.random.default_rng([seed, len(kind)]).normal(5, 1, (2, len(study.SAMPLING_SEEDS)))
            write_evaluation(evaluation(fid, f"elsewhere/{name}"), study.evaluation_of(tmp_path, name))
    return tmp_path


def test_small_tables_give_what_the_runs_give(study, models):
    study.keep(models, models / "study")
    small = study.kept(models / "study")
    pairs, judged = (
        [tuple(place(models, f"{kind}-{seed}") for kind in study.KINDS) for seed in study.SEEDS]
        for place in (study.run_of, study.evaluation_of)
    )
    whole = compare(*pairs[0], pairs[1:], judged, study.LABELS)
    assert len(small.statements) == len(whole.statements) > 10
    for s, t in zip(small.statements, whole.statements, strict=True):
        assert (s.name, s.verdict) == (t.name, t.verdict)
        for a, b in zip(s.effect.difference, t.effect.difference, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9, err_msg=s.name)
    assert sum(path.stat().st_size for path in (models / "study").iterdir()) < 300_000


def test_figure_and_words_come_from_the_tables_alone(study, models, tmp_path):
    study.keep(models, models / "study")
    out = tmp_path / "drawn"
    out.mkdir()
    study.redraw(models / "study", out)
    assert {path.name for path in out.iterdir()} == {f"study.{end}" for end in ("pdf", "svg", "png", "csv", "md")}
    text = (out / "study.md").read_text()
    assert "5 training seeds" in text
    assert "| K, sum &lt; 100 |" in text
    assert str(models) not in text + (models / "study" / "about.json").read_text()
    assert json.loads((models / "study" / "about.json").read_text())["runs"]["ddpm-0"]["checkpoint"] == "ddpm-0"


def test_every_edge_is_measured_on_both_sides(study):
    timesteps = [int(k) for k in study.TIMESTEPS.split(",")]
    assert timesteps == sorted(set(timesteps))
    assert {k + side for k in EDGES[1:] for side in (-1, 0)} <= set(timesteps)
    assert timesteps[0] == 0
    assert timesteps[-1] == 999
