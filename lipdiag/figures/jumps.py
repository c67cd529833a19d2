"""Where the change goes that E-TSDM takes out of its blocks: into the jumps between them.

(a) Block by block: the jump at its end against what the plain twin changes in total over the same timesteps, the sum
of K(t, t + 1). (b) The same, summed from timestep 0 on: a staircase against a smooth rise.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..printing import Row
from ..results.command import again
from ..results.distribution import Statistics, over_draws
from ..results.run import Run
from . import captions, marks
from .canvas import Picture
from .style import INTERVAL_OPACITY, Style, colour

APART = 0.14
"""Horizontal distance of two runs' markers, in blocks."""

MOST_LABELS = 5


def jumps(canvas: Picture, runs: Sequence[Run]) -> None:
    """The jumps of runs that share timesteps, and what runs that do not change over the same blocks.

    Args:
        canvas: To draw on.
        runs: At least one of an E-TSDM model, and that of its plain twin for comparison.

    Raises:
        UsageError: If no run shares timesteps, or K is not known at every end of a block.
    """
    edges = shared_edges(runs)
    steps = [stepwise(run, edges) for run in runs]
    sums = [over_draws(np.cumsum(step, 0)) for step in steps]
    blocks = [over_draws(np.add.reduceat(step, edges[:-1], axis=0)) for step in steps]
    each, summed = canvas.panels(2)
    draw_blocks(each, blocks, edges, canvas.style)
    canvas.title(each, "jump against sum of $K$")
    draw_sums(summed, runs, sums, canvas.style)
    canvas.title(summed, "summed from timestep 0")
    for number, run in enumerate(runs):
        marks.key(canvas, number, run.label)
    marks.band_keys(canvas, spread="")
    spans = {"block": list(itertools.pairwise(edges)), "sum": [(0, k + 1) for k in range(edges[-1])]}
    for kind, statistics in (("block", blocks), ("sum", sums)):
        for run, s in zip(runs, statistics, strict=True):
            canvas.rows += rows(run, kind, s, spans[kind])
    canvas.said = sentences(runs, blocks, edges)


def shared_edges(runs: Sequence[Run]) -> list[int]:
    """Edges of the blocks, the same in every run that shares."""
    edges = {run.edges for run in runs if run.shared}
    if not edges:
        raise UsageError(
            f"jumps are of a model that shares its timesteps, and {', '.join(run.label for run in runs)} does not; "
            "give the run of an E-TSDM model, and its plain twin"
        )
    if len(edges) > 1:
        raise UsageError("these runs share their timesteps in different blocks; show them one by one")
    for run in runs:
        if not run.discrete or run.step != 1:
            raise UsageError(
                f"jumps are counted in single timesteps, and {run.label} has none; measure a model of integer "
                "timesteps with --step 1"
            )
    return [int(edge) for edge in edges.pop()]


def stepwise(run: Run, edges: Sequence[int]) -> np.ndarray:
    """K(t, t + 1) of each draw at every timestep below the end of sharing, (timestep, draw).

    A model that shares is 0 between its jumps; one that does not is interpolated between the timesteps measured.
    """
    values, at = run.values("time_difference"), run.timestep.astype(int)
    every = np.arange(edges[-1])
    if run.shared:
        if run.missing_jumps:
            ends = ",".join(str(edge - 1) for edge in edges[1:])
            asked = again(run.dataset, f"--timesteps {ends} --quantity time_difference")
            missing = ", ".join(map(str, run.missing_jumps))
            raise UsageError(
                f"{run.label} has no K at timesteps {missing}, where blocks end; measure it with `{asked}`"
            )
        inside = at < edges[-1]
        steps = np.zeros((every.size, values.shape[1]))
        steps[at[inside]] = values[inside]
        return steps
    if at[0] > 0 or at[-1] < every[-1]:
        asked = again(run.dataset, "--timesteps log:64 --quantity time_difference")
        raise UsageError(f"{run.label} has no K from timestep 0 to {every[-1]}; measure all of it with `{asked}`")
    return np.stack([np.interp(every, at, draw) for draw in values.T], 1)


def draw_blocks(axes: Any, blocks: Sequence[Statistics], edges: Sequence[int], look: Style) -> None:
    """The change over each block, a marker a run."""
    number = len(edges) - 1
    for n, s in enumerate(blocks):
        marks.bar(axes, np.arange(number) + APART * (n - (len(blocks) - 1) / 2), s, n, look)
    axes.set(xlim=(-0.5, number - 0.5), ylim=0)
    labelled = range(0, number, -(-number // MOST_LABELS))
    axes.set_xticks(list(labelled), [f"{edges[i]}\N{EN DASH}{edges[i + 1] - 1}" for i in labelled])
    axes.set(xlabel="block of timesteps", ylabel=r"change of $\epsilon_\theta$ over the block  [1]")


def draw_sums(axes: Any, runs: Sequence[Run], sums: Sequence[Statistics], look: Style) -> None:
    """The change since timestep 0: a staircase where timesteps are shared."""
    marks.shade(axes, next(run for run in runs if run.shared), shift=-1.0)
    for n, (run, s) in enumerate(zip(runs, sums, strict=True)):
        # over the edge to the next timestep, and so on from there
        x, (step, drawn) = np.arange(s.mean.size + 1), ("post", "steps-post") if run.shared else (None, "default")
        low, middle, high = (np.concatenate([[0], values]) for values in (s.low, s.mean, s.high))
        every = {**marks.stroke(n, look), "markevery": max(1, s.mean.size // 5)}
        axes.fill_between(x, low, high, step=step, color=colour(n), alpha=INTERVAL_OPACITY)
        axes.plot(x, middle, drawstyle=drawn, **every, zorder=4 + n / 10)
    axes.set(xlim=(0, 1.02 * sums[0].mean.size), ylim=0, xlabel="timestep")
    axes.set_ylabel(r"$\sum_{s<t}K(s,\,s{+}1)$  [1]")


def rows(run: Run, kind: str, s: Statistics, spans: Iterable[tuple[int, int]]) -> list[Row]:
    """A change a row, with the timesteps that it is over."""
    return [
        {"series": run.label, "kind": kind, "first": first, "end": end, **s.row(i)}
        for i, (first, end) in enumerate(spans)
    ]


def sentences(runs: Sequence[Run], blocks: Sequence[Statistics], edges: Sequence[int]) -> list[str]:
    """The caption's."""
    shared = ", ".join(run.label for run in runs if run.shared)
    twins = ", ".join(run.label for run in runs if not run.shared)
    return [
        f"What becomes of the change that sharing timesteps takes out of {len(edges) - 1} blocks below {edges[-1]}",
        f"(a) For {shared}, the jump |eps(x_t, t) - eps(x_t, t + 1)|_2 at the last timestep of each block"
        + (f"; for {twins}, the sum of K(t, t + 1) over the block" if twins else ""),
        f"(b) The sum of K(s, s + 1) over all timesteps s below t; {shared} is exactly 0 between jumps by construction",
        f"{captions.norm(runs[0])}, a change without unit",
        f"Means of {captions.draws(blocks, runs)}, each with the {captions.INTERVAL}; sums are taken draw by draw",
        "K is linear between the timesteps measured, an error that the interval leaves out"
        if twins
        else "No run without sharing was given to compare with",
    ]
