"""Phrases of captions that say the same of every figure: how many draws of what, in which norm, with which interval."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..printing import counted
from ..results.curve import Curve
from ..results.distribution import Statistics
from ..results.run import Run

INTERVAL = "95 % interval of the mean (Student)"


def draws(statistics: Iterable[Statistics], runs: Sequence[Run]) -> str:
    """`n = 64 draws of digits`, or from how few to how many."""
    counts = np.concatenate([np.ravel(s.count) for s in statistics])
    counts = counts[counts > 0].astype(int)
    low, high = counts.min(), counts.max()
    number = counted(high, "draw") if low == high else f"{low} to {high} draws"
    data = ", ".join(dict.fromkeys(run.data for run in runs))
    raw = " and ".join(dict.fromkeys(f"{run.label} ({run.model.get('parameterization')})" for run in runs if run.raw))
    return f"n = {number} of {data}" + (f" (for eps read the network's own output in {raw})" if raw else "")


def of_curves(curves: Sequence[Curve]) -> str:
    """How many draws curves are means of."""
    return draws((curve.statistics for curve in curves), [curve.run for curve in curves])


def norm(run: Run) -> str:
    """In which norm, over how many numbers."""
    entries = f"all {run.dimension} entries" if run.dimension else "all entries"
    return f"Euclidean norm over {entries} of a sample"


def own_time(run: Run) -> str:
    """What a timestep is, where its unit does not say so."""
    return f", where {run.own_time}" if run.own_time else ""
