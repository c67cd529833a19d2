"""Runs of many checkpoints of one training, in the order of its steps, and what each run is in one number a draw."""

import re
from collections.abc import Callable, Sequence
from pathlib import PurePath

import numpy as np

from ..results.curve import QUOTIENTS
from ..results.distribution import Statistics, over_draws
from ..results.run import Run


def step(checkpoint: str) -> int | None:
    """The training step in a checkpoint's name, its last whole number: 4000 of `run/checkpoint-4000`."""
    numbers = re.findall(r"\d+", PurePath(checkpoint).stem)
    return int(numbers[-1]) if numbers else None


def in_order(runs: Sequence[Run]) -> tuple[list[Run], list[int] | None]:
    """The runs in the order of their steps, and these; as they are, and None, where one tells no step."""
    steps = [number for run in runs if (number := step(run.checkpoint)) is not None]
    if len(steps) < len(runs):
        return list(runs), None
    order = sorted(range(len(runs)), key=lambda i: steps[i])
    return [runs[i] for i in order], [steps[i] for i in order]


def unknown(run: Run, variable: str) -> bool:
    """Whether a variable's largest value and mean may lie where it was not measured, at jumps between blocks."""
    return variable in QUOTIENTS and not run.all_jumps


def highest(run: Run, variable: str) -> int | None:
    """Where along the timesteps the mean over draws is largest; None where that is not known."""
    s = run.statistics(variable)
    return None if unknown(run, variable) or not np.isfinite(s.mean).any() else int(np.nanargmax(s.mean))


def at_top(run: Run, variable: str) -> np.ndarray:
    """The draws where their mean is largest."""
    place = highest(run, variable)
    return np.array([np.nan]) if place is None else np.asarray(run.values(variable)[place])


def averaged(run: Run, variable: str) -> np.ndarray:
    """The mean over all measured timesteps of each draw that has all of them."""
    return np.array([np.nan]) if unknown(run, variable) else np.asarray(run.values(variable).mean(0))


def over(runs: Sequence[Run], variable: str, number: Callable[[Run, str], np.ndarray]) -> Statistics:
    """Statistics over draws of such a number, along the runs."""
    each = [number(run, variable) for run in runs]
    table = np.full((len(each), max(values.size for values in each)), np.nan)
    for row, values in zip(table, each, strict=True):
        row[: values.size] = values
    return over_draws(table)
