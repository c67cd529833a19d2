"""Files of strangers: every one is read or refused, in time and memory, and nothing but reading happens."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALONE = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc")


def lines(module, *arguments):
    process = subprocess.run(
        [sys.executable, "-m", f"tests.safety.{module}", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, env=ALONE, check=False,
    )  # fmt: skip
    assert process.stdout, process.stderr[-3000:]
    return [json.loads(line) for line in process.stdout.splitlines()]


@linux
def test_every_file_of_the_corpus_is_refused_or_harmless(tmp_path):
    """An audit hook watches for imports, execution, writing and connections while they are read."""
    found = lines("corpus", tmp_path)
    assert len(found) > 500
    assert [line for line in found if not line["fine"]] == []


@linux
def test_the_watch_sees_what_it_watches_for(tmp_path):
    """A reader that does what it must not: otherwise silence would mean nothing."""
    script = """
import json, pathlib, sys
from tests.safety import guard
guard.install()
def touch(path): path.write_text("x")
def execute(path): exec("1")
def load(path): import this_is_no_module
def connect(path):
    import socket
    socket.socket().connect(("127.0.0.1", 1))
def hang(path):
    while True: pass
def grow(path): return len(bytearray(b"x") * (2**30 + 2**28))
guard.SECONDS = 0.5
path = pathlib.Path(sys.argv[1]) / "x"
import socket
for read in (touch, execute, load, connect, hang, grow):
    found = guard.guarded(read, path)
    print(json.dumps([read.__name__, bool(found["acts"]), found["too_long"], found["too_large"]]))
"""
    process = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, env=ALONE, check=True
    )
    found = {name: rest for name, *rest in map(json.loads, process.stdout.splitlines())}
    assert all(found[name][0] for name in ("touch", "execute", "load", "connect")), found
    assert found["hang"][1]
    assert found["grow"][2]


@linux
def test_three_hundred_mutants_are_read_or_refused(tmp_path):
    (found,) = lines("fuzzing", 300, 0, tmp_path)
    assert found["escapes"] == []
    assert found["mutants"] == sum(found["tally"].values()) == 300


@pytest.mark.slow
@linux
def test_thirty_thousand_mutants_are_read_or_refused(tmp_path):
    (found,) = lines("fuzzing", 30_000, int(time.time()), tmp_path)
    assert found["escapes"] == []
