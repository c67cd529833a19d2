"""One measurement by many processes: torchrun, shards, runs merged afterwards, and a finished run looked at again."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import lipdiag
from lipdiag.cli import main
from lipdiag.cli.shard import launched_shard
from lipdiag.errors import RunError, UsageError
from lipdiag.store.layout import units
from lipdiag.store.merge import merge
from lipdiag.store.store import open_store
from lipdiag.study import study
from tests.safety.test_survival import ALONE, PLAN, equal, measure

SMALL = ["digits-ddpm", "--timesteps", "0,19,500,999", "--draws", "8", "--batch", "8", "--quantity", "loss",
         "--no-probe"]  # fmt: skip


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments, env=None):
    result = CliRunner().invoke(main, list(arguments), env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_torchruns_workers_share_a_run(tmp_path):
    """The launcher's own processes; what they leave is what one process leaves."""
    process = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lipdiag",
         "measure", *SMALL, "--out", "a.zarr", "--json", "--threads", "1"],
        capture_output=True, text=True, env=ALONE, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    assert len(lipdiag.open_run("a.zarr").attrs["launches"]) == 2
    assert run("measure", *SMALL, "--out", "b.zarr", "--threads", "1").exit_code == 0
    equal(lipdiag.open_run("a.zarr"), lipdiag.open_run("b.zarr"))


def test_only_the_last_shard_reports_and_judges():
    first = run("measure", *SMALL, "--out", "a.zarr", "--shard", "0/2")
    assert first.exit_code == 0
    assert "shard 0/2 is finished; 16 of 32 pairs of a.zarr are still to come" in first.stdout
    last = run("measure", *SMALL, "--out", "a.zarr", env={"RANK": "1", "WORLD_SIZE": "2"})
    assert last.exit_code == 0
    assert "timestep" in last.stdout
    assert (lipdiag.open_run("a.zarr")["done"] == 1).all()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, (0, 1)), ({"RANK": "2", "WORLD_SIZE": "5"}, (2, 5)), ({"RANK": "2"}, (0, 1)),
     ({"RANK": "5", "WORLD_SIZE": "5"}, None), ({"RANK": "x", "WORLD_SIZE": "5"}, None)],
)  # fmt: skip
def test_a_launcher_is_read_from_the_environment(monkeypatch, environment, expected):
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if expected:
        assert launched_shard() == expected
    else:
        with pytest.raises(UsageError, match="RANK="):
            launched_shard()


@pytest.mark.skipif(sys.platform != "linux", reason="a service of Linux")
def test_workers_end_with_a_killed_launcher(tmp_path):
    """The launcher is killed without a chance to stop its worker, which would go on for a minute."""
    worker = (
        "import time; from lipdiag.cli.shard import launched_shard as f; f(); print('up', flush=True); time.sleep(60)"
    )
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    env = {**ALONE, "RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"}
    process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.kill()
    began = time.monotonic()
    assert process.stdout.read() == b""  # ends when the last holder of the pipe does
    assert time.monotonic() - began < 20
    process.communicate()


def shards(number, names, **rest):
    for i, name in enumerate(names):
        measure(Path(name), shard=(i, number), **rest)


@pytest.mark.parametrize("order", [("a.zarr", "b.zarr", "c.zarr"), ("c.zarr", "a.zarr", "b.zarr")])
def test_shards_measured_apart_and_merged_are_the_run_of_one(order):
    shards(3, ["a.zarr", "b.zarr", "c.zarr"])
    result = run("merge", "out.zarr", *order, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["copied"], told["missing"], told["agreeing"]) == (64, 0, 0)
    found = lipdiag.open_run("out.zarr")
    equal(found, measure())
    assert len(found.attrs["launches"]) == 3
    again = json.loads(run("merge", "out.zarr", *order, "--json", "--quiet").stdout)
    assert (again["copied"], again["agreeing"]) == (0, 64)
    assert len(lipdiag.open_run("out.zarr").attrs["launches"]) == 3
    equal(measure(Path("out.zarr")), found)  # a merged run can be gone on with


def test_what_several_runs_hold_must_be_equal():
    measure(Path("a.zarr"))
    measure(Path("b.zarr"))
    assert merge(Path("same.zarr"), [Path("a.zarr"), Path("b.zarr")]).agreeing == 64
    opened = open_store(Path("b.zarr"))
    unit = units(opened.layout, 4, range(16))[1]
    values = {name: opened.read(name, unit) for name in opened.variables}
    values["loss"][1, 3] = np.nextafter(values["loss"][1, 3], 9)  # one unit in the last place
    opened.write(unit, values)
    result = run("merge", "other.zarr", "a.zarr", "b.zarr")
    assert result.exit_code == 4
    assert "b.zarr disagrees with the runs before it on loss at timestep 999, draw 3" in result.stderr


