"""Paired numbers a and b of two models: the ratio b / a and the difference b - a, each with its interval.

Draws of one pair of models have the same data, noise and directions, so a_i and b_i rise and fall together, and what
they share cancels. The ratio of means R has, by the delta method, Var log R = Var(b_i / mean b - a_i / mean a) / n,
and the interval R exp(+- t_{n-1} s / sqrt n). Of several pairs of models each counts once, for draws say nothing of
how trainings differ: the interval is Student's over the pairs' log ratios. Differences have Student's interval always.

References:
    Owen, Monte Carlo theory, methods and examples, 2013, chapters 2 and 8. https://artowen.su.domains/mc/
"""

from dataclasses import dataclass

import numpy as np

from ..statistics import Interval, moments, student

LOWER, HIGHER, NOT_SHOWN = "lower", "higher", "no difference shown"


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
    both = np.isfinite(a) & np.isfinite(b)
    mean_a, mean_b = moments(a, both)[0], moments(b, both)[0]
    count = np.asarray(both.sum(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(mean_a > 0, mean_b / mean_a, np.nan)
        shares = b / mean_b[..., None] - a / mean_a[..., None]
        spread = student(shares, both, level)
        low, high = (np.asarray(ratio * np.exp(end - spread.value)) for end in spread[1:])
        return Effect(mean_a, mean_b, Interval(ratio, low, high), student(b - a, both, level), count)


def over_pairs(a: np.ndarray, b: np.ndarray, level: float = 0.95) -> Effect:
    """The effect from the means of several pairs of models; its ratio is the geometric mean of theirs.

    Args:
        a: (..., pair), the first models' means.
        b: The second models'.
        level: Of the intervals.
    """
    both = np.isfinite(a) & np.isfinite(b)
    mean_a, mean_b = moments(a, both)[0], moments(b, both)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = student(np.where((a > 0) & (b > 0), np.log(b) - np.log(a), np.nan), both, level)
        ratio = Interval(*(np.asarray(np.exp(bound)) for bound in logs))
        still = (mean_a > 0) & ((b == 0) & both).any(-1)  # a geometric mean with a 0 in it
        ratio = ratio._replace(value=np.where(still, 0.0, ratio.value))
        return Effect(mean_a, mean_b, ratio, student(b - a, both, level), np.asarray(both.sum(-1)))


def mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, without NaN; NaN where nothing is left."""
    return moments(values, np.isfinite(values))[0]


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
