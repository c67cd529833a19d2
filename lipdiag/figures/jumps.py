"""Where the change goes that E-TSDM takes out of its blocks: into the jumps between them.

(a) Block by block: the jump at its end against what the plain twin changes in total over the same timesteps, the sum
of K(t, t + 1). (b) The same, summed from timestep 0 on: a staircase against a smooth rise.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..printing import Row
from ..results.run import Run, read, same_time
from ..results.statistics import Statistics, over_draws
from . import captions as wording
from . import marks
from .canvas import Picture, blank
from .style import Style, applied, preset

if TYPE_CHECKING:
    import xarray as xr

APART = 0.14
"""Horizontal distance of two runs' markers, in blocks."""

MOST_LABELS = 5


def jumps(*datasets: "xr.Dataset", labels: Sequence[str] | None = None, style: str = "iclr") -> Picture:
    """The jumps of runs that share timesteps, and what runs that do not change over the same blocks.

    Args:
        datasets: What `measure` returned: at least one E-TSDM model, and its plain twin for comparison.
        labels: What to call them.
        style: A preset's name.

    Raises:
        UsageError: If no run shares timesteps, or K is not known at every end of a block.
    """
    look, runs = preset(style), read(datasets, labels)
    same_time(runs)
    edges = shared_edges(runs)
    changes = [per_block(run, edges) for run in runs]
    sums = [over_draws(np.cumsum(change, 0)) for change in (stepwise(run, edges) for run in runs)]
    blocks = [over_draws(change) for change in changes]
    with applied(look):
        picture, (each, summed) = blank(look, 2)
        draw_blocks(each, runs, blocks, edges, look)
        draw_sums(summed, runs, sums, look)
        marks.legend(picture, [marks.entry(n, look, run.label) for n, run in enumerate(runs)] + bars(), look)
    picture.rows = [
        *(row for run, s in zip(runs, blocks, strict=True) for row in rows(run, "block", s, itertools.pairwise(edges))),
        *(row for run, s in zip(runs, sums, strict=True) for row in rows(run, "sum", s, singles(edges))),
    ]
    picture.caption = describe(runs, blocks, edges)
    return picture


def shared_edges(runs: Sequence[Run]) -> list[int]:
    """Edges of the blocks, the same in every run that shares."""
    found = {run.edges for run in runs if run.shared}
    if not found:
        raise UsageError(
            f"jumps are of a model that shares its timesteps, and {', '.join(run.label for run in runs)} does not; "
            "give the run of an E-TSDM model, and its plain twin"
        )
    if len(found) > 1:
        raise UsageError("these runs share their timesteps in different blocks; show them one by one")
    for run in runs:
        run.demand(["time_difference"], "time_difference")
        if not run.discrete or run.step != 1:
            raise UsageError(
                f"jumps are counted in single timesteps, and {run.label} has none; measure a model of integer "
                "timesteps with --step 1"
            )
    return [int(edge) for edge in found.pop()]


def stepwise(run: Run, edges: Sequence[int]) -> np.ndarray:
    """K(t, t + 1) of each draw at every timestep below the end of sharing, (timestep, draw).

    A model that shares is 0 between its jumps; one that does not is interpolated between the timesteps measured.
    """
    values, at = run.values("time_difference"), run.timestep.astype(int)
    every = np.arange(edges[-1])
    if run.shared:
        if run.missing_jumps:
            ends = ",".join(str(edge - 1) for edge in edges[1:])
            asked = f"lipdiag measure {run.checkpoint} --timesteps {ends} --quantity time_difference --out NEW.zarr"
            missing = ", ".join(map(str, run.missing_jumps))
            raise UsageError(
                f"{run.label} has no K at timesteps {missing}, where blocks end; measure it with `{asked}`"
            )
        inside = at < edges[-1]
        found = np.zeros((every.size, values.shape[1]))
        found[at[inside]] = values[inside]
        return found
    if at[0] > 0 or at[-1] < every[-1]:
        asked = f"lipdiag measure {run.checkpoint} --quantity time_difference --out NEW.zarr"
        raise UsageError(f"{run.label} has no K from timestep 0 to {every[-1]}; measure all of it with `{asked}`")
    return np.stack([np.interp(every, at, draw) for draw in values.T], 1)


