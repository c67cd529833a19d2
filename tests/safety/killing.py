"""Workers killed at random moments: `python -m tests.safety.killing KILLS SEED FOLDER`, used by the tests.

Two workers measure one run, each unit slowed down so that a kill finds it anywhere: while it computes, between two of
its files, while the run is made or recorded. A worker says through a pipe which units it was told are stored. After
each kill those must be there, and the run that is finished in the end must be that of a run never disturbed, bit for
bit. Workers are forked from a process that has imported everything and started nothing: a kill costs no start-up.
"""

import importlib
import json
import os
import random
import select
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch

from lipdiag.design.plan import Plan
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import Linear
from lipdiag.store.layout import units
from lipdiag.study import measure as front
from lipdiag.study import study

for name in (
    "torch._dynamo",
    "xarray.backends.zarr",
    "zarr.codecs",
    "zarr.storage",
    "lipdiag.data.dataset",
    "lipdiag.checkpoints",
):
    importlib.import_module(name)  # once here, not in every worker

PLAN = Plan(timesteps="0,1,9,50,200,999", draws=24, batch=8, quantities=("time_difference", "loss"), dtype="float64")
UNITS = 18
DATA = np.random.default_rng(1).normal(size=(50, 6))


def model():
    return Gaussian(
        torch.zeros(6, dtype=torch.float64), torch.logspace(-2, 0, 6, dtype=torch.float64), Linear(), Timesteps(1000)
    )


def worker(path: Path, shard: tuple[int, int], pause: float, said: int | None = None, plan: Plan = PLAN) -> None:
    """Measure a share of the run, and write the number of each unit to `said` once it is stored."""
    real = study.measure_unit

    def slow(ready, unit):
        time.sleep(pause)
        return real(ready, unit)

    study.measure_unit = slow
    with front.prepared(model(), DATA, plan, path, device="cpu", shard=shard, retry=True) as ready:
        order = units(ready.layout, len(ready.timesteps), range(plan.draws))
        real_write = ready.store.write

        def write(unit, values):
            real_write(unit, values)
            if said is not None:
                os.write(said, bytes([order.index(unit)]))

        ready.store.write = write
        assert front.carry_out(ready, quiet=True)


def forked(work, *arguments) -> int:
    """The process that does it; it ends with 0 if all went well."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def check(path: Path, acknowledged: set[int]) -> None:
    """Every unit that a worker was told is stored can be read back."""
    from lipdiag.store.store import open_run, open_store

    store = open_store(path)
    order = units(store.layout, 6, range(PLAN.draws))
    lost = [number for number in acknowledged if not store.complete(order[number]) or store.given_up(order[number])]
    assert not lost, f"lost units {lost}"
    open_run(path)


def same(first: Path, second: Path) -> None:
    """The two runs are finished and equal, bit for bit."""
    from lipdiag.store.store import open_run

    a, b = open_run(first), open_run(second)
    assert (a["done"] == 1).all()
    assert (b["done"] == 1).all()
    for name in a.data_vars:
        assert a[name].values.tobytes() == b[name].values.tobytes(), name


def succeed(work, *arguments) -> None:
    _, status = os.waitpid(forked(work, *arguments), 0)
    assert status == 0, f"{work.__name__} failed"


def torment(folder: Path, kills: int, seed: int, pause: float = 0.03) -> dict[str, int]:
    """Kill workers `kills` times; the run is finished and compared whenever they get that far, and at the end."""
    chance = random.Random(seed)
    whole = folder / "whole.zarr"
    succeed(worker, whole, (0, 1), 0.0)
    done, runs, acknowledged_in_all, early = 0, 0, 0, 0
    while done < kills:
        path, acknowledged = folder / f"run{runs}.zarr", set()
        runs += 1
        shards = [(0, 2), (1, 2)] if runs % 3 else [(0, 1), (0, 1)]  # every third run: both on the same units
        while len(acknowledged) < UNITS and done < kills:
            reader, writer = os.pipe()
            workers = [forked(worker, path, shard, pause, writer) for shard in shards]
            os.close(writer)
            if chance.random() < 0.75:
                select.select([reader], [], [], 60)  # a unit is stored, so that the kill falls into the measuring
            time.sleep(chance.uniform(0.0, 8 * pause))
            for victim in chance.sample(workers, chance.choice([1, 2])):
                os.kill(victim, signal.SIGKILL)
                done += 1
            for process in workers:
                _, status = os.waitpid(process, 0)
                assert os.WIFSIGNALED(status) or status == 0, "a worker failed beside a killed one"
            while said := os.read(reader, 4096):
                acknowledged |= set(said)
            os.close(reader)
            if path.exists():
                succeed(check, path, acknowledged)
            else:
                early += 1
        acknowledged_in_all += len(acknowledged)
        succeed(worker, path, (0, 1), 0.0)
        succeed(same, whole, path)
    return {"kills": done, "runs": runs, "acknowledged": acknowledged_in_all, "lost": 0, "before_any_run": early}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(torment(Path(sys.argv[3]), int(sys.argv[1]), int(sys.argv[2]))))
