"""Some units of a finished run measured again, to see whether this machine gives the numbers that are stored.

On one kind of device, with the same libraries and micro-batch, they are the same bit for bit; on a card only by kernels
that keep this. Elsewhere rounding differs, and with it the Krylov steps taken: then values must agree to `TOLERANCE`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..store.layout import WorkUnit, units
from ..store.merge import bits, measured
from .state import Study
from .study import measure_unit

TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
"""Largest relative difference between devices, by the arithmetic of the plan."""


class Recomputed(NamedTuple):
    """A unit measured again."""

    unit: WorkUnit
    equal: bool
    variable: str
    difference: float


def recompute(study: Study, count: int, seed: int) -> Iterator[Recomputed]:
    """Measure `count` finished units again, chosen at random, and compare each with what is stored.

    Bits must agree where the launches on record are `comparable` with this one;
    `difference` is the largest relative one of any variable, 0 where all bits agree.
    """
    every = units(study.layout, len(study.timesteps), range(study.store.draws))
    parts = [measured(study.store, unit) for unit in every]  # as large as they were when they were measured
    finished = [unit for unit in parts if study.store.complete(unit) and not study.store.given_up(unit)]
    chosen = np.random.default_rng(seed).permutation(len(finished))[:count]
    for unit in (finished[i] for i in sorted(chosen)):
        again = measure_unit(study, unit)
        worst, name = max((difference(study.store.read(name, unit), value), name) for name, value in again.items())
        yield Recomputed(unit, worst == 0, name, worst)


def difference(stored: np.ndarray, again: np.ndarray) -> float:
    """Largest relative difference; 0 for equal bits, infinite where only one is finite."""
    if (bits(stored) == bits(again)).all():
        return 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.abs(stored - again) / np.maximum(np.abs(stored), np.abs(again))
    gap = np.where(np.isnan(stored) & np.isnan(again) | (stored == again), 0.0, np.nan_to_num(gap, nan=np.inf))
    return max(float(gap.max()), np.finfo(float).tiny)


def comparable(launches: list[dict[str, Any]], here: dict[str, Any]) -> bool:
    """Whether every launch on record had this device, these libraries and this micro-batch, and halved none.

    Of a card not even the same launch gives the same bits, unless only deterministic kernels were allowed.
    """
    same = ("device", "device_type", "threads", "versions")
    return all(
        all(launch.get(key) == here.get(key) for key in same)
        and all(of.get("device_type") != "cuda" or of.get("deterministic") for of in (launch, here))
        and launch.get("batch", here.get("batch")) == here.get("batch")  # older ones measured a unit at once
        and not any("halved" in note for note in launch.get("notes", []))
        for launch in launches
    )
