"""From draws to statements: means with intervals, streamed, and when to stop drawing.

Over n independent draws the mean has standard error s / sqrt(n) and the 95 % interval mean +- t_{n-1} s / sqrt(n)
(Student). Looking at the interval after every draw and stopping when it is narrow covers only about 90 %, because a
stop is likelier where the variance happens to look small; so there is a least number of draws, and looks are spaced.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit  # scipy.stats would take a second to import

from .printing import plain

LEVEL = 0.95
"""The level of intervals, unless another is asked for."""

MINIMUM_DRAWS = 64
"""Draws before the first look under a tolerance."""

LOOK_RATIO = 1.5
"""Each look has this many times the draws of the one before."""

STATISTICS = ("mean", "standard_error", "low", "high", "median", "q05", "q25", "q75", "q95", "max", "count")
"""What `summarize` tells of draws, in its order."""


@dataclass
class Moments:
    """Count, mean, squared deviation and maximum of a stream of rows, one column per timestep (Welford, Chan)."""

    count: np.ndarray
    mean: np.ndarray
    square: np.ndarray
    maximum: np.ndarray

    @classmethod
    def empty(cls, times: int) -> "Moments":
        return cls(np.zeros(times, int), np.zeros(times), np.zeros(times), np.full(times, -np.inf))

    def add(self, times: slice, values: np.ndarray) -> None:
        """Take in values (times, draws) of a block of timesteps."""
        n = values.shape[1]
        mean, square = values.mean(1), values.var(1) * n
        before, total = self.count[times], self.count[times] + n
        delta = mean - self.mean[times]
        self.mean[times] += delta * n / total
        self.square[times] += square + delta**2 * before * n / total
        self.maximum[times] = np.maximum(self.maximum[times], values.max(1))
        self.count[times] = total

    @property
    def standard_error(self) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.sqrt(self.square / (self.count - 1) / self.count)

    def relative_half_width(self) -> np.ndarray:
        """Half-width of the mean's interval over its size; 0 for a mean known exactly, even when it is 0."""
        half = half_width(self.standard_error, self.count)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(half == 0, 0.0, half / np.abs(self.mean))


def half_width(standard_error: np.ndarray, count: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Half-width of Student's interval at `level`; infinite for fewer than two draws."""
    count = np.asarray(count)
    quantile = stdtrit(np.maximum(count - 1, 1), (1 + level) / 2)
    return np.where(count > 1, quantile * standard_error, np.inf)


class Interval(NamedTuple):
    """A mean with its interval; infinite where there are fewer than two replicates."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def moments(values: np.ndarray, kept: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the last axis and its standard error, NaN where too few are there, or where one of them is NaN.

    Args:
        values: Numbers of shape (..., replicate).
        kept: Which of them count; all by default.
    """
    count: Any = values.shape[-1] if kept is None else np.asarray(kept.sum(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.asarray((values if kept is None else np.where(kept, values, 0)).sum(-1) / count)
        squares = (values - mean[..., None]) ** 2
        squares = (squares if kept is None else np.where(kept, squares, 0)).sum(-1)
        return mean, np.asarray(np.sqrt(np.divide(squares, count - 1)) / np.sqrt(count))


def student(values: np.ndarray, kept: np.ndarray | None = None, level: float = LEVEL) -> Interval:
    """Mean over the last axis with Student's interval at `level`, NaN where the mean is.

    Args:
        values: Numbers of shape (..., replicate).
        kept: Which of them count; all by default.
        level: How often the interval covers.
    """
    mean, error = moments(values, kept)
    count = np.asarray(values.shape[-1] if kept is None else kept.sum(-1))
    with np.errstate(invalid="ignore"):
        half = np.where(np.isnan(mean), np.nan, half_width(error, count, level))
        return Interval(mean, np.asarray(mean - half), np.asarray(mean + half))


class Estimate(NamedTuple):
    """A number, its 95 % interval (NaN where there is none), and over how many draws."""

    value: float
    low: float
    high: float
    draws: int

    def __str__(self) -> str:
        interval = f" [{plain(self.low)}, {plain(self.high)}]" if np.isfinite(self.low + self.high) else ""
        return f"{plain(self.value)}{interval}, n = {self.draws}"

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON, which has no NaN."""
        known = {name: float(x) if np.isfinite(x) else None for name, x in zip(self._fields, self[:3], strict=False)}
        return {**known, "n": self.draws}


def mean(values: np.ndarray, *, level: float = LEVEL) -> Estimate:
    """The mean of independent draws, with Student's interval."""
    value, low, high = (float(number) for number in student(values, level=level))
    known = values.size > 1
    return Estimate(value, low if known else np.nan, high if known else np.nan, values.size)


def ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """The ratio of the means of paired positive draws."""
    a, b = float(above.mean()), float(below.mean())
    if not (a > 0 and b > 0):
        return Estimate(a / b if b else np.nan, np.nan, np.nan, above.size)
    spread = mean(above / a - below / b)
    half = (spread.high - spread.low) / 2
    return Estimate(a / b, a / b * np.exp(-half), a / b * np.exp(half), above.size)


def looks(first: int, most: int, block: int) -> Iterator[int]:
    """Numbers of draws after which to look whether the tolerance is met: whole blocks, growing by `LOOK_RATIO`."""
    draws = blocks(max(first, MINIMUM_DRAWS), block)
    while draws < most:
        yield draws
        draws = blocks(draws * LOOK_RATIO, block)
    yield most


def blocks(draws: float, block: int) -> int:
    """The least number of draws that is not below `draws` and fills whole blocks."""
    return -(-math.ceil(draws) // block) * block


def summary(values: np.ndarray, kept: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """`STATISTICS` along a new last axis, of values (..., draw) of which some are kept."""
    if kept.all():
        return _of_all(values, level)
    rows = zip(values.reshape(-1, values.shape[-1]), kept.reshape(-1, values.shape[-1]), strict=True)
    return np.stack([_of_all(row[some], level) for row, some in rows]).reshape(*values.shape[:-1], len(STATISTICS))


def _of_all(values: np.ndarray, level: float) -> np.ndarray:
    """The statistics of (..., draw) values, all of which count."""
    *place, count = values.shape
    if not count:
        return np.broadcast_to(np.array([*[np.nan] * 10, 0.0]), (*place, len(STATISTICS))).copy()
    mean, error = moments(values)
    half = half_width(error, np.array(count), level)
    quantiles = np.quantile(values, [0.5, 0.05, 0.25, 0.75, 0.95], axis=-1)
    columns = [mean, error, mean - half, mean + half, *quantiles, values.max(-1), np.full(place, float(count))]
    return np.stack(columns, -1)