def per_block(run: Run, edges: Sequence[int]) -> np.ndarray:
    """Change of each draw over each block, (block, draw)."""
    return np.add.reduceat(stepwise(run, edges), edges[:-1], axis=0)


def singles(edges: Sequence[int]) -> list[tuple[int, int]]:
    return [(0, k + 1) for k in range(edges[-1])]


def draw_blocks(axes: Any, runs: Sequence[Run], found: Sequence[Statistics], edges: Sequence[int], look: Style) -> None:
    number = len(edges) - 1
    for n, s in enumerate(found):
        marks.bar(axes, np.arange(number) + APART * (n - (len(runs) - 1) / 2), s, n, look)
    axes.set_xlim(-0.5, number - 0.5)
    axes.set_ylim(0)
    shown = range(0, number, -(-number // MOST_LABELS))
    axes.set_xticks(list(shown), [f"{edges[i]}\N{EN DASH}{edges[i + 1] - 1}" for i in shown])
    axes.set_xlabel("block of timesteps")
    axes.set_ylabel(r"change of $\epsilon_\theta$ over the block  [1]")
    axes.set_title("(a) jump against sum of $K$")


def draw_sums(axes: Any, runs: Sequence[Run], found: Sequence[Statistics], look: Style) -> None:
    marks.shade(axes, next(run for run in runs if run.shared), shift=-1.0)
    for n, (run, s) in enumerate(zip(runs, found, strict=True)):
        # over the edge to the next timestep, and so on from there
        x, drawn = np.arange(s.mean.size + 1), "steps-post" if run.shared else "default"
        low, middle, high = (np.concatenate([[0], values]) for values in (s.low, s.mean, s.high))
        every = {**marks.stroke(n, look), "markevery": max(1, s.mean.size // 5)}
        axes.fill_between(
            x, low, high, step="post" if run.shared else None, color=marks.colour(n), alpha=marks.INTERVAL_OPACITY
        )
        axes.plot(x, middle, drawstyle=drawn, **every, zorder=4 + n / 10)
    axes.set_xlim(0, 1.02 * found[0].mean.size)
    axes.set_ylim(0)
    axes.set_xlabel("timestep")
    axes.set_ylabel(r"$\sum_{s<t}K(s,\,s{+}1)$  [1]")
    axes.set_title("(b) summed from timestep 0")


def bars() -> list[tuple[Any, str]]:
    return marks.band_entries(spread=False)


def rows(run: Run, kind: str, s: Statistics, spans: Any) -> list[Row]:
    return [
        {
            "series": run.label,
            "kind": kind,
            "first": int(first),
            "end": int(end),
            "mean": float(s.mean[i]),
            "low": float(s.low[i]),
            "high": float(s.high[i]),
            "draws": int(s.count[i]),
        }
        for i, (first, end) in enumerate(spans)
    ]


def describe(runs: Sequence[Run], blocks: Sequence[Statistics], edges: Sequence[int]) -> str:
    shared = ", ".join(run.label for run in runs if run.shared)
    plain = ", ".join(run.label for run in runs if not run.shared)
    said = [
        f"What becomes of the change that sharing timesteps takes out of {len(edges) - 1} blocks below {edges[-1]}",
        f"(a) For {shared}, the jump |eps(x_t, t) - eps(x_t, t + 1)|_2 at the last timestep of each block"
        + (f"; for {plain}, the sum of K(t, t + 1) over the block" if plain else ""),
        f"(b) The sum of K(s, s + 1) over all timesteps s below t; {shared} is exactly 0 between jumps by construction",
        f"{wording.norm(runs[0])}, a change without unit",
        f"Means of {wording.draws((s.count for s in blocks), runs)}, each with the {wording.INTERVAL}; sums are taken "
        "draw by draw",
    ]
    if plain:
        said.append("K is linear between the timesteps measured, an error that the interval leaves out")
    else:
        said.append("No run without sharing was given to compare with")
    return wording.caption(said)
