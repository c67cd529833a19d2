"""Two processes train the model that one trains, whatever becomes of them on the way."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lipdiag import distributed
from lipdiag.training.recipe import RECIPES, Recipe, set_fields
from lipdiag.training.session import session

STEPS = 40
FIELDS = [
    "batch=8", "warmup=2", "network_config.block_out_channels=[8,8]", "network_config.attention_head_dim=4",
    "network_config.norm_num_groups=4",
]  # fmt: skip
needs_proc = pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes in /proc")


def recipe() -> Recipe:
    return set_fields(RECIPES["digits"], [*FIELDS, f"steps={STEPS}"])


def losses(folder: Path) -> dict[int, float]:
    """Step -> loss, of a training's log."""
    with (folder / "log.csv").open() as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[int, float]:
    """The losses of a single process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    for _ in session(recipe(), folder):
        pass
    return losses(folder)


def launch(folder: Path, restarts: int) -> subprocess.Popen:
    settings = [word for field in FIELDS for word in ("--set", field)]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        f"--max-restarts={restarts}", "--monitor-interval=0.2", "-m", "lipdiag", "train", *settings, "--steps",
        str(STEPS), "--out", str(folder), "--snapshot-every", "0", "--quiet", "--threads", "1", "--device", "cpu",
    ]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def wait_for_steps(process: subprocess.Popen, folder: Path, steps: int) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        if (folder / "log.csv").exists() and len(losses(folder)) >= steps:
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(process.communicate()[1])


def worker(parent: int, rank: int) -> int:
    """The process that torchrun gave this rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            about = (folder / "stat").read_text().rpartition(")")[2].split()
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(about[1]) == parent and b"RANK=%d" % rank in environment:
            return int(folder.name)
    raise LookupError(rank)


@needs_proc
def test_two_processes_of_which_one_is_killed_give_the_losses_of_one(tmp_path, alone):
    folder = tmp_path / "run"
    process = launch(folder, restarts=1)
    wait_for_steps(process, folder, 8)
    os.kill(worker(process.pid, 1), signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Signal 9" in errors or "SIGKILL" in errors or "exitcode: -9" in errors, "nothing was killed"
    assert output.count("wrote") == 1, "more than one process wrote"
    assert losses(folder) == pytest.approx(alone, rel=1e-4)


@needs_proc
def test_a_stopped_launch_keeps_what_it_has_and_one_process_goes_on(tmp_path, alone):
    folder = tmp_path / "run"
    process = launch(folder, restarts=0)
    wait_for_steps(process, folder, 8)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "goes on" in errors
    stopped = len(losses(folder))
    assert 8 <= stopped < STEPS
    first, *_ = session(recipe(), folder)
    assert first.step == stopped + 1
    assert losses(folder) == pytest.approx(alone, rel=1e-4)


def test_a_process_alone_is_its_own_group():
    with distributed.joined("cpu"):
        assert (distributed.rank(), distributed.size()) == (0, 1)
        assert distributed.mean([1.5, 2.0]) == [1.5, 2.0]
        assert distributed.anywhere(True)
        assert not distributed.anywhere(False)
    assert not distributed.orphaned(-1)
