"""Where to share timesteps: end and edges of E-TSDM's blocks, from a measured K curve.

The change that a block hides is at most the sum of K over its timesteps, and it comes back as the jump at the block's
end. A function of slope K that is replaced by its value at the left end of each of n blocks has the smallest largest
error where all blocks have the same sum of K, and (as n grows) the smallest root mean square error where all have the
same sum of K^(2/3); the powers of K are those of piecewise constant approximation. For K = c t^-1/2 the first kind of
edges is (i/n)^2, for K = c/t they are geometric.

This is about the measured model. One that is trained with shared timesteps reads the noise level off x and may jump
less, or more.

References:
    de Boor, Good approximation by splines with variable knots, 1973.
"""

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..printing import plain
from ..results.curve import Curve, curves
from ..results.headline import SPEEDS
from ..results.run import Run, read
from ..statistics import LEVEL, Estimate, mean
from .cells import AWAY, Cells, away, cut, interpolate

if TYPE_CHECKING:
    import xarray as xr

ABOVE = 10.0
"""Sharing ends where K is no longer this many times its median away from the data."""

WIDTH = 80
SHARE = 0.25
"""Jumps are to be at most this part of the error that the model makes anyway, sqrt(d loss)."""

BLOCKS = 5
"""Where the loss was not measured: the number of the paper."""

MOST_BLOCKS = 50
PAPER_END = 0.1
"""The end of sharing in the paper, as a share of the time axis: timestep 100 of 1000."""


@dataclass(frozen=True)
class Partition:
    """Blocks that share a timestep, and what the curve predicts of them.

    Attributes:
        rule: How they were chosen.
        edges: In timesteps, the end included.
        jumps: Predicted, at the end of each block.
        largest: Of the jumps, with its interval over draws; see `greatest`.
        error: Root mean square over the shared timesteps of the predicted change since the block's left end.
    """

    rule: str
    edges: tuple[float, ...]
    jumps: tuple[float, ...]
    largest: Estimate
    error: float

    @property
    def spelled(self) -> list[str]:
        """The edges, with as many digits as keep the width of every block to a hundredth."""
        for digits in range(6, 17):
            texts = [f"{edge:.{digits}g}" for edge in self.edges]
            if np.allclose(np.diff([float(text) for text in texts]), np.diff(self.edges), rtol=0.01, atol=0):
                break
        return texts

    @property
    def etsdm(self) -> str:
        """The partition as `lipdiag train --etsdm` takes it."""
        return "edges:" + ",".join(self.spelled)


@dataclass(frozen=True)
class Advice:
    """A proposal, and what it rests on.

    Attributes:
        run: The measured one.
        variable: What its K is.
        needed: Whether K near the data is high enough for sharing to be worth a thought.
        end: The timestep where sharing would end.
        reason: Why there.
        count: Why so many blocks.
        reference: Median of K away from the data.
        partitions: The proposal first, then others to compare with.
    """

    run: Run
    variable: str
    needed: bool
    end: float
    reason: str
    count: str
    reference: float
    partitions: tuple[Partition, ...]

    @property
    def edges(self) -> tuple[float, ...]:
        return self.partitions[0].edges

    @property
    def etsdm(self) -> str:
        return self.partitions[0].etsdm

    @property
    def call(self) -> str:
        """The partition as a training loop of one's own takes it."""
        edges = ", ".join(self.partitions[0].spelled)
        told = "" if self.run.clock in ("", "timesteps(1000)") else f', clock="{self.run.clock.replace(" ", "")}"'
        return f"lipdiag.share_timesteps(network, edges=({edges}){told})"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "run": self.run.label,
            "needed": self.needed,
            "etsdm": self.etsdm if self.needed else None,
            "share_timesteps": self.call if self.needed else None,
            "end": self.end,
            "reason": self.reason,
            "count": self.count,
            "reference": self.reference,
            "partitions": [
                {
                    "rule": p.rule,
                    "edges": p.edges,
                    "jumps": p.jumps,
                    "largest": p.largest.to_dict(),
                    "error": p.error,
                }
                for p in self.partitions
            ],
        }

    def __str__(self) -> str:
        return text(self)


