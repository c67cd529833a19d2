"""Where to share timesteps: end and edges of E-TSDM's blocks, from what sharing would change in the measured model.

Where the run has `pairs` that is measured, and the edges are the exact best (`hidden`); else K bounds it (`bound`).
This is about the measured model. One that is trained with shared timesteps reads the noise level off x and may change
less, or more.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..printing import Row, plain
from ..results.command import again
from ..results.curve import Curve, curves
from ..results.headline import SPEEDS
from ..results.run import Run, read
from ..view import View
from .bound import PAPER_END, bounded
from .cells import AWAY, LEAST_TIMES, Cells, away, cut, interpolate
from .hidden import COMMAND, exact, hidden
from .partition import Partition
from .words import Words

if TYPE_CHECKING:
    import xarray as xr

ASKED = "as asked"
ABOVE = 10.0
"""Sharing ends where K is no longer this many times its median away from the data."""


@dataclass(frozen=True, repr=False)
class Advice(View):
    """A proposal, and what it rests on.

    Attributes:
        run: The measured one.
        variable: What its K is.
        needed: Whether K near the data is high enough for sharing to be worth a thought.
        end: The timestep where sharing would end.
        resolution: The measured timesteps around all ends that K's interval, or every second timestep alone, would
            suggest.
        reason: Why there.
        count: Why so many blocks.
        reference: Median of K away from the data.
        measured: Whether what sharing changes was measured; else there is a bound.
        partitions: The proposal first, then others to compare with; none where no sharing is suggested.
    """

    run: Run
    variable: str
    needed: bool
    end: float
    resolution: tuple[float, float]
    reason: str
    count: str
    reference: float
    measured: bool
    partitions: tuple[Partition, ...]

    @property
    def edges(self) -> tuple[float, ...]:
        return self.partitions[0].edges if self.partitions else ()

    @property
    def etsdm(self) -> str | None:
        """The proposal as `lipdiag train --etsdm` takes it; None where no sharing is suggested."""
        return self.partitions[0].etsdm if self.partitions else None

    @property
    def call(self) -> str | None:
        """The proposal as a training loop of one's own takes it."""
        if not self.partitions:
            return None
        edges = ", ".join(self.partitions[0].spelled)
        told = "" if self.run.clock in ("", "timesteps(1000)") else f', clock="{self.run.clock.replace(" ", "")}"'
        return f"lipdiag.share_timesteps(network, edges=({edges}){told})"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "run": self.run.label,
            "needed": self.needed,
            "etsdm": self.etsdm,
            "share_timesteps": self.call,
            "end": self.end if self.needed else None,
            "resolution": self.resolution if self.needed else None,
            "reason": self.reason,
            "count": self.count,
            "reference": self.reference,
            "measured": self.measured,
            "partitions": [p.to_dict() for p in self.partitions],
        }

    def rows(self) -> list[Row]:
        """A row a block of each partition: where it lies, and the jump at its end."""
        return [
            {"rule": p.rule, "block": i, "start": p.edges[i], "end": p.edges[i + 1], "jump": jump}
            for p in self.partitions
            for i, jump in enumerate(p.jumps)
        ]

    def __str__(self) -> str:
        return str(words(self))

    def _repr_html_(self) -> str:
        return words(self).page()


