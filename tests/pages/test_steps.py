"""The table over a training's checkpoints: rows in the order of their steps, numbers those of the runs."""

import re

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import lipdiag
from lipdiag.cli import main
from lipdiag.findings.steps import step
from lipdiag.pages.steps import over_steps
from lipdiag.printing import with_half_width
from tests.runs import make


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("run/checkpoint-4000", 4000),
        ("run/epoch=3-step=500.ckpt", 500),
        ("v2/ckpt_0100000.pt", 100000),
        ("run-7/final", None),
    ],
)
def test_a_step_is_the_last_number_of_a_name(name, number):
    assert step(name) == number


def half(values):
    return stats.t.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)


def test_rows_are_in_the_order_of_steps_and_hold_the_runs_numbers():
    runs = {n: make(draws=8, checkpoint=f"run/checkpoint-{n}", seed=n, height=0.1 * (n / 200)) for n in (1000, 200)}
    table = over_steps(list(runs.values()))
    rows = [re.split(r" {2,}", line.strip()) for line in table.splitlines() if re.match(r" *\d+ {2,}", line)]
    assert [int(row[0]) for row in rows] == [200, 1000]
    assert all(len(line) <= 80 for line in table.splitlines())
    for row in rows:
        run = runs[int(row[0])]
        K, loss = run["time_difference"].values, run["loss"].values
        top = K.mean(1).argmax()
        assert row[1] == with_half_width(K[top].mean(), half(K[top]))
        assert float(row[2]) == pytest.approx(run["timestep"].values[top], rel=1e-2)
        assert row[3] == with_half_width(K.mean(), half(K.mean(0)))
        assert row[-1] == with_half_width(loss.mean(), half(loss.mean(0)))


def test_without_a_step_a_run_is_told_by_its_name_and_all_stay_as_they_are():
    table = over_steps(
        [make(draws=3, checkpoint="run/final"), make(draws=3, checkpoint="run/5"), make(draws=3, checkpoint="run/4")]
    )
    assert [line.split()[0] for line in table.splitlines()[-3:]] == ["final", "5", "4"]


def test_where_jumps_were_not_measured_no_largest_k_is_told():
    """A model that shares timesteps changes between its blocks alone: elsewhere its K is 0 and says nothing."""
    coarse = np.array([0.0, 1, 10, 100, 500, 900])
    whole = np.union1d(coarse, [19.0, 39, 59, 79, 99])
    for times, dashes in ((coarse, 3), (whole, 0)):
        table = over_steps([make(times, draws=3, shared=True, checkpoint=f"run/{n}") for n in (10, 20)])
        rows = [line.split() for line in table.splitlines()[-2:]]
        assert [row.count("-") for row in rows] == [dashes] * 2
        assert ("jumps between blocks were not measured" in " ".join(table.split())) == bool(dashes)
        assert all(len(line) <= 80 for line in table.splitlines())


def test_names_leave_the_numbers_their_room():
    ends = ("a-name-that-tells-much-of-a-training", "another-one")
    table = over_steps([make(draws=3, checkpoint=f"digits-{end}") for end in ends])
    assert max(map(len, table.splitlines())) <= 80
    assert [line.split()[0] for line in table.splitlines()[-2:]] == ["a-nam...", "anoth..."]
    alike = over_steps([make(draws=3, checkpoint=f"long-name{end}") for end in ("ofone", "ofanother")])
    assert [line.split()[0] for line in alike.splitlines()[-2:]] == ["nameofone", "nameofanother"]


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits-etsdm", "digits-ddpm"):
        lipdiag.save(
            f"run/checkpoint-{ {'digits-ddpm': 20, 'digits-etsdm': 100}[name] }", lipdiag.load(name), data="digits"
        )


SMALL = ["--timesteps", "0,19,500", "--draws", "3", "--quantity", "time_difference", "--quantity", "loss", "--no-probe"]


def test_several_checkpoints_are_measured_by_one_command(inside, tmp_path):
    both = ["run/checkpoint-100", "run/checkpoint-20"]
    result = CliRunner().invoke(main, ["measure", *both, *SMALL, "--out", "runs"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["checkpoint-100.zarr", "checkpoint-20.zarr"]
    assert [line.split()[0] for line in result.stdout.splitlines()[-2:]] == ["20", "100"]
    runs = [lipdiag.open_run(f"runs/checkpoint-{n}.zarr") for n in (20, 100)]
    assert over_steps(runs) in result.stdout
    assert (runs[0]["time_difference"][0] > 0).all()
    assert (runs[1]["time_difference"][0] == 0).all()  # inside a block


def test_checkpoints_of_one_name_are_refused(inside):
    result = CliRunner().invoke(main, ["measure", "run/checkpoint-20", "other/checkpoint-20"])
    assert result.exit_code == 2
    assert "checkpoint-20.zarr" in result.stderr
