"""What the store takes of a measurement: `python -m benchmarks.store`.

The embedded network is measured with the default plan into a folder. Whatever a unit asks of the store is timed (is it
done already, the note that it is begun, its values, its mark), and the same files are then written by zarr itself into
a second run, in the same minute. Medians over units; the share is that of units which take a second.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.goals import Goal

SHARE = 1.0
"""Per cent of the time of units that take a second."""

ASKED = ("complete", "marked", "begin", "write")
"""What a study calls for each unit."""


@dataclass
class Clock:
    """Seconds spent, by the clock and of the processor."""

    wall: float = 0.0
    processor: float = 0.0

    def timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work, its time added."""

        @wraps(work)
        def clocked(*arguments: Any) -> Any:
            began, used = time.perf_counter(), time.process_time()
            try:
                return work(*arguments)
            finally:
                self.wall += time.perf_counter() - began
                self.processor += time.process_time() - used

        return clocked


@dataclass(frozen=True)
class Share:
    """What one unit took, in milliseconds: in all, in the store, and in zarr where it writes the same."""

    unit: float
    store: float
    processor: float
    zarr: float
    zarr_processor: float
    files: float


def shares(folder: Path, units: int, timesteps: str = "log:32") -> Iterator[Share]:
    """Measure so many units, each with its share."""
    import zarr

    from lipdiag.design.plan import Plan
    from lipdiag.store import layout
    from lipdiag.study.measure import prepared
    from lipdiag.study.study import carried_out

    plan = Plan(timesteps=timesteps, draws=8 * units)
    with (
        prepared("digits-ddpm", None, plan, folder / "ours.zarr", device="cpu") as ready,
        prepared("digits-ddpm", None, plan, folder / "theirs.zarr", device="cpu") as rival,
        zarr.config.set({"array.write_empty_chunks": True}),
    ):
        arrays = dict(rival.store.group.arrays())
        for unit in layout.units(ready.layout, len(ready.timesteps), range(plan.draws)):
            whole, ours, theirs = Clock(), Clock(), Clock()
            for name in ASKED:
                setattr(ready.store, name, ours.timed(getattr(type(ready.store), name).__get__(ready.store)))

            def both(unit=unit):
                return list(carried_out(ready, [unit]))

            whole.timed(both)()
            values: dict[str, Any] = {name: ready.store.read(name, unit) for name in ready.store.variables}

            def write(unit=unit, values=values):
                for name, value in {"attempts": 1, **values, "done": 1}.items():
                    arrays[name][unit.times, unit.draws] = value

            theirs.timed(write)()
            yield Share(
                1000 * whole.wall,
                1000 * ours.wall,
                1000 * ours.processor,
                1000 * theirs.wall,
                1000 * theirs.processor,
                len(values) + 2,
            )


def text(share: Share, units: int) -> Iterator[str]:
    """What was found, in words."""
    yield f"digits-ddpm, the default quantities, {units} units, median unit {share.unit / 1000:.2f} s"
    yield f"{f'milliseconds a unit, {share.files:.0f} files':<44}{'clock':>8}{'processor':>11}"
    yield f"{'the store: looked up, begun, written, marked':<44}{share.store:>8.2f}{share.processor:>11.2f}"
    yield f"{'zarr itself: written':<44}{share.zarr:>8.2f}{share.zarr_processor:>11.2f}"
    yield f"share of these units: {100 * share.store / share.unit:.2f} %"
    for what, milliseconds in (("clock", share.store), ("processor", share.processor)):
        goal = Goal(f"share of units of a second, {what}", SHARE, milliseconds / 10)
        yield f"{goal.promise}: {goal.found:.2f} % (goal: {SHARE:g} %) {'' if goal.reached else 'MISSED'}".rstrip()


@click.command()
@click.option("--units", type=click.IntRange(min=1), default=16, show_default=True, help="How many to measure.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the network.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of words.")
def main(units: int, threads: int, as_json: bool) -> None:
    """What the store takes of a measurement, next to zarr's own writing of the same."""
    import torch
    from tqdm import tqdm

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        each = list(tqdm(shares(Path(folder), units), total=units, file=sys.stderr, unit="unit", dynamic_ncols=True))
    middle = Share(*(median(column) for column in zip(*(asdict(share).values() for share in each), strict=True)))
    click.echo(json.dumps({"units": units, **asdict(middle)}) if as_json else "\n".join(text(middle, units)))


if __name__ == "__main__":
    main()
