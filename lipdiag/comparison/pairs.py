"""Runs set side by side: on the timesteps and draws that all have, or refused because they cannot be paired."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np

from ..errors import RunError
from ..results.run import Run
from .effect import Effect, mean, over_draws, over_pairs

Pair = tuple[Run, Run]
PAIRED = (("data", "data"), ("plan", "seed"), ("plan", "step"), ("model", "shape"))
"""Fields of a run's description without which draws of two models do not belong together."""


def align(pairs: Sequence[Pair], variables: Iterable[str]) -> tuple[list[Pair], list[str]]:
    """The pairs on what all their runs have, and what was left out for it.

    Args:
        pairs: Each the plain model and its remedy.
        variables: What will be looked at, where a run has it.

    Raises:
        RunError: If they cannot be paired.
    """
    runs = [run for pair in pairs for run in pair]
    refuse(pairs, runs)
    shared = reduce(np.intersect1d, [run.timestep for run in runs])
    if not shared.size:
        raise RunError(
            f"{runs[0].label} and {runs[1].label} have no timestep in common; measure both with the same --timesteps"
        )
    most = max(run.timestep.size for run in runs)
    draws = min(run.dataset.sizes["draw"] for run in runs)
    notes = []
    if shared.size < most:
        notes.append(f"compared at the {shared.size} timesteps that all runs have (some have {most})")
    if any(run.dataset.sizes["draw"] != draws for run in runs):
        notes.append(f"compared on the first {draws} draws, which all runs have")
    if len({run.model.get("schedule") for run in runs}) > 1:
        notes.append("the schedules differ: the same timestep is another noise level")
    aligned = [cut(run, shared, draws, variables) for run in runs]
    strange = sum(
        int((np.isnan(run.dataset[name]) & (run.dataset["done"] == 1)).sum())
        for run in aligned
        for name in held(run, variables)
    )
    if strange:
        notes.append(f"{strange} values are not finite and were left out")
    return list(zip(aligned[::2], aligned[1::2], strict=True)), notes


def refuse(pairs: Sequence[Pair], runs: Sequence[Run]) -> None:
    """Raise where draws of the runs do not belong together.

    Raises:
        RunError: If so.
    """
    first = runs[0]
    for run in runs[1:]:
        for part, name in PAIRED:
            known, here = field(first, part, name), field(run, part, name)
            if known != here:
                what = "data" if part == "data" else name
                raise RunError(
                    f"{first.label} and {run.label} cannot be paired: their {what} differ ({known} and {here}); "
                    "measure both with the same plan and data"
                )
        if run.clock != first.clock:
            raise RunError(
                f"{first.label} and {run.label} count time differently ({first.clock or 'unknown'} and "
                f"{run.clock or 'unknown'}), so that their timesteps cannot be paired"
            )
    for side in range(2):
        weights = [pair[side].model.get("weights_sha256") for pair in pairs]
        if len({*weights}) < len(weights) and all(weights):
            raise RunError(
                "two of the pairs hold the same model, so that they are one training seed; give each pair once"
            )
        if len({pair[side].edges for pair in pairs}) > 1:
            raise RunError(
                "the pairs share timesteps in different blocks, so that they are no further seeds of one training; "
                "compare them one by one"
            )


def field(run: Run, part: str, name: str) -> Any:
    """What the frozen description says of a part; of data the checksum, or the name where there is none."""
    known = run.frozen.get(part) or {}
    return known.get("sha256") or known.get("name") if part == "data" else known.get(name)


def held(run: Run, variables: Iterable[str]) -> list[str]:
    return [name for name in variables if run.has(name)]


def cut(run: Run, timesteps: np.ndarray, draws: int, variables: Iterable[str]) -> Run:
    """A run on some of its timesteps and draws, read into memory."""
    dataset = run.dataset[[*held(run, variables), "done"]]
    dataset = dataset.isel(time=np.flatnonzero(np.isin(run.timestep, timesteps)), draw=slice(draws)).load()
    return replace(run, dataset=dataset)


def values(run: Run, variable: str) -> np.ndarray:
    """(time, draw); NaN where there is no finite number."""
    numbers = np.asarray(run.dataset[variable].values, dtype=np.float64)
    return np.where((run.dataset["done"].values == 1) & np.isfinite(numbers), numbers, np.nan)


def effect(pairs: Sequence[Pair], number: Callable[[Run], np.ndarray], level: float) -> Effect:
    """The effect on a number of every draw: over draws of one pair, or over the means of several.

    Args:
        pairs: Aligned.
        number: Run -> (..., draw).
        level: Of the intervals.
    """
    numbers = [(number(a), number(b)) for a, b in pairs]
    if len(numbers) == 1:
        return over_draws(*numbers[0], level)
    both = [(np.where(np.isnan(b), np.nan, a), np.where(np.isnan(a), np.nan, b)) for a, b in numbers]
    means_a, means_b = (np.stack([mean(pair[side]) for pair in both], -1) for side in range(2))
    return over_pairs(means_a, means_b, level)
