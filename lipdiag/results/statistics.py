"""What many draws say at each timestep: means with their intervals, and quantiles."""

from dataclasses import dataclass

import numpy as np

from ..statistics import LEVEL, STATISTICS, summary


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


def over_draws(values: np.ndarray, kept: np.ndarray | None = None, level: float = LEVEL) -> Statistics:
    """Statistics of measured or derived numbers.

    Args:
        values: Numbers of shape (..., draw).
        kept: Which of them count; by default those that are finite.
        level: Of the mean's interval.
    """
    with np.errstate(invalid="ignore"):
        table = summary(values, np.isfinite(values) if kept is None else kept, level)
    return Statistics(**{name: table[..., STATISTICS.index(name)] for name in Statistics.__dataclass_fields__})
