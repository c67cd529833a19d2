"""A variable of a run over time, sorted into what is drawn as a line, as a jump, and as exactly zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import UsageError
from ..printing import Row
from .distribution import Statistics
from .run import Run

DERIVATIVES = ("time_difference", "time_derivative")
"""In order of preference: a model of integer timesteps was trained on the quotient alone."""

QUOTIENTS = ("time_difference", "embedding_difference")
"""Variables that compare two times, and so reach over the edges of blocks."""


@dataclass(frozen=True)
class Curve:
    """One variable of a run along time.

    Attributes:
        run: The run that it was measured in.
        variable: Its name in the dataset.
        statistics: Its mean, interval and quantiles over draws, at each timestep.
    """

    run: Run
    variable: str
    statistics: Statistics

    @cached_property
    def zero(self) -> np.ndarray:
        """Where every draw is 0, not nearly."""
        return self.statistics.max == 0

    @cached_property
    def jump(self) -> np.ndarray:
        """Where the quotient reaches over the edge of a block."""
        if self.variable not in QUOTIENTS:
            return np.zeros_like(self.zero)
        return self.run.jumps & ~self.zero

    @property
    def line(self) -> np.ndarray:
        return ~self.zero & ~self.jump

    @property
    def kind(self) -> np.ndarray:
        return np.select([self.zero, self.jump], ["exactly zero", "jump between blocks"], "curve")

    def rows(self) -> list[Row]:
        """What is drawn, a row a timestep."""
        s, run = self.statistics, self.run
        columns = {name: run.time(name) for name in ("timestep", "t", "sigma", "logsnr")}
        columns |= {"mean": s.mean, "low": s.low, "high": s.high, "q05": s.q05, "median": s.median, "q95": s.q95}
        columns |= {"max": s.max, "standard_error": s.standard_error}
        return [
            {"series": run.label, "variable": self.variable, "kind": str(self.kind[i])}
            | {name: float(values[i]) for name, values in columns.items()}
            | {"draws": int(s.count[i])}
            for i in range(run.timestep.size)
        ]


def curves(runs: list[Run], variable: str | None = None) -> list[Curve]:
    """The same variable of several runs.

    Args:
        runs: Whose time is counted in the same unit.
        variable: By default the difference quotient where all have it, else the derivative.

    Raises:
        UsageError: If a run lacks it, or the runs have different time axes.
    """
    if variable is None:
        held = [known for known in DERIVATIVES if all(run.has(known) for run in runs)]
        variable = held[0] if held else DERIVATIVES[0]
    for run in runs:
        run.demand([variable], variable)
    same_time(runs)
    return [Curve(run, variable, run.statistics(variable)) for run in runs]


def same_time(runs: Sequence[Run]) -> None:
    """Refuse runs whose time is counted in different units.

    Raises:
        UsageError: If they differ.
    """
    first = runs[0]
    for run in runs:
        if run.clock != first.clock:
            raise UsageError(
                f"{first.label} and {run.label} count time differently ({first.clock or 'unknown'} and "
                f"{run.clock or 'unknown'}), so that their derivatives have different units; show them over "
                "log-SNR (--axis logsnr)"
            )
