"""How much faster several workers measure than one: `python -m benchmarks.workers`.

The same plan is measured by one process and by several that share it (`--shard`), in turn, each a fresh command with
one thread. The time is that of the whole command, so it includes the imports of every worker. On a machine that others
use, only the processor time says how well the work is divided: that of one over that of the busiest of several.
Each worker spends some seven seconds on imports, loading and checks, whatever the plan, so the plan is one of minutes.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click

from benchmarks.goals import Goal

SPEEDUP = 0.95
"""The speed-up to be reached, as a share of the number of workers: 1.9 for two."""


@dataclass(frozen=True)
class Time:
    """Seconds until the last worker has ended, and of the processor in the busiest of them."""

    wall: float
    processor: float


def measure(out: Path, workers: int, draws: int) -> Time:
    """One measurement by so many commands."""
    command = [sys.executable, "-m", "lipdiag", "measure", "digits-ddpm", "--out", str(out), "--draws", str(draws)]
    command += ["--timesteps", "log:32", "--device", "cpu", "--threads", "1", "--quiet"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    began = time.perf_counter()
    started = [
        subprocess.Popen([*command, "--shard", f"{i}/{workers}"], env=alone, stdout=subprocess.DEVNULL)
        for i in range(workers)
    ]
    used = []
    for process in started:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise click.ClickException(f"a worker ended with exit code {process.returncode}")
        used.append(usage.ru_utime + usage.ru_stime)
    return Time(time.perf_counter() - began, max(used))


def identical(first: Path, second: Path) -> bool:
    """Whether two runs hold the same bits."""
    from lipdiag.store.store import open_run

    a, b = open_run(first), open_run(second)
    return all(a[name].values.tobytes() == b[name].values.tobytes() for name in {*a.data_vars, *b.data_vars})


def text(one: Time, several: Time, workers: int, same: bool, load: str) -> Iterator[str]:
    """What was found, in words; the two times are medians."""
    yield f"load average before and after: {load}"
    yield f"{'seconds':<32}{'clock':>8}{'processor':>11}"
    yield f"{'1 worker':<32}{one.wall:>8.1f}{one.processor:>11.1f}"
    yield f"{f'{workers} workers, the busiest':<32}{several.wall:>8.1f}{several.processor:>11.1f}"
    yield f"{'times faster':<32}{one.wall / several.wall:>8.2f}{one.processor / several.processor:>11.2f}"
    goal = Goal(f"{workers} workers are", SPEEDUP * workers, one.wall / several.wall, most=False)
    verdict = f"{goal.promise} {goal.found:.2f} times as fast as one (goal: {goal.limit:g})"
    yield f"{verdict} {'' if goal.reached else 'MISSED'}".rstrip()
    yield f"their results are {'identical, bit for bit' if same else 'DIFFERENT'}"


@click.command()
@click.option("--workers", type=click.IntRange(min=2), default=2, show_default=True)
@click.option("--draws", type=click.IntRange(min=1), default=768, show_default=True, help="At each of 32 timesteps.")
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True, help="Of one and several in turn.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of words.")
def main(workers: int, draws: int, rounds: int, as_json: bool) -> None:
    """Several workers next to one, on the same plan."""
    load = os.getloadavg()[0]
    times: dict[int, list[Time]] = {1: [], workers: []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number, many in itertools.product(range(rounds), times):
            click.echo(f"round {number + 1} of {rounds}, workers: {many}", err=True)
            times[many].append(measure(folder / f"{number}-{many}.zarr", many, draws))
        same = all(identical(folder / "0-1.zarr", run) for run in folder.glob("*.zarr"))
    one, several = (Time(*map(median, zip(*(asdict(t).values() for t in ts), strict=True))) for ts in times.values())
    facts = {"workers": workers, "draws": draws, "rounds": rounds, "one": asdict(one), "several": asdict(several)}
    loads = [round(load, 2), round(os.getloadavg()[0], 2)]
    said = text(one, several, workers, same, " and ".join(map(str, loads)))
    facts |= {"speedup": one.wall / several.wall, "identical": same, "load_average": loads}
    click.echo(json.dumps(facts) if as_json else "\n".join(said))


if __name__ == "__main__":
    main()
