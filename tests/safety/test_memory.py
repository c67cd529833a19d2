"""Memory does not grow with the number of draws: a measurement, its table and its verdict, in fresh processes."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.networks import SHAPE
from tests.safety.test_survival import ALONE, ROOT

TOLERANCE = 1.05


def peak(folder, draws: int) -> int:
    """Kilobytes that `lipdiag measure` held at most, from its start to its end."""
    np.save(folder / "data.npy", np.random.default_rng(0).normal(size=(64, *SHAPE)).astype(np.float32))
    command = ["measure", "--factory", "tests.networks:predictor", "--data", str(folder / "data.npy"), "--batch", "64"]
    command += [
        "--timesteps",
        "19,500",
        "--quantity",
        "time_difference",
        "--draws",
        str(draws),
        "--device",
        "cpu",
        "--no-probe",
    ]
    command += ["--threads", "1", "--quiet", "--out", str(folder / f"{draws}.zarr")]
    process = subprocess.Popen(
        [sys.executable, "-m", "lipdiag", *command], cwd=ROOT, env=ALONE, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


def test_a_thousand_draws_take_the_memory_of_a_hundred(tmp_path):
    assert peak(tmp_path, 1000) < TOLERANCE * peak(tmp_path, 100)


@pytest.mark.slow
def test_ten_thousand_draws_take_the_memory_of_a_hundred(tmp_path):
    assert peak(tmp_path, 10_000) < TOLERANCE * peak(tmp_path, 100)
