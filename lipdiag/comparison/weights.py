"""Numbers that stand for a whole curve: weights over the measured timesteps, so that every draw has such a number.

Sums and means over all integer timesteps of a part of the axis are linear between the measured ones. K of a model that
shares timesteps is exactly 0 inside a block, and the sum over a block is the jump at its last timestep.
"""

from dataclasses import dataclass

import numpy as np

from ..results.headline import REFERENCE
from ..results.run import Run


@dataclass(frozen=True)
class Part:
    """A part of the time axis.

    Attributes:
        name: What to call it.
        inside: Of the measured timesteps, those in it.
        first: Of its integer timesteps; 0 for a model of continuous time.
        last: Of its integer timesteps, included.
    """

    name: str
    inside: np.ndarray
    first: int = 0
    last: int = -1

    @property
    def size(self) -> int:
        return self.last - self.first + 1


def parts(run: Run, end: float) -> list[Part]:
    """Below the end of sharing, and from there on; those in which anything was measured.

    Args:
        run: Whose timesteps are counted.
        end: In timesteps, or in t for a model of continuous time without sharing.
    """
    if not run.discrete:
        inside = run.before(end) if run.shared else run.time("t") < end
        less, more = (">", "<=") if run.shared and run.direction < 0 else ("<", ">=")
        sign = "" if run.shared else "t "
        named = [(f"{sign}{less} {end:g}", inside), (f"{sign}{more} {end:g}", ~inside)]
        return [Part(name, inside) for name, inside in named if inside.any()]
    edge, first, last = int(np.ceil(end)), int(np.ceil(run.timestep.min())), int(run.timestep.max())
    halves = []
    if first < edge:
        name = f"< {end:g}" if first == 0 and last >= edge - 1 else f"{first}-{min(last, edge - 1)}"
        halves.append(Part(name, run.timestep < edge, first, min(last, edge - 1)))
    if last >= edge:
        name = f">= {end:g}" if last == run.count - 1 and first <= edge else f"{max(first, edge)}-{last}"
        halves.append(Part(name, run.timestep >= edge, max(first, edge), last))
    return [part for part in halves if part.inside.any()]


def end_of(a: Run, b: Run) -> float:
    """Where sharing ends in either, else a tenth of the axis."""
    ends = [run.end * a.direction for run in (a, b) if run.shared]
    return max(ends) * a.direction if ends else REFERENCE * a.count if a.discrete else REFERENCE


def mean_weights(run: Run, part: Part) -> np.ndarray:
    """The weights of the mean over a part: linear between measured timesteps, or by trapezoids over continuous t."""
    if run.discrete:
        return interpolation(run.timestep, part.first, part.last) / part.size
    t, weights = run.time("t")[part.inside], np.zeros(run.timestep.size)
    if t.size == 1:
        weights[part.inside] = 1
        return weights
    gaps = np.abs(np.diff(t))
    weights[part.inside] = (np.append(gaps, 0) + np.append(0, gaps)) / 2 / gaps.sum()
    return weights


def interpolation(timesteps: np.ndarray, first: int, last: int) -> np.ndarray:
    """Weights whose product with values is the sum, over the integers from first to last, of the line through them."""
    grid, weights = np.arange(first, last + 1), np.zeros(timesteps.size)
    right = np.clip(np.searchsorted(timesteps, grid), 1, max(timesteps.size - 1, 1))
    if timesteps.size == 1:
        return np.array([float(grid.size)])
    left = right - 1
    share = np.clip((grid - timesteps[left]) / (timesteps[right] - timesteps[left]), 0, 1)
    np.add.at(weights, left, 1 - share)
    np.add.at(weights, right, share)
    return weights


def total_weights(run: Run, mean: np.ndarray, part: Part) -> np.ndarray | None:
    """The weights of the sum of K over a part's integer timesteps.

    There are none (None) where jumps were not measured or blocks are not still.

    Args:
        run: A model of integer timesteps.
        mean: Of K, at each timestep.
        part: Of the axis.
    """
    if not run.discrete or run.step != 1:
        return None
    if not run.shared:
        return interpolation(run.timestep, part.first, part.last)
    blocks = (run.timestep < run.end) & part.inside
    needed = [k for k in run.missing_jumps if part.first <= k <= part.last]
    if needed or (mean[blocks & ~run.jumps] != 0).any():
        return None
    weights = (blocks & run.jumps).astype(float)
    rest = run.timestep >= run.end
    if part.last >= run.end:
        weights[rest] = interpolation(run.timestep[rest], max(part.first, int(np.ceil(run.end))), part.last)
    return weights


def peak_weights(mean: np.ndarray) -> np.ndarray:
    """The weights of the largest mean: 1 where it is."""
    return (np.arange(mean.size) == np.nanargmax(mean)).astype(float)


def edge_weights(at: np.ndarray) -> np.ndarray:
    """The weights of the mean over some timesteps."""
    return at / at.sum()
