"""The run that survives: kills, signals, crashes, full disks, damaged files, other clocks, several workers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner

import lipdiag
from lipdiag.cli import main
from lipdiag.design.plan import Plan
from lipdiag.errors import IncompleteError, RunError, StorageError
from lipdiag.store import store, suspicion
from lipdiag.store.layout import units
from lipdiag.study import measure as front
from lipdiag.study import study
from tests.networks import SHAPE, Tiny, predictor

ROOT = Path(__file__).parents[2]
DATA = np.random.default_rng(0).normal(size=(20, *SHAPE)).astype(np.float32)
PLAN = Plan(timesteps="0,19,500,999", draws=16, batch=16, quantities=("time_difference", "loss"))
ALONE = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def prepared(model, plan, out=None, **rest):
    """A study that does not try the model's conventions, which is most of the time that a small one takes."""
    return front.prepared(model, DATA, plan, out, device="cpu", probe=False, **rest)


def measure(out=None, model=None, plan=PLAN, **rest):
    """To the end, or until it stops."""
    with prepared(model or predictor(), plan, out, **rest) as ready:
        front.carry_out(ready, quiet=True)
    return ready.store.dataset()


def equal(a, b):
    assert set(a.data_vars) == set(b.data_vars)
    for name in a.data_vars:
        assert a[name].values.tobytes() == b[name].values.tobytes(), name


