"""What many draws say at each timestep: means with their intervals, and quantiles."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..printing import Row
from ..statistics import STATISTICS, summary

NORMAL = 1.959964
"""Standard errors to either side of a mean whose number of draws is not told that are its 95 % interval."""


@dataclass(frozen=True)
class Statistics:
    """Over draws, at each timestep: the mean with its interval, quantiles, and how many draws."""

    mean: np.ndarray
    standard_error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    median: np.ndarray
    q05: np.ndarray
    q95: np.ndarray
    max: np.ndarray
    count: np.ndarray

    @property
    def half_width(self) -> np.ndarray:
        return (self.high - self.low) / 2

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> "Statistics":
        """The same of changed numbers, where a change of the draws changes all statistics alike; counts stay."""
        return Statistics(**{name: change(v) for name, v in vars(self).items() if name != "count"}, count=self.count)

    def where(self, kept: np.ndarray) -> "Statistics":
        """The same where they are to be kept, NaN elsewhere."""
        return self.map(lambda values: np.where(kept, values, np.nan))

    def at(self, place: Any) -> "Statistics":
        """Those at an index or a slice of the axes."""
        return Statistics(**{name: v[place] for name, v in vars(self).items()})

    def row(self, place: Any, counted: str = "draws") -> Row:
        """Mean, interval and count at one place, as columns of a table."""
        numbers = {name: float(getattr(self, name)[place]) for name in ("mean", "low", "high")}
        return {**numbers, counted: int(self.count[place])}


def over_draws(values: np.ndarray, kept: np.ndarray | None = None) -> Statistics:
    """Statistics of measured or derived numbers.

    Args:
        values: Numbers of shape (..., draw).
        kept: Which of them count; by default those that are finite.
    """
    with np.errstate(invalid="ignore"):
        table = summary(values, np.isfinite(values) if kept is None else kept)
    return Statistics(**{name: table[..., STATISTICS.index(name)] for name in Statistics.__dataclass_fields__})