@pytest.mark.parametrize("order", [("a.zarr", "b.zarr"), ("b.zarr", "a.zarr")])
def test_a_unit_of_fewer_draws_is_held_to_the_longer_one(order):
    """In whichever order: four draws measured alone, and the same four among sixteen with one of them moved."""
    measure(Path("a.zarr"), plan=PLAN.replace(draws=4, quantities=("loss",)))
    measure(Path("b.zarr"), plan=PLAN.replace(draws=16, quantities=("loss",)))
    short, long = open_store(Path("a.zarr")), open_store(Path("b.zarr"))
    parts = units(short.layout, 4, range(4))
    for unit in parts:
        short.write(unit, {"loss": long.read("loss", unit)})
    merged = merge(Path("same.zarr"), [*map(Path, order)])
    assert (merged.copied, merged.agreeing) == (64, 16)
    equal(lipdiag.open_run("same.zarr"), lipdiag.open_run("b.zarr"))
    short.write(parts[0], {"loss": np.nextafter(long.read("loss", parts[0]), 9)})
    with pytest.raises(RunError, match=f"{order[1]} disagrees with the runs before it on loss at timestep 0, draw 0"):
        merge(Path("other.zarr"), [*map(Path, order)])


def test_only_one_experiment_is_merged():
    shards(2, ["a.zarr", "b.zarr"])
    measure(Path("c.zarr"), plan=PLAN.replace(seed=4))
    result = run("merge", "out.zarr", "a.zarr", "c.zarr")
    assert result.exit_code == 4
    assert "a.zarr and c.zarr are not one experiment: plan.seed is 0 there and 4 here" in result.stderr
    assert not Path("out.zarr").exists()
    with pytest.raises(RunError, match=r"c\.zarr is another run"):
        merge(Path("c.zarr"), [Path("a.zarr"), Path("b.zarr")])
    assert run("merge", "a.zarr", "a.zarr").exit_code == 2
    assert run("merge", "out.zarr", "nothing.zarr").exit_code == 4


def test_a_merge_says_what_is_missing_and_leaves_out_what_is_damaged():
    shards(2, ["a.zarr", "b.zarr"])
    measure(Path("a.zarr"), plan=PLAN.replace(draws=24), shard=(0, 3))  # grown, and a third of it measured
    chunk = next(Path("b.zarr/loss/c").rglob("0"))
    chunk.write_bytes(b"\0" * len(chunk.read_bytes()))
    merged = merge(Path("out.zarr"), [Path("b.zarr"), Path("a.zarr")])
    assert merged.damaged == 16
    assert merged.missing > 0
    grown = PLAN.replace(draws=24)
    equal(measure(Path("out.zarr"), plan=grown), measure(plan=grown))


def test_a_finished_run_is_verified_bit_for_bit():
    command = ["measure", *SMALL, "--out", "a.zarr", "--deterministic"]
    assert run(*command, "--verify", "2").exit_code == 2
    assert run(*command).exit_code == 0
    result = run(*command, "--verify", "3", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["units"], told["equal"], told["largest_difference"]) == (3, 3, 0)
    opened = open_store(Path("a.zarr"))
    for unit in units(opened.layout, 4, range(8)):
        opened.write(unit, {"loss": opened.read("loss", unit) * (1 + 1e-12)})
    result = run(*command, "--verify", "1")
    assert result.exit_code == 1
    assert "loss of a.zarr differs by 1e-12" in result.stderr


def test_a_run_that_grew_is_verified_as_it_was_measured():
    """A tolerance, and a command that asks for fewer draws than there are, ask for parts of units."""
    few = ["measure", "digits-ddpm", "--timesteps", "0,10", "--quantity", "loss", "--out", "a.zarr", "--draws", "2",
           "--no-probe"]  # fmt: skip
    assert run(*few, "--tolerance", "0.5").exit_code == 0
    for tolerance in ((), ("--tolerance", "0.5")):
        result = run(*few, *tolerance, "--verify", "4", "--json")
        assert result.exit_code == 0, result.stderr
        told = json.loads(result.stdout)
        assert told["equal"] == told["units"] > 0


def test_another_machine_is_held_to_a_tolerance():
    """The record of another device: rounding is forgiven, a wrong number is not."""
    command = ["measure", *SMALL, "--out", "a.zarr"]
    assert run(*command).exit_code == 0
    opened = open_store(Path("a.zarr"))
    opened.group.attrs["launches"] = [{**opened.attributes["launches"][0], "device": "another"}]
    every = units(opened.layout, 4, range(8))
    for factor, code in ((1 + 1e-6, 0), (1.01, 1)):
        for unit in every:
            opened.write(unit, {"loss": opened.read("loss", unit) * factor})
        assert run(*command, "--verify", "1").exit_code == code


def test_deterministic_kernels_are_asked_for_and_given_back(monkeypatch):
    import torch

    seen = []
    real = study.measure_unit

    def watched(ready, unit):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return real(ready, unit)

    monkeypatch.setattr(study, "measure_unit", watched)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    found = measure(deterministic=True)
    assert set(seen) == {True}
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.allow_tf32
    assert found.attrs["launches"][0]["deterministic"]
    equal(found, measure())


def test_a_fixed_micro_batch_is_not_halved(monkeypatch):
    from lipdiag.errors import LipdiagError

    def none(point):
        raise MemoryError

    monkeypatch.setattr(study, "measure_point", none)
    with pytest.raises(LipdiagError, match="which --deterministic keeps as it is"):
        measure(deterministic=True)