def advise(dataset: "xr.Dataset", end: float | None = None, blocks: int | None = None, above: float = ABOVE) -> Advice:
    """End and edges of shared blocks that a run suggests.

    Args:
        dataset: A run of a model without shared timesteps, from the first timestep on; the more timesteps near t = 0,
            the better. With the quantity `pairs` what sharing changes is known, else it is bounded by K.
        end: Where sharing is to end; by default where K falls below `above` times its median away from the data.
        blocks: How many; by default the fewest that hide at most a quarter of the error the model makes anyway.
        above: How many times.

    Raises:
        UsageError: If the run shares timesteps already, or lacks what this needs.
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
    needed, last, latest, reason = threshold(curve, cells, above, reference)
    bounds = [float(cells.bounds[last]), float(cells.bounds[latest])]
    if end is not None:
        needed, last, reason = True, cells.place(end), ASKED
        bounds = [float(cells.bounds[last])]
    elif needed:
        bounds += thinned(run, above)
    if not 1 <= last < cells.bounds.size:
        raise UsageError(f"sharing cannot end at {end:g}, the measured timesteps are {cells}")
    stop, measured = float(cells.bounds[last]), run.has("pair_difference")
    partitions: tuple[Partition, ...] = ()
    why = "none are needed"
    if needed or blocks is not None:
        needed = True
        changes = hidden(run, stop) if measured else None
        most = last if changes is None else changes.timesteps.size - 1
        if blocks is not None and not 1 <= blocks <= most:
            raise UsageError(f"{blocks} blocks do not fit below timestep {stop:g}; give 1 to {most}")
        partitions, why = bounded(run, cells, last, blocks) if changes is None else exact(changes, blocks)
    return Advice(run, curve.variable, needed, stop, around(run, bounds), reason, why, reference, measured, partitions)


def threshold(curve: Curve, cells: Cells, above: float, reference: float) -> tuple[bool, int, int, str]:
    """Whether K near the data is high, the cell where it is so for the last time, where it may still be, and why."""
    s, run = curve.statistics, curve.run
    ends = [np.where(np.isfinite(end), end, s.mean) for end in (s.low, s.high)]  # one draw has no interval
    low, high = (interpolate(cells.x, cells.known, end) > above * reference for end in ends)
    low, high = low & (cells.t < AWAY[0]), high & (cells.t < AWAY[0])
    said = f"{above:g} times its median over t from {AWAY[0]:g} to {AWAY[1]:g}, {plain(reference)} {run.unit}"
    if not low.any():
        usual = cells.after(PAPER_END)
        return False, usual, usual, f"near the data K is nowhere {said}"
    last, latest = (int(np.flatnonzero(where)[-1]) + 1 for where in (low, high))
    return True, last, latest, f"up to there K (the lower end of its interval) is above {said}"


def thinned(run: Run, above: float) -> list[float]:
    """Where sharing would end, and might, had only every second timestep been measured."""
    ends, count = [], run.timestep.size
    order = np.argsort(run.time("t"))
    for first in (1, 2):
        kept = run.dataset.isel(time=order[[0, *range(first, count, 2)]])
        if kept.sizes["time"] >= LEAST_TIMES:
            (curve,) = curves(read([kept]))
            cells = cut(curve)
            _, last, latest, _ = threshold(curve, cells, above, away(cells))
            ends += [float(cells.bounds[last]), float(cells.bounds[latest])]
    return ends


def around(run: Run, ends: list[float]) -> tuple[float, float]:
    """The measured timesteps between which some others lie, from the data on."""
    along, ends = np.sort(run.direction * run.timestep), [run.direction * end for end in ends]
    below, beyond = along[along < min(ends)], along[along >= max(ends)]
    low, high = (below[-1] if below.size else along[0]), (beyond[0] if beyond.size else along[-1])
    return float(run.direction * low), float(run.direction * high)


def words(advice: Advice) -> Words:
    """An advice in words."""
    run = advice.run
    cautions = [f"Warning: {caution}." for caution in run.remarks("warnings")]
    source = f"{SPEEDS[advice.variable]} at {run.timestep.size} timesteps, n = {run.draws} of {run.data}"
    if not advice.partitions:
        reason = f"No sharing is suggested, you do not need it: {advice.reason}"
        return Words(
            [
                *cautions,
                f"{run.label}: from {source}.",
                f"{reason}. No blocks are needed; --end and --blocks propose some.",
            ]
        )
    low, high = advice.resolution
    known = ", " if advice.reason == ASKED else f", known to between {low:.6g} and {high:.6g}: "
    said = [
        *cautions,
        f"{run.label}: from {'pairs and ' if advice.measured else ''}{source}.",
        f"Sharing ends at {advice.end:.6g}{known}{advice.reason}.",
        f"{len(advice.edges) - 1} blocks: {advice.count}.",
    ]
    rows: list[tuple[str, ...]] = [TITLES[advice.measured]]
    for p in advice.partitions:
        row = (p.rule, f"{len(p.jumps)} to {p.edges[-1]:.5g}", str(p.largest).partition(", n")[0], plain(p.error))
        rows.append((*row, "-" if p.part is None else plain(p.part)) if advice.measured else row)
    notes = list(NOTES[advice.measured])
    if advice.measured:
        jumps = ", ".join(plain(jump) for jump in advice.partitions[0].jumps)
        notes.append(f"Jumps at the ends of the first row's blocks, were this model itself told so: {jumps}.")
    code = [("lipdiag train with", f"--etsdm {advice.etsdm}"), ("or, in a training loop of your own", str(advice.call))]
    if not advice.measured:
        code.append(("to have it measured", again(run.dataset, COMMAND)))
    return Words(said, rows, notes, code, CAUTION)


TITLES = {
    True: ("blocks", "", "largest hidden", "RMS", "of the error"),
    False: ("blocks", "", "largest jump, at most", "RMS, at most"),
}
"""Titles of the table, where what is hidden was measured and where it is bounded."""

NOTES = {
    True: (
        "Hidden: what a block changes in eps, measured on this model, at its worst timestep: root mean square over "
        "draws [95 % interval that allows for the pick]. RMS: over all shared timesteps. Of the error: the largest "
        "part of sqrt(d loss), which the model misses anyway. Edges lie on measured timesteps.",
    ),
    False: (
        "A bound and not a measurement: the sum of K over a block, mean over draws [95 % interval that allows for the "
        "pick], and the RMS over timesteps of what it bounds.",
    ),
}
CAUTION = (
    "This is a proposal from the measured model and not a guarantee: a model trained with shared timesteps reads the "
    "noise level off x and changes by less or more. Train both, compare their jumps, loss and samples."
)