def kill_test(folder, kills, seed):
    process = subprocess.run(
        [sys.executable, "-m", "tests.safety.killing", str(kills), str(seed), str(folder)],
        capture_output=True, text=True, cwd=ROOT, env=ALONE, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_killed_workers_lose_nothing(tmp_path):
    """4 kills of one or both of two workers: no stored unit is lost, and the finished run is the undisturbed one."""
    assert kill_test(tmp_path, 4, 3)["kills"] >= 4


@pytest.mark.slow
def test_fifty_killed_workers_lose_nothing(tmp_path):
    found = kill_test(tmp_path, 50, int(time.time()))
    assert found["kills"] >= 50
    assert found["acknowledged"] > 50


class Deadly(Tiny):
    """Kills its process, or raises, when it is asked about one time."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x, timestep):
        if (timestep == 19).any() and len(x) > 8:  # the checks before a run ask about few pairs
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "raise":
                raise ValueError("this network has a hole")
        return super().forward(x, timestep)


DEADLY = PLAN.replace(draws=8)
CRASHING = """
import os, sys
from pathlib import Path
from lipdiag.study import measure
from tests.networks import predictor
from tests.safety.test_survival import DEADLY, Deadly, measure
out, code, launches = Path(sys.argv[1]), 9, 0
while code:
    child = os.fork()
    if not child:
        measure(out, predictor(Deadly("kill")), DEADLY)
        os._exit(0)
    code, launches = os.WTERMSIG(os.waitpid(child, 0)[1]), launches + 1
    print(launches, flush=True)
"""


def test_a_unit_that_kills_every_launch_is_given_up_and_the_rest_is_measured(tmp_path):
    """The first launch dies while it is timed, the second one after the rest, the next four where nothing else is."""
    out = tmp_path / "a.zarr"
    process = subprocess.run([sys.executable, "-c", CRASHING, out], cwd=ROOT, env=ALONE, capture_output=True, text=True)
    assert process.stdout.split()[-1] == "7", process.stderr
    found = lipdiag.open_run(out)
    assert found["done"].values[:, 0].tolist() == [2, 2, 1, 1]
    assert len(found.attrs["launches"]) == 1
    notes = found.attrs["launches"][0]["notes"]
    assert any("1 unit, in which a launch died, comes last" in note for note in notes)
    assert any("given up, as launch after launch died in it: timesteps 0 to 19" in note for note in notes)
    healed = predictor(Deadly("no"))  # the same weights: a machine with more memory, say
    assert measure(out, healed, DEADLY)["done"].values[:, 0].tolist() == [2, 2, 1, 1]
    equal(measure(out, healed, DEADLY, retry=True), measure(plan=DEADLY))


@pytest.mark.parametrize("deaths", [[suspicion.LATE] * 2, [suspicion.EARLY] * 6, [suspicion.PRICED] * 9])
def test_a_machine_that_is_taken_away_again_and_again_costs_no_unit(tmp_path, monkeypatch, deaths):
    """All in one unit: twice after others, six times where it was the first, nine times while the launch began."""
    out = tmp_path / "a.zarr"
    plan = PLAN.replace(draws=8)
    for death in deaths:
        with prepared(predictor(), plan, out) as ready:
            unit = units(ready.layout, 4, range(8))[0]
            left = death if death == suspicion.PRICED else ready.suspicion.mark(unit, others=death == suspicion.LATE)
            ready.store.begin(unit, left)
    order, real = [], study.measure_unit
    monkeypatch.setattr(study, "measure_unit", lambda ready, unit: order.append(unit) or real(ready, unit))
    equal(measure(out, plan=plan), measure(plan=plan))
    assert order[1] == unit, "what may have killed a launch comes last"


def test_timing_a_launch_marks_no_unit_where_one_is_done(tmp_path, monkeypatch):
    """The first launch marks the unit it is timed by, and takes the mark away; later ones are timed by what is done."""
    marks = []
    real = store.Store.begin
    monkeypatch.setattr(store.Store, "begin", lambda run, unit, mark: marks.append(mark) or real(run, unit, mark))
    with prepared(predictor(), PLAN, tmp_path / "a.zarr") as ready:
        assert marks == [suspicion.PRICED, 0]
        next(study.run(ready))
    marks.clear()
    with prepared(predictor(), PLAN, tmp_path / "a.zarr") as ready:
        assert not marks
        assert ready.forward_seconds > 0


def test_retry_saves_a_unit_before_it_is_given_up(tmp_path):
    """So many launches died in it, and no later one has said so yet."""
    out = tmp_path / "a.zarr"
    with prepared(predictor(), PLAN, out) as ready:
        ready.store.begin(units(ready.layout, 4, range(16))[0], suspicion.PATIENCE)
    equal(measure(out, retry=True), measure())


def test_a_unit_on_which_the_model_fails_is_given_up_and_the_rest_is_measured(tmp_path):
    found = measure(tmp_path / "a.zarr", predictor(Deadly("raise")), PLAN)
    assert found["done"].values[:, 0].tolist() == [2, 2, 1, 1]
    notes = found.attrs["launches"][0]["notes"]
    assert sum("failed with ValueError (this network has a hole) at timesteps 0 to 19" in note for note in notes) == 4
    for name in ("loss", "time_difference"):
        np.testing.assert_array_equal(found[name][2:], measure()[name][2:])
    with pytest.raises(IncompleteError, match="as on every unit before"):
        measure(tmp_path / "b.zarr", predictor(Deadly("raise")), PLAN.replace(timesteps="19,20", draws=32))


def test_an_orderly_end_is_no_attempt(tmp_path, monkeypatch):
    """Interrupting in the same unit as often as one likes does not give it up."""
    out = tmp_path / "a.zarr"
    real = study.measure_unit

    def interrupted(ready, unit):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "measure_unit", interrupted)
    for _ in range(3):
        measure(out)
    monkeypatch.setattr(study, "measure_unit", real)
    equal(measure(out), measure())


@pytest.mark.parametrize("order", ["i", "ii", "iii"])
def test_order_workers_and_interruptions_do_not_move_a_bit(tmp_path, order):
    """Shards of 1, 2 or 3, in any order, each stopped after each unit and gone on with."""
    out, shards = tmp_path / "a.zarr", len(order)
    chance = np.random.default_rng(shards)
    left = list(range(shards))
    while left:
        shard = int(chance.choice(left))
        with prepared(predictor(), PLAN, out, shard=(shard, shards)) as ready:
            steps = study.run(ready)
            before = int((ready.store.group["done"][:] == 1).sum())
            for _ in steps:
                if (ready.store.group["done"][:] == 1).sum() > before:
                    break
            else:
                left.remove(shard)
            steps.close()
    equal(lipdiag.open_run(out), measure())


def test_two_workers_make_one_run_at_once(tmp_path):
    """The loser of the race finds the winner's run, and one of another plan is refused."""
    out, real = tmp_path / "a.zarr", os.rename

    def beaten(source, target, plan=PLAN):
        os.rename = real
        measure(out, plan=plan)
        real(source, target)

    os.rename = beaten
    try:
        equal(measure(out), measure())
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]
        shutil.rmtree(out)
        os.rename = lambda source, target: beaten(source, target, PLAN.replace(seed=5))
        with pytest.raises(RunError, match=r"plan\.seed is 5 there and 0 here"):
            measure(out)
    finally:
        os.rename = real


def test_launches_of_two_workers_are_both_on_record(tmp_path):
    """The second opens the run before the first records itself."""
    out = tmp_path / "a.zarr"
    with (
        prepared(predictor(), PLAN, out, shard=(0, 2)) as first,
        prepared(predictor(), PLAN, out, shard=(1, 2)) as second,
    ):
        front.carry_out(first, quiet=True)
        front.carry_out(second, quiet=True)
    assert len(lipdiag.open_run(out).attrs["launches"]) == 2


