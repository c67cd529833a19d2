"""Edges of shared blocks by the bound that a K curve gives: the sum of K over a block is the most that it can hide.

A function of slope K that is replaced by its value at the left end of each of n blocks has the smallest bound where all
blocks have the same sum of K, and (as n grows) the smallest root mean square where all have the same sum of K^(2/3);
the powers of K are those of piecewise constant approximation. For K = c t^-1/2 the first kind of edges is (i/n)^2, for
K = c/t they are geometric.

References:
    de Boor, Good approximation by splines with variable knots, 1973.
"""

import numpy as np

from ..results.run import Run
from .cells import Cells
from .partition import BLOCKS, MOST_BLOCKS, SHARE, Partition, greatest

PAPER_END = 0.1
"""The end of sharing in the paper, as a share of the time axis: timestep 100 of 1000."""


def bounded(run: Run, cells: Cells, last: int, blocks: int | None) -> tuple[tuple[Partition, ...], str]:
    """Partitions by the bound that K gives, and why so many blocks."""
    blocks, why = enough(run, cells, last) if blocks is None else (blocks, "as asked")
    partitions = [
        partition(cells, "equal K", quantiles(cells, last, blocks, 1.0)),
        partition(cells, "equal K^(2/3)", quantiles(cells, last, blocks, 2 / 3)),
        partition(cells, "uniform", quantiles(cells, last, blocks, 0.0)),
    ]
    usual = cells.after(PAPER_END) if run.index else 0
    if BLOCKS <= usual < cells.bounds.size and (usual, BLOCKS) != (last, blocks):
        partitions.append(partition(cells, "uniform, the paper's", quantiles(cells, usual, BLOCKS, 0.0)))
    return tuple(partitions), why


def enough(run: Run, cells: Cells, last: int) -> tuple[int, str]:
    """The fewest blocks whose jumps are small beside the error that the model makes anyway."""
    if cells.loss is None or run.dimension is None:
        return min(BLOCKS, last), "the paper's number; measure the loss to have it follow from the curve"
    error = np.sqrt(run.dimension * cells.loss)
    most = min(MOST_BLOCKS, last)
    for blocks in range(1, most + 1):
        edges = quantiles(cells, last, blocks, 1.0)
        if (sums(cells.mean, edges) <= SHARE * error[edges[1:] - 1]).all():
            return blocks, f"the fewest whose jumps are bound to be at most {SHARE:g} of the error sqrt(d loss) there"
    return most, f"the most tried; some bounds are still above {SHARE:g} of the error sqrt(d loss) there"


def quantiles(cells: Cells, last: int, blocks: int, power: float) -> np.ndarray:
    """Places of edges between which the integral of K to a power is the same, as nearly as whole cells allow."""
    mass = cells.speed[:last] ** power * cells.widths[:last]
    total = np.concatenate([[0], np.cumsum(mass)])
    edges = np.interp(np.linspace(0, total[-1], blocks + 1), total, np.arange(last + 1)).round().astype(int)
    order = np.arange(blocks + 1)
    edges = np.maximum.accumulate(edges - order) + order  # no block is empty, from the left
    return np.minimum(edges, last - order[::-1])  # nor from the right


def sums(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Over each block, along the last axis."""
    return np.add.reduceat(values[..., : edges[-1]], edges[:-1], axis=-1)


def partition(cells: Cells, rule: str, edges: np.ndarray) -> Partition:
    """What the curve predicts of blocks between some edges."""
    jumps = sums(cells.change, edges)
    passed = np.concatenate([[0], np.cumsum(cells.mean)])[: edges[-1]]
    since = passed - np.repeat(passed[edges[:-1]], np.diff(edges))
    error = np.sqrt(np.average(since**2, weights=cells.widths[: edges[-1]]))
    bounds = tuple(map(float, cells.bounds[edges]))
    return Partition(rule, bounds, tuple(map(float, jumps.mean(0))), greatest(jumps), float(error))
