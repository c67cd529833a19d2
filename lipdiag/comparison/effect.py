"""Paired numbers a and b of two models: the ratio b / a and the difference b - a, each with its interval.

Draws of one pair of models have the same data, noise and directions, so a_i and b_i rise and fall together, and what
they share cancels. The ratio of means R has, by the delta method, Var log R = Var(b_i / mean b - a_i / mean a) / n,
and the interval R exp(+- t_{n-1} s / sqrt n). Of several pairs of models each counts once, for draws say nothing of
how trainings differ: the interval is Student's over the pairs' log ratios. Differences have Student's interval always.

References:
    Owen, Monte Carlo theory, methods and examples, 2013, chapters 2 and 8. https://artowen.su.domains/mc/
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..statistics import half_width

LOWER, HIGHER, NOT_SHOWN = "lower", "higher", "no difference shown"


class Interval(NamedTuple):
    """A value with its interval; infinite where there are fewer than two replicates."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Effect:
    """What differs between two models, an entry each.

    Attributes:
        a: Mean of the first model.
        b: Of the second.
        ratio: b / a; NaN where a mean is not positive, 0 without an interval where b is exactly 0.
        difference: b - a.
        count: Replicates.
    """

    a: np.ndarray
    b: np.ndarray
    ratio: Interval
    difference: Interval
    count: np.ndarray


def over_draws(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> Effect:
    """The effect from paired draws of two models.

    Args:
        a: (..., draw); NaN where there is none.
        b: The same draws of the second model.
        level: Of the intervals.
    """
    a, b, count = paired(a, b)
    mean_a, mean_b = mean(a), mean(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(mean_a > 0, mean_b / mean_a, np.nan)
        spread = half(b / mean_b[..., None] - a / mean_a[..., None], count, level)
        low, high = (np.asarray(ratio * np.exp(sign * spread)) for sign in (-1, 1))
    return Effect(mean_a, mean_b, Interval(ratio, low, high), student(b - a, count, level), count)


def over_pairs(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> Effect:
    """The effect from the means of several pairs of models; its ratio is the geometric mean of theirs.

    Args:
        a: (..., pair), the first models' means.
        b: The second models'.
        level: Of the intervals.
    """
    a, b, count = paired(a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = student(np.where((a > 0) & (b > 0), np.log(b) - np.log(a), np.nan), count, level)
        ratio = Interval(*(np.asarray(np.exp(bound)) for bound in logs))
        still = (mean(a) > 0) & (b == 0).any(-1)  # a geometric mean with a 0 in it
    ratio = ratio._replace(value=np.where(still, 0.0, ratio.value))
    return Effect(mean(a), mean(b), ratio, student(b - a, count, level), count)


def paired(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The replicates that both have, NaN elsewhere, and how many they are."""
    both = np.isfinite(a) & np.isfinite(b)
    return np.where(both, a, np.nan), np.where(both, b, np.nan), np.asarray(both.sum(-1))


def mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, without NaN; NaN where nothing is left."""
    count = np.isfinite(values).sum(-1)
    return np.where(count > 0, np.nansum(values, -1) / np.maximum(count, 1), np.nan)


def half(values: np.ndarray, count: np.ndarray, level: float) -> np.ndarray:
    """Half-width of Student's interval of the mean over the last axis."""
    squares = np.where(np.isfinite(values), (values - mean(values)[..., None]) ** 2, 0).sum(-1)
    error = np.asarray(np.sqrt(squares / np.maximum(count - 1, 1) / np.maximum(count, 1)))
    complete = np.isfinite(values).sum(-1) == count
    return np.where(complete, half_width(error, count, level), np.nan)


def student(values: np.ndarray, count: np.ndarray, level: float) -> Interval:
    """Mean over the last axis with its interval; NaN where a replicate is missing."""
    width = half(values, count, level)
    value = np.where(np.isnan(width), np.nan, mean(values))
    return Interval(value, np.asarray(value - width), np.asarray(value + width))


def verdict(effect: Effect, by_ratio: bool) -> str:
    """`lower`, `higher`, or `no difference shown`: in words of the second model, only if the interval excludes none.

    Args:
        effect: Of a single number.
        by_ratio: Whether the ratio decides; where it has no interval the difference does.
    """
    interval, none = (effect.ratio, 1.0) if by_ratio and np.isfinite(effect.ratio.low) else (effect.difference, 0.0)
    if interval.high < none:
        return LOWER
    return HIGHER if interval.low > none else NOT_SHOWN