def advise(dataset: "xr.Dataset", end: float | None = None, blocks: int | None = None, above: float = ABOVE) -> Advice:
    """End and edges of shared blocks that a measured K curve suggests.

    Args:
        dataset: A run of a model without shared timesteps, from the first timestep on; the more timesteps near t = 0,
            the better.
        end: Where sharing is to end; by default where K falls below `above` times its median away from the data.
        blocks: How many; by default the fewest whose jumps stay below a quarter of the error the model makes anyway.
        above: How many times.

    Raises:
        UsageError: If the run shares timesteps already, or lacks what this needs.

    Example:
        >>> run = lipdiag.open_run("digits-ddpm.zarr")
        >>> advice = lipdiag.advise(run, end=100, blocks=2)
        >>> advice.edges[0], advice.edges[-1]
        (0.0, 100.0)
    """
    (run,) = read([dataset])
    if run.shared:
        raise UsageError(
            f"{run.label} shares timesteps already, so that its K says nothing about others; give the run of a model "
            "that shares none"
        )
    (curve,) = curves([run])
    cells = cut(curve)
    reference = away(cells)
    needed, last, reason = threshold(curve, cells, above, reference)
    if end is not None:
        needed, last, reason = True, cells.place(end), "as asked"
    if not 1 <= last < cells.bounds.size:
        raise UsageError(f"sharing cannot end at {end:g}, the measured timesteps are {cells}")
    if blocks is None:
        blocks, why = enough(run, cells, last)
    elif 1 <= blocks <= last:
        needed, why = True, "as asked"
    else:
        raise UsageError(f"{blocks} blocks do not fit below timestep {cells.bounds[last]:g}; give 1 to {last}")
    found = [
        partition(cells, "equal K", quantiles(cells, last, blocks, 1.0)),
        partition(cells, "equal K^(2/3)", quantiles(cells, last, blocks, 2 / 3)),
        partition(cells, "uniform", quantiles(cells, last, blocks, 0.0)),
    ]
    usual = cells.after(PAPER_END) if run.index else 0
    if BLOCKS <= usual < cells.bounds.size and (usual, BLOCKS) != (last, blocks):
        found.append(partition(cells, "uniform, the paper's", quantiles(cells, usual, BLOCKS, 0.0)))
    return Advice(run, curve.variable, needed, float(cells.bounds[last]), reason, why, reference, tuple(found))


def threshold(curve: Curve, cells: Cells, above: float, reference: float) -> tuple[bool, int, str]:
    """Whether K near the data is high, the cell where it is so for the last time, and why there."""
    s, run = curve.statistics, curve.run
    low = np.where(np.isfinite(s.low), s.low, s.mean)  # one draw has no interval
    high = (interpolate(cells.x, cells.known, low) > above * reference) & (cells.t < AWAY[0])
    said = f"{above:g} times its median over t from {AWAY[0]:g} to {AWAY[1]:g}, {plain(reference)} {run.unit}"
    if not high.any():
        return False, cells.after(PAPER_END), f"near the data K is nowhere {said}"
    last = int(np.flatnonzero(high)[-1]) + 1
    return True, last, f"up to there K (the lower end of its interval) is above {said}"


def enough(run: Run, cells: Cells, last: int) -> tuple[int, str]:
    """The fewest blocks whose jumps are small beside the error that the model makes anyway."""
    if cells.loss is None or run.dimension is None:
        return min(BLOCKS, last), "the paper's number; measure the loss to have it follow from the curve"
    error = np.sqrt(run.dimension * cells.loss)
    most = min(MOST_BLOCKS, last)
    for blocks in range(1, most + 1):
        edges = quantiles(cells, last, blocks, 1.0)
        if (sums(cells.mean, edges) <= SHARE * error[edges[1:] - 1]).all():
            return blocks, f"the fewest whose predicted jumps are at most {SHARE:g} of the error sqrt(d loss) there"
    return most, f"the most tried; some jumps are still above {SHARE:g} of the error sqrt(d loss) there"


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


def greatest(values: np.ndarray) -> Estimate:
    """The largest of some means over draws (draws, means), with an interval that allows for its having been picked.

    If the largest true mean lies above every mean's upper end, it lies above its own: ends at the usual level are
    enough. If it lies below one's lower end, so does that one's true mean, and it may be any: those ends have
    Bonferroni's level. Where edges are fitted to the same draws this holds to first order: what they hide is predicted
    as equal, and the truth is not.
    """
    count = values.shape[1]
    picked = mean(values[:, values.mean(0).argmax()])
    low = max(mean(column, level=1 - (1 - LEVEL) / count).low for column in values.T)
    return picked._replace(low=low, high=max(mean(column).high for column in values.T))


def text(advice: Advice) -> str:
    """An advice for a terminal of 80 columns."""
    run, best = advice.run, advice.partitions[0]
    symbol = SPEEDS[advice.variable]
    said = [
        f"{run.label}: from {symbol} at {run.timestep.size} timesteps, n = {best.largest.draws} draws of {run.data}."
    ]
    if not advice.needed:
        said.append(f"No sharing is suggested: {advice.reason}. No blocks are needed; --end and --blocks propose some.")
        return "\n".join(textwrap.fill(line, WIDTH) for line in said)
    said.append(f"Sharing ends at {advice.end:.6g}: {advice.reason}.")
    said.append(f"{len(best.jumps)} blocks: {advice.count}.")
    rows = [("blocks", "", "largest predicted jump", "RMS")]
    for p in advice.partitions:
        rows.append(
            (p.rule, f"{len(p.jumps)} to {p.edges[-1]:.5g}", str(p.largest).partition(", n")[0], plain(p.error))
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    note = "Jump: sum of K over a block, mean over draws [95 % interval that allows for the pick]; RMS: of the "
    note += "predicted change since a block's left end. A sum of K is the most the prediction can change at fixed x."
    caution = (
        "This is a proposal from the measured curve and not a guarantee: a model trained with shared timesteps reads "
        "the noise level off x and jumps by less or more. Train both, compare their jumps, loss and samples."
    )
    wrapped = [textwrap.fill(line, WIDTH) for line in said]
    # a spelled clock is never broken
    call = textwrap.fill(advice.call, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    commands = [f"--etsdm {advice.etsdm}", "", call]
    return "\n".join(
        [*wrapped, "", *table, textwrap.fill(note, WIDTH), "", *commands, "", textwrap.fill(caution, WIDTH)]
    )
