"""Every step to the disk may be the last one: kills and full disks, before and within each write, rename and growth."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALONE = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def torment(folder, most, *names):
    process = subprocess.run(
        [sys.executable, "-m", "tests.safety.faults", str(most), str(folder), *names],
        capture_output=True, text=True, cwd=ROOT, env=ALONE, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_what_is_cut_short_anywhere_goes_on_with_the_same_command(tmp_path):
    """Three of the steps of each operation, which take their turns with the kinds of faults."""
    found = torment(tmp_path, 1)
    assert len(found) == 6
    assert all(counts["steps"] > 10 and counts["trials"] == 3 for counts in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["measure", "grow", "merge", "train", "evaluate", "report"])
def test_every_step_may_be_the_last_one(tmp_path, name):
    counts = torment(tmp_path, 10_000, name)[name]
    assert counts["trials"] == 3 * counts["steps"]