@pytest.mark.parametrize("kept", [True, False], ids=["of this lipdiag", "of an older one"])
def test_a_growth_that_was_cut_short_is_completed(tmp_path, kept):
    """Between two arrays the run is as it was; older ones recorded the half of it, and draws without numbers."""
    out = tmp_path / "a.zarr"
    small = measure(out)
    opened = store.open_store(out)
    opened.group["done"].resize((4, 32))
    if kept:
        equal(lipdiag.open_run(out), small)
    else:
        opened.group["draw"].resize((32,))
        with warnings.catch_warnings(action="ignore"):  # version 3 of the format has no word on this yet
            zarr.consolidate_metadata(opened.group.store)
        assert store.open_store(out).draws == 16
    grown = PLAN.replace(draws=32)
    equal(measure(out, plan=grown), measure(plan=grown))
    np.testing.assert_array_equal(store.open_store(out).group["draw"], np.arange(32))


def test_draws_that_were_numbered_wrong_are_numbered_again(tmp_path):
    out = tmp_path / "a.zarr"
    whole = measure(out)
    store.open_store(out).group["draw"][8:] = 0
    equal(measure(out), whole)
    np.testing.assert_array_equal(store.open_store(out).group["draw"], np.arange(16))


def test_a_stale_worker_does_not_shrink_a_run(tmp_path):
    """One that opened the run before another let it grow far, and grows it less."""
    out = tmp_path / "a.zarr"
    measure(out)
    stale = store.open_store(out)
    whole = measure(out, plan=PLAN.replace(draws=32))
    stale.grow(24)
    equal(lipdiag.open_run(out), whole)


@pytest.mark.parametrize("name", ["loss", "done", "attempts"])
def test_a_flipped_bit_is_found_refused_and_measured_again(tmp_path, name):
    out = tmp_path / "a.zarr"
    whole = measure(out)
    chunk = out / name / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[5] ^= 16
    chunk.write_bytes(data)
    if name != "attempts":
        with pytest.raises(RunError, match=r"a\.zarr is damaged: .*[cC]hecksum"):
            lipdiag.open_run(out)
    again = measure(out)
    equal(again, whole)
    assert name == "attempts" or any("damaged on disk" in note for note in again.attrs["launches"][-1]["notes"])


@pytest.mark.parametrize("keep", [0, 1, -1])
def test_a_cut_chunk_is_measured_again(tmp_path, keep):
    """As a power cut leaves it: nothing, a byte, all but one."""
    out = tmp_path / "a.zarr"
    whole = measure(out)
    for name in ("loss", "done"):
        chunk = out / name / "c" / "0" / "1"
        chunk.write_bytes(chunk.read_bytes()[:keep])
    equal(measure(out), whole)


def test_the_size_of_a_micro_batch_moves_the_last_digits_alone():
    """1, 2, 7 and 32 pairs at once, where 7 divides nothing."""
    plan = PLAN.replace(dtype="float64", batch=32, quantities=("time_derivative", "spectral_norm", "loss"))
    with prepared(predictor(), plan) as ready:
        unit = units(ready.layout, 4, range(16))[0]
        found = {}
        for ready.batch in (32, 7, 2, 1):
            found[ready.batch] = study.measure_unit(ready, unit)
    for size in (1, 2, 7):
        for name in ("time_derivative", "loss"):
            np.testing.assert_allclose(found[size][name], found[32][name], rtol=1e-10, err_msg=f"{name}, {size}")
        # stops at 5 %, so that a step more or less is allowed within the interval
        np.testing.assert_allclose(found[size]["spectral_norm"], found[32]["spectral_norm"], rtol=0.05)


def test_threads_do_not_move_a_bit():
    alone = measure()
    torch.set_num_threads(2)
    try:
        equal(measure(), alone)
    finally:
        torch.set_num_threads(1)


def test_temporary_files_of_killed_workers_do_no_harm(tmp_path):
    """zarr leaves them beside what it was about to write."""
    out = tmp_path / "a.zarr"
    whole = measure(out)
    for place in (out, out / "loss", out / "loss" / "c" / "0"):
        (place / "zarr.0123456789abcdef.partial").write_bytes(b"half")
    equal(measure(out, plan=PLAN.replace(draws=32)).isel(draw=slice(0, 16)), whole)


