"""Phrases of captions that say the same of every figure: how many draws of what, in which norm, with which interval."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..results.run import Run

INTERVAL = "95 % interval of the mean (Student)"


def draws(counts: Iterable[np.ndarray], runs: Sequence[Run]) -> str:
    """`n = 64 draws of digits`, or from how few to how many."""
    found = np.concatenate([np.ravel(count) for count in counts])
    found = found[found > 0].astype(int)
    number = f"{found.min()}" if found.min() == found.max() else f"{found.min()} to {found.max()}"
    data = ", ".join(dict.fromkeys(run.data for run in runs))
    raw = " and ".join(f"{run.label} ({run.model.get('parameterization')})" for run in runs if run.raw)
    return f"n = {number} draws of {data}" + (f" (for eps read the network's own output in {raw})" if raw else "")


def norm(run: Run) -> str:
    entries = f"all {run.dimension} entries" if run.dimension else "all entries"
    return f"Euclidean norm over {entries} of a sample"


def own_time(run: Run) -> str:
    """What a timestep is, where its unit does not say so."""
    return f", where {run.own_time}" if run.own_time else ""


def caption(sentences: Iterable[str]) -> str:
    """Sentences without full stops, put together."""
    return " ".join(f"{sentence}." for sentence in sentences if sentence)
