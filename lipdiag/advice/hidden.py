"""What shared timesteps would hide from a model, measured on it: the change of eps(x_t, t) when it is told another t.

Of a run with the quantity `pairs`, timesteps are places from the data on: a row of a matrix holds x_t, a column the
timestep that the model is told. A block from place l to place r is told l throughout, so that the matrix holds exactly
what the block changes, with no detour over K: the change saturates where a sum of K goes on growing.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import UsageError
from ..results.run import Run
from ..statistics import Estimate
from .partition import BLOCKS, MOST_BLOCKS, SHARE, Partition, greatest
from .pieces import cheapest

LEAST_TIMES = 4
COMMAND = "--quantity pairs --quantity time_difference --quantity loss --draws 16"
"""How `lipdiag measure` gets all that advice on sharing is made of."""


@dataclass(frozen=True)
class Hidden:
    """The measured changes up to the end of sharing.

    Attributes:
        timesteps: From the data on; the last one is the end.
        change: |eps(x_t, t) - eps(x_t, t')| for each draw (draws, rows t, columns t').
        error: The error that the model makes anyway, sqrt(d loss), at each timestep; None where it was not measured.
        reach: How far the last timestep of a block that ends at a place lies between the measured one before and it.
    """

    timesteps: np.ndarray
    change: np.ndarray
    error: np.ndarray | None
    reach: np.ndarray

    @cached_property
    def square(self) -> np.ndarray:
        """Mean over draws of the squared change, what the block from a column on hides at a row."""
        return (self.change**2).mean(0)

    @cached_property
    def last(self) -> np.ndarray:
        """The change at the last timestep of a block, for each draw (draws, end, start)."""
        before = np.roll(self.change, 1, axis=1)
        return before + self.reach[:, None] * (self.change - before)

    @cached_property
    def largest(self) -> np.ndarray:
        """The largest mean square that a block from a row to a column hides."""
        inside = np.maximum.accumulate(np.tril(self.square), axis=0)
        return np.maximum(np.roll(inside, 1, axis=0), (self.last**2).mean(0)).T

    @cached_property
    def summed(self) -> np.ndarray:
        """The integral over timesteps of the mean square that a block from a row to a column hides."""
        widths = np.abs(np.diff(self.timesteps, prepend=self.timesteps[0]))
        before = np.roll(self.square, 1, axis=0)
        parts = widths[:, None] * (before + self.reach[:, None] / 2 * (self.square - before))
        return np.cumsum(np.tril(parts, -1), axis=0).T

    @cached_property
    def parts(self) -> np.ndarray | None:
        """The largest root mean square that a block hides, in parts of the model's error at that timestep."""
        if self.error is None:
            return None
        inside = np.maximum.accumulate(np.tril(np.sqrt(self.square) / self.error[:, None]), axis=0)
        before = np.roll(self.error, 1)
        error = before + self.reach * (self.error - before)
        last = np.sqrt((self.last**2).mean(0)) / error[:, None]
        return np.maximum(np.roll(inside, 1, axis=0), last).T

    def worst(self, start: int, end: int) -> np.ndarray:
        """The square that a block hides at the timestep where its mean is largest, for each draw."""
        rows = [*self.change[:, start + 1 : end, start].T, self.last[:, end, start]]
        return max((row**2 for row in rows), key=np.mean)

    def least(self, blocks: int) -> np.ndarray:
        """Places of the edges with the least largest mean square; of several such the least mean."""
        edges = cheapest(self.largest, blocks, np.maximum)
        bound = self.largest[edges[:-1], edges[1:]].max()
        return cheapest(np.where(self.largest <= bound, self.summed, np.inf), blocks)

    def uniform(self, blocks: int) -> np.ndarray:
        """Places of the edges that lie nearest to those of equal blocks."""
        wanted = np.linspace(self.timesteps[0], self.timesteps[-1], blocks + 1)
        edges = np.abs(self.timesteps[:, None] - wanted).argmin(0)
        return np.unique(edges)


