"""Runs of one plan, measured apart, joined into one.

Runs may be joined if everything that changes numbers is equal, field by field. A unit that several of them hold must
be the same in all, bit for bit; it is copied once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunError, UsageError
from .creation import create
from .layout import WorkUnit, units
from .store import DONE, MARKS, MISSING, UNREADABLE, Column, Store, differences, open_store


@dataclass
class Merged:
    """What a merge did, in (draw, timestep) pairs."""

    run: Path
    pairs: int = 0
    copied: int = 0
    agreeing: int = 0
    damaged: int = 0
    missing: int = 0
    quarantined: int = 0

    @property
    def taken(self) -> int:
        """Pairs that were found measured."""
        return self.copied + self.agreeing


def merge(out: Path, runs: list[Path], progress: Callable[[int], Any] = lambda _: None) -> Merged:
    """Copy every unit of `runs` that is done into `out`.

    `out` is made where it is not there; a run that is there is added to, so that the same merge again goes on after an
    interruption.

    Args:
        out: The joined run.
        runs: Folders of runs.
        progress: Called with the number of measured pairs of each unit.

    Raises:
        RunError: If they are not runs of one plan, model and data, or hold different values for the same pair.
        StorageError: If a run cannot be read, or `out` cannot be written.
    """
    if not runs:
        raise UsageError("nothing to merge; give the runs after the one to make: lipdiag merge OUT RUN...")
    if out.resolve() in [run.resolve() for run in runs]:
        raise UsageError(f"{out} is among the runs to merge; give a new name for the joined run first")
    sources = [open_store(run) for run in runs]
    first = sources[0].attributes
    for run, source in zip(runs, sources, strict=True):
        changed = differences(comparable(first), comparable(source.attributes))
        if changed:
            raise RunError(
                f"{runs[0]} and {run} are not one experiment: {'; '.join(changed[:5])}; merge runs of one plan"
            )
    target = open_store(out) if out.exists() else like(out, sources[0], max(source.draws for source in sources))
    changed = differences(comparable(target.attributes), comparable(first))
    if changed:
        raise RunError(f"{out} is another run: {'; '.join(changed[:5])}; give another name for the joined run")
    target.grow(max(source.draws for source in sources))
    merged, times = Merged(out), target.group["done"].shape[0]
    for run, source in zip(runs, sources, strict=True):
        for unit in units(target.layout, times, range(source.draws)):
            before = merged.taken
            copy_unit(target, source, unit, run, merged)
            progress(merged.taken - before)
        known = target.attributes.get("launches", [])
        target.record([launch for launch in source.attributes.get("launches", []) if launch not in known])
    done = target.group["done"][:]
    merged.pairs = done.size
    merged.missing, merged.quarantined = int((done == MISSING).sum()), int((done > DONE).sum())
    return merged


def comparable(attributes: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for two runs to be one experiment."""
    return {"layout": attributes["layout"], **attributes.get("frozen", {})}


def like(path: Path, source: Store, draws: int) -> Store:
    """An empty run at `path` with the axes and variables of another."""
    arrays = dict(source.group.arrays())
    coordinates = {
        name: (array[:], dict(array.attrs)) for name, array in arrays.items() if array.ndim == 1 and name != "draw"
    }
    columns = {
        name: Column(
            {key: value for key, value in array.attrs.items() if key != "coordinates"},
            dict(zip(array.metadata.dimension_names[2:], array.shape[2:], strict=True)),
        )
        for name, array in arrays.items()
        if array.ndim >= 2 and name not in MARKS
    }
    kept = {key: value for key, value in source.attributes.items() if key not in ("format", "format_version", "layout")}
    return create(path, source.layout, draws, coordinates, columns, {**kept, "launches": []})


def copy_unit(target: Store, source: Store, unit: WorkUnit, run: Path, merged: Merged) -> None:
    """Take over the part of a unit that a run holds."""
    unit = measured(source, unit)
    if not size(unit):
        return
    if source.given_up(unit):
        if (target.group["done"][unit.times, unit.draws] == MISSING).any():
            target.give_up(unit)
        return
    if not source.complete(unit):
        merged.damaged += size(unit)
        return
    values = {name: source.read(name, unit) for name in source.variables}
    held = measured(target, unit)
    if target.given_up(held) or not target.complete(held):
        held = WorkUnit(unit.times, slice(unit.draws.start, unit.draws.start))
    number = min(held.draws.stop, unit.draws.stop) - held.draws.start
    for name, value in values.items() if number else ():
        there, here = target.read(name, held)[:, :number], value[:, :number]
        unequal = bits(there) != bits(here)
        if unequal.any():
            i, j = np.argwhere(unequal.reshape((*unequal.shape[:2], -1)).any(2))[0]
            timestep = target.group["timestep"][unit.times.start + i]
            largest = float(np.nanmax(np.abs(there - here)))
            raise RunError(
                f"{run} disagrees with the runs before it on {name} at timestep {timestep:g}, draw "
                f"{unit.draws.start + j} (by as much as {largest:.3g}): they were measured by different devices, "
                "libraries or micro-batches; measure one of them again, or merge without it"
            )
    agreeing = number * (unit.times.stop - unit.times.start)
    merged.agreeing += agreeing
    if agreeing < size(unit):
        target.write(unit, values)
        merged.copied += size(unit) - agreeing


def measured(run: Store, unit: WorkUnit) -> WorkUnit:
    """The draws of a unit that a run holds: fewer where it ended within the block, and was made longer since."""
    try:
        held = (run.read("done", unit) != MISSING).all(0)
    except UNREADABLE:
        return unit
    return WorkUnit(unit.times, slice(unit.draws.start, unit.draws.start + int(np.cumprod(held).sum())))


def size(unit: WorkUnit) -> int:
    """Pairs of a unit."""
    return (unit.times.stop - unit.times.start) * (unit.draws.stop - unit.draws.start)


def bits(values: np.ndarray) -> np.ndarray:
    """Floats as integers: NaN equals itself, and 0 is not -0."""
    return np.ascontiguousarray(values).view(np.int64)