def test_clocks_that_jump_change_nothing(tmp_path, monkeypatch):
    whole = measure()
    chance = np.random.default_rng(0)
    for name in ("time", "perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, lambda: float(chance.uniform(-1e9, 1e9)))
    found = measure(tmp_path / "a.zarr")
    monkeypatch.undo()
    equal(found, whole)


def test_a_disk_that_fills_up_is_said_and_nothing_is_lost(tmp_path):
    """A limit on the size of files stands for the disk: the system refuses the write itself."""
    out = tmp_path / "a.zarr"
    script = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from lipdiag.study import study
from lipdiag.errors import StorageError
from tests.safety.test_survival import measure
real, calls = study.measure_unit, []
def limited(ready, unit):
    calls.append(unit)
    if len(calls) == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    return real(ready, unit)
study.measure_unit = limited
try:
    measure(Path(sys.argv[1]))
except StorageError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    process = subprocess.run([sys.executable, "-c", script, out], cwd=ROOT, env=ALONE, capture_output=True, text=True)
    assert process.returncode == 5, process.stderr
    assert "a.zarr: File too large" in process.stdout
    kept = lipdiag.open_run(out)
    # the second unit may still have been on its way to the disk when that was full
    assert (kept["done"] == 1).sum() in (16, 32)
    equal(measure(out), measure())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place nobody may write")
def test_a_place_that_nobody_may_write_is_said():
    with pytest.raises(StorageError, match=r"cannot write /proc/self/a\.zarr"):
        measure(Path("/proc/self/a.zarr"))


class Holey(Tiny):
    """NaN where the first pixel of its input is large: on some draws."""

    def forward(self, x, timestep):
        out = super().forward(x, timestep)
        return out * torch.where(x[:, :1, :1, :1] > 0.8, torch.nan, 1.0)


def test_nan_at_some_draws_is_stored_counted_and_judged(tmp_path, monkeypatch):
    """Every quantity goes through; other draws have the numbers they have without."""
    monkeypatch.chdir(tmp_path)
    np.save("data.npy", DATA)
    (tmp_path / "holey.py").write_text(
        "from tests.networks import predictor\nfrom tests.safety.test_survival import Holey\n"
        "def model():\n    return predictor(Holey())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    quantities = ["spectral_norm", "time_derivative", "squared_frobenius_norm", "loss", "one_sided_lipschitz"]
    options = [part for name in quantities for part in ("--quantity", name)]
    result = CliRunner().invoke(
        main, ["measure", "--factory", "holey:model", "--data", "data.npy", "--timesteps", "0,500", "--draws", "16",
               "--batch", "16", *options, "--out", "a.zarr"]
    )  # fmt: skip
    assert result.exit_code == 6, result.output
    assert "are not finite, first at timestep" in result.stderr
    found = lipdiag.open_run("a.zarr")
    bad = np.isnan(found["loss"].values)
    assert 0 < bad.sum() < bad.size / 2
    plan = Plan(timesteps="0,500", draws=16, batch=16, quantities=tuple(quantities))
    whole = lipdiag.measure(predictor(), DATA, plan, progress=False, device="cpu")
    for name in ("spectral_norm", "time_derivative", "loss"):
        np.testing.assert_array_equal(np.isnan(found[name].values), bad, err_msg=name)
        np.testing.assert_allclose(found[name].values[~bad], whole[name].values[~bad], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_before_the_first_unit_ends_with_its_code(tmp_path, monkeypatch, number):
    """While the model is loaded, where there is nothing to say yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(front, "resolve_model", lambda *_, **__: signal.raise_signal(number))
    result = CliRunner().invoke(main, ["measure", "digits-ddpm"])
    assert result.exit_code == 128 + number


def test_a_second_signal_ends_at_once(tmp_path):
    script = """
import signal
from lipdiag.cli.options import stoppable
with stoppable():
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.raise_signal(signal.SIGTERM)
"""
    assert subprocess.run([sys.executable, "-c", script], env=ALONE, check=False).returncode == 143


def test_another_plan_and_a_newer_format_are_refused_with_their_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["measure", "digits-ddpm", "--timesteps", "0,19", "--draws", "4", "--quantity", "loss", "--out", "a.zarr"]
    assert CliRunner().invoke(main, command).exit_code == 0
    result = CliRunner().invoke(main, [*command, "--seed", "3", "--clock", "timesteps(999)"])
    assert result.exit_code == 4
    assert 'model.clock is "timesteps(1000)" there and "timesteps(999)" here' in result.stderr
    assert "plan.seed is 0 there and 3 here" in result.stderr
    content = json.loads(Path("a.zarr/zarr.json").read_text())
    content["attributes"]["format_version"] = 2
    Path("a.zarr/zarr.json").write_text(json.dumps(content))
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 4
    assert "newer lipdiag (format 2" in result.stderr
