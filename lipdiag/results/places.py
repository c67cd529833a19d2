"""Which of the measured timesteps a table of a dozen rows shows."""

import functools
from collections.abc import Sequence

import numpy as np

from ..printing import Column
from .run import Run

TIMESTEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
"""What is listed of an index axis of 1000; of another axis as many places, evenly spaced."""

JUMP = "*"


def pick(runs: Sequence[Run]) -> np.ndarray:
    """About a dozen of the measured timesteps: 0, 1, 2, 5, 10, ..., the last, and the jumps of shared clocks."""
    everywhere = functools.reduce(np.intersect1d, [run.timestep for run in runs])
    anywhere = functools.reduce(np.union1d, [run.timestep for run in runs])
    known = everywhere if everywhere.size >= len(TIMESTEPS) else anywhere
    if not runs[0].discrete:
        if runs[0].timestep[0] > runs[0].timestep[-1]:  # a clock that runs backwards, such as log-SNR
            known = known[::-1]
        return known[np.unique(np.linspace(0, known.size - 1, len(TIMESTEPS) + 2).round().astype(int))]
    scale = runs[0].count / 1000
    wanted = [*(k if k < 20 else k * scale for k in TIMESTEPS), known[-1]]
    nearest = {float(known[np.abs(np.log1p(known) - np.log1p(k)).argmin()]) for k in wanted}
    jumps = {float(k) for run in runs for k in run.timestep[run.jumps]}
    return np.array(sorted(nearest | jumps))


def time_column(run: Run, times: np.ndarray) -> Column:
    """The timesteps of a table, those at which a shared clock jumps marked."""
    jumps = set(run.timestep[run.jumps].tolist()) if run.has("time_difference") else set()
    digits = "g" if run.discrete else ".4g"
    cells = [f"{k:{digits}}{JUMP if k in jumps else ' '}" for k in times]
    footnote = f"{JUMP} last timestep of a block of shared ones: the next one lies in another block"
    return Column("timestep", "", cells, footnote if any(cell.endswith(JUMP) for cell in cells) else "")
