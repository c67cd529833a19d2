"""Many checkpoints of one training as a table: a row each, in the order of their training steps."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from ..printing import WIDTH, Column, abbreviated, lines, plain, with_half_width
from ..results.curve import DERIVATIVES, QUOTIENTS
from ..results.run import Run, read
from ..statistics import mean
from .tables import symbol

if TYPE_CHECKING:
    import xarray as xr

SHORTEST = 8
"""Characters that a name keeps, however wide the numbers are."""


def step(checkpoint: str) -> int | None:
    """The training step in a checkpoint's name, its last whole number: 4000 of `run/checkpoint-4000`."""
    numbers = re.findall(r"\d+", PurePath(checkpoint).stem)
    return int(numbers[-1]) if numbers else None


def over_steps(datasets: "Sequence[xr.Dataset]") -> str:
    """Text of a row a run: the largest K and where it is, its mean over all timesteps, spectral norm and loss.

    Args:
        datasets: Runs of one training, measured by one plan; they are put into the order of their steps where each has
            one, else they stay as they are.

    Raises:
        UsageError: If one of them has no finished draws.
    """
    runs = read(datasets)
    steps = [step(run.checkpoint) for run in runs]
    if all(number is not None for number in steps):
        order = sorted(range(len(runs)), key=lambda i: steps[i] or 0)
        runs, steps = [runs[i] for i in order], [steps[i] for i in order]
    names = [run.label if number is None else str(number) for run, number in zip(runs, steps, strict=True)]
    columns = []
    speed = next((name for name in DERIVATIVES if all(run.has(name) for run in runs)), None)
    if speed is not None:
        name = symbol(runs[0], speed)
        columns += [
            Column(name, "largest", [peak(run, speed)[0] for run in runs]),
            Column("at", "timestep", [peak(run, speed)[1] for run in runs]),
            Column(name, "mean", [average(run, speed) for run in runs]),
        ]
    if all(run.has("spectral_norm") for run in runs):
        columns.append(Column("sp. norm", "largest", [peak(run, "spectral_norm")[0] for run in runs]))
    if all(run.has("loss") for run in runs):
        columns.append(Column("loss", "mean", [average(run, "loss") for run in runs]))
    room = max(SHORTEST, WIDTH - sum(column.width + 2 for column in columns))
    names = abbreviated(names)
    cut = [name if len(name) <= room else f"{name[: room - 3]}..." for name in names]
    names = cut if len(set(cut)) == len(set(names)) else names
    heading = f"{len(runs)} checkpoints; means over draws, +- half of the 95 % interval (largest: where its mean is)"
    if blind := [name for name, run in zip(names, runs, strict=True) if speed and unknown(run, speed)]:
        heading += f"; no {symbol(runs[0], str(speed))} of {', '.join(blind)}: jumps between blocks were not measured"
    return lines(textwrap.fill(heading, WIDTH), [Column("step", "", names), *columns])


def unknown(run: Run, variable: str) -> bool:
    """Whether a variable's largest value and mean may lie where it was not measured, at jumps between blocks."""
    return variable in QUOTIENTS and not run.all_jumps


def peak(run: Run, variable: str) -> tuple[str, str]:
    """The largest mean of a variable with its interval, and its timestep."""
    s = run.statistics(variable)
    if unknown(run, variable) or not np.isfinite(s.mean).any():
        return "-", "-"
    top = int(np.nanargmax(s.mean))
    return with_half_width(s.mean[top], s.half_width[top]), plain(run.timestep[top])


def average(run: Run, variable: str) -> str:
    """A variable's mean over all measured timesteps, over the draws that have all of them."""
    values = run.values(variable).mean(0)
    values = values[np.isfinite(values)]
    if unknown(run, variable) or not values.size:
        return "-"
    estimate = mean(values)
    return with_half_width(estimate.value, (estimate.high - estimate.low) / 2)