def hidden(run: Run, end: float) -> Hidden:
    """The changes that a run with `pairs` measured, from the data to a timestep; there they are linear in between.

    Raises:
        UsageError: If too few timesteps, or no draw, were measured.
    """
    order = np.argsort(run.time("t"))
    done = (run.dataset["done"].values == 1).all(0)
    change = run.dataset["pair_difference"].transpose("draw", "time", "other").values[:, order][:, :, order]
    whole = done & np.isfinite(change).all((1, 2))
    times = run.timestep[order]
    before = run.direction * (end - times) > 0
    if before.sum() < LEAST_TIMES or not whole.any():
        raise UsageError(
            f"{run.label} has {before.sum()} timesteps before {end:g} and {whole.sum()} draws done at all; advice "
            f"needs {LEAST_TIMES} and 1, so measure with `{COMMAND}`"
        )
    change, count = change[whole], int(before.sum())
    place = float(np.interp(run.direction * end, run.direction * times, np.arange(times.size)))
    low, part = min(int(place), times.size - 2), place - min(int(place), times.size - 2)
    row = change[:, low] + part * (change[:, low + 1] - change[:, low])
    square = np.concatenate([change[:, :count, :count], row[:, None, :count]], axis=1)
    square = np.concatenate([square, np.zeros_like(square[:, :, :1])], axis=2)
    error = None
    if run.has("loss") and run.dimension is not None:
        known = np.sqrt(run.dimension * run.statistics("loss").mean[order])
        error = np.append(known[:count], known[low] + part * (known[low + 1] - known[low]))
    kept = np.append(times[:count], end)
    gaps = np.abs(np.diff(kept, prepend=kept[0]))
    reach = 1 - 1 / np.maximum(gaps, 1) if run.index else np.ones_like(gaps)
    return Hidden(kept, square, error, reach)


def exact(changes: Hidden, blocks: int | None) -> tuple[tuple[Partition, ...], str]:
    """The best partitions by what was measured, and why so many blocks."""
    most = changes.timesteps.size - 1
    if blocks is None:
        blocks, why = fewest(changes, most)
    else:
        why = "as asked"
    chosen = {
        "least largest": changes.least(blocks),
        "least mean square": cheapest(changes.summed, blocks),
        "uniform": changes.uniform(blocks),
    }
    return tuple(told(changes, rule, edges) for rule, edges in chosen.items()), why


def fewest(changes: Hidden, most: int) -> tuple[int, str]:
    """The fewest blocks that hide little beside the error that the model makes anyway."""
    if changes.parts is None:
        return min(BLOCKS, most), "the paper's number; measure the loss to have it follow from the model's error"
    for blocks in range(1, min(MOST_BLOCKS, most) + 1):
        edges = changes.least(blocks)
        if changes.parts[edges[:-1], edges[1:]].max() <= SHARE:
            return blocks, f"the fewest that hide at most {SHARE:g} of the model's error sqrt(d loss) anywhere"
    return min(MOST_BLOCKS, most), f"the most tried; some still hide more than {SHARE:g} of the error sqrt(d loss)"


def told(changes: Hidden, rule: str, edges: np.ndarray) -> Partition:
    """What was measured of blocks between some edges."""
    starts, ends = edges[:-1], edges[1:]
    squares = np.stack([changes.worst(start, end) for start, end in itertools.pairwise(edges.tolist())], axis=1)
    largest = greatest(squares)
    value, low, high = (float(np.sqrt(max(x, 0))) for x in largest[:3])
    jumps = changes.change[:, ends, starts].mean(0)
    total = abs(float(changes.timesteps[-1] - changes.timesteps[0]))
    return Partition(
        rule,
        tuple(map(float, changes.timesteps[edges])),
        tuple(map(float, jumps)),
        Estimate(value, low, high, largest.draws),
        float(np.sqrt(changes.summed[starts, ends].sum() / total)),
        None if changes.parts is None else float(changes.parts[starts, ends].max()),
    )
