"""Many checkpoints of one training as a table: a row each, in the order of their training steps."""

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..findings.steps import at_top, averaged, highest, in_order, over, unknown
from ..printing import WIDTH, Column, abbreviated, lines, plain, with_half_width
from ..results.curve import DERIVATIVES
from ..results.run import Run, read
from .tables import symbol

if TYPE_CHECKING:
    import xarray as xr

SHORTEST = 8
"""Characters that a name keeps, however wide the numbers are."""


def over_steps(datasets: "Sequence[xr.Dataset]") -> str:
    """Text of a row a run: the largest K and where it is, its mean over all timesteps, spectral norm and loss.

    Args:
        datasets: Runs of one training, measured by one plan; they are put into the order of their steps where each has
            one, else they stay as they are.

    Raises:
        UsageError: If one of them has no finished draws.
    """
    runs, steps = in_order(read(datasets))
    names = [run.label for run in runs] if steps is None else list(map(str, steps))
    columns = []
    speed = next((name for name in DERIVATIVES if all(run.has(name) for run in runs)), None)
    if speed is not None:
        name, places = symbol(runs[0], speed), [highest(run, speed) for run in runs]
        times = ["-" if k is None else plain(run.timestep[k]) for run, k in zip(runs, places, strict=True)]
        columns += [
            Column(name, "largest", told(runs, speed, at_top)),
            Column("at", "timestep", times),
            Column(name, "mean", told(runs, speed, averaged)),
        ]
    if all(run.has("spectral_norm") for run in runs):
        columns.append(Column("sp. norm", "largest", told(runs, "spectral_norm", at_top)))
    if all(run.has("loss") for run in runs):
        columns.append(Column("loss", "mean", told(runs, "loss", averaged)))
    room = max(SHORTEST, WIDTH - sum(column.width + 2 for column in columns))
    names = abbreviated(names)
    cut = [name if len(name) <= room else f"{name[: room - 3]}..." for name in names]
    names = cut if len(set(cut)) == len(set(names)) else names
    heading = f"{len(runs)} checkpoints; means over draws, +- half of the 95 % interval (largest: where its mean is)"
    if blind := [name for name, run in zip(names, runs, strict=True) if speed and unknown(run, speed)]:
        heading += f"; no {symbol(runs[0], str(speed))} of {', '.join(blind)}: jumps between blocks were not measured"
    return lines(textwrap.fill(heading, WIDTH), [Column("step", "", names), *columns])


def told(runs: Sequence[Run], variable: str, number: Callable[[Run, str], np.ndarray]) -> list[str]:
    """Such a number of each run with its interval."""
    s = over(runs, variable, number)
    return [
        with_half_width(value, half) if np.isfinite(value) else "-"
        for value, half in zip(s.mean, s.half_width, strict=True)
    ]
