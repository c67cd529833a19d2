"""Times at which a sampler asks a model: the common grids, on any model's own axis of time.

Every grid has N times from noise to data; the step after the last one goes to the data. Names are those under which
the samplers' libraries know them; the tables of Align Your Steps are stretched over the model's own range of noise.

References:
    Karras et al., Elucidating the design space of diffusion-based generative models, 2022.
    https://arxiv.org/abs/2206.00364
    Sabour, Fidler & Kreis, Align your steps, 2024. https://arxiv.org/abs/2404.14507
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

RHO = 7.0
PLACES = (3, 5, 10)
"""Around so many places of a grid its times are moved, one after the other; from coarse to fine."""

PARTS = (0.5, 1 / 64)
"""The largest move and the least, in parts of the way to the next place; halved where none of them helps."""

ALIGNED = {
    "AYS, SD 1.5": (
        (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
        (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    ),
    "AYS, SDXL": (
        (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
        (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    ),
}
"""Timesteps of 1000, and sigma / alpha, of ten steps, as published and as diffusers' `AysSchedules` has them."""


NAMES = ("uniform, leading", "uniform, trailing", "uniform, linspace", "quadratic", "log-SNR", "Karras", *ALIGNED)
"""What the common grids are called."""


@dataclass(frozen=True)
class Axis:
    """A model's axis of time, told densely from the data on.

    Attributes:
        t: In [0, 1], rising.
        ratio: sigma / alpha there, rising.
        count: Timesteps of an index, all of which are told; None for a continuous time.
    """

    t: np.ndarray
    ratio: np.ndarray
    count: int | None = None

    def at(self, t: np.ndarray) -> np.ndarray:
        """The nearest times that the model was trained on, from noise to data and all different."""
        if self.count is None:
            return np.clip(t, self.t[0], self.t[-1])
        k = np.clip(np.round(t * self.count).astype(int), 1, self.count)
        order = np.arange(k.size)
        k = np.minimum.accumulate(k + order) - order  # falling by at least one
        return np.maximum(k, k.size - order) / self.count

    def of(self, log_ratio: np.ndarray) -> np.ndarray:
        """The times of logarithms of sigma / alpha."""
        return self.at(np.interp(log_ratio, np.log(self.ratio), self.t))

    def place(self, t: np.ndarray) -> np.ndarray:
        """The logarithm of sigma / alpha of times."""
        return np.interp(t, self.t, np.log(self.ratio))

    @cached_property
    def along(self) -> np.ndarray:
        """A coordinate of the axis from 0 to 2, half of it even in t and half in log(sigma / alpha)."""
        place = np.log(self.ratio)
        return (self.t - self.t[0]) / np.ptp(self.t) + (place - place[0]) / np.ptp(place)

    def nodes(self, count: int) -> np.ndarray:
        """Times for a fine trajectory, from noise to data, even in that coordinate."""
        t = np.interp(np.linspace(2, 0, count), self.along, self.t)
        return t if self.count is None else np.unique(np.round(t * self.count))[::-1] / self.count

    def shifted(self, t: np.ndarray, centre: float, width: float, part: float) -> np.ndarray:
        """A grid whose times around one place are moved along it, to where their neighbours were.

        Args:
            t: From noise to data.
            centre: The place, counted in times.
            width: Where the move has faded to nothing, in times.
            part: Of the width, by which the time at the centre moves: to the noise where positive, to the data where
                negative. The order stays where it is below 1.
        """
        at, order = np.interp(t, self.t, self.along), np.arange(t.size)
        moved = order - part * width * np.clip(1 - np.abs(order - centre) / width, 0, 1)
        whole = np.interp(moved, np.arange(-1, t.size + 1), [2.0, *at, 0.0])
        return self.at(np.interp(whole, self.along, self.t))


def common(axis: Axis, steps: int) -> dict[str, np.ndarray]:
    """The grids that samplers offer, by name."""
    first, last, i = axis.t[0], axis.t[-1], np.arange(steps, 0, -1)
    u = np.linspace(1, 0, steps) if steps > 1 else np.ones(1)
    lowest, highest = axis.ratio[[0, -1]]
    low, high = np.log(lowest), np.log(highest)
    formulas = (
        axis.at(first + (i - 1) * last / steps),
        axis.at(i * last / steps),
        axis.at(first + u * (last - first)),
        axis.at((np.sqrt(first) + u * (np.sqrt(last) - np.sqrt(first))) ** 2),
        axis.of(low + u * (high - low)),
        axis.of(RHO * np.log(lowest ** (1 / RHO) + u * (highest ** (1 / RHO) - lowest ** (1 / RHO)))),
    )
    grids = dict(zip(NAMES, formulas, strict=False))  # the tables follow
    for name, (timesteps, sigmas) in ALIGNED.items():
        if axis.count is None:
            logs = np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(sigmas)), np.log(sigmas))[:-1]
            part = (logs - np.log(sigmas[-1])) / np.log(sigmas[0] / sigmas[-1])
            grids[name] = axis.of(low + part * (high - low))
        else:
            table = (*(np.array(timesteps) + 1) / 1000, 0)
            grids[name] = axis.at(np.interp(np.linspace(0, 1, steps + 1)[:-1], np.linspace(0, 1, len(table)), table))
    return grids


def improved(axis: Axis, t: np.ndarray, score: Callable[[np.ndarray], float], trials: int) -> np.ndarray:
    """A grid with a lower score than one: its times are moved in turn, and what helps is kept.

    Args:
        axis: On which it lies.
        t: Where to begin.
        score: Of a grid, to be made small.
        trials: Scores at most.
    """
    best = score(t)
    part, least = PARTS
    while trials and part >= least:
        before = best
        for places in PLACES:
            width = max(1.0, (t.size - 1) / (places - 1))
            for centre in np.linspace(0, t.size - 1, min(t.size, places)):
                for side in (part, -part):
                    other = axis.shifted(t, centre, width, side)
                    if trials and not np.array_equal(other, t) and (np.diff(other) < 0).all():
                        trials -= 1
                        if (lower := score(other)) < best:
                            t, best = other, lower
        if best == before:
            part /= 2
    return t
