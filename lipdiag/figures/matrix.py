"""Every timestep against every other: `pairs`, how much the prediction differs, and `swap`, what a wrong time costs.

A run takes two panels: the whole matrix, and rows of it with their intervals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..results.distribution import Statistics
from ..results.run import Run
from . import captions, marks
from .backend import ListedColormap, LogNorm
from .canvas import Picture
from .style import Style

COLOURS = "cividis"
"""Rises evenly in lightness, for every eye and in grey."""

ZERO = "0.82"
SLICES = 4


@dataclass(frozen=True)
class Matrix:
    """What is shown of every pair of timesteps.

    Attributes:
        variable: Its name in the dataset, (time, draw, other).
        quotient: Whether it is divided by the distance of the two timesteps, so that the diagonal has none.
        label: Of its axis, a function of the run's unit.
        what: The caption's first sentence.
        note: Its last.
    """

    variable: str
    quotient: bool
    label: Callable[[str], str]
    what: Callable[[Run], str]
    note: str

    def statistics(self, run: Run) -> Statistics:
        """Over draws, each (t, t'); NaN where there is nothing to show."""
        s, k = run.statistics(self.variable), run.timestep
        distance = np.abs(k[:, None] - k) if self.quotient else np.ones((k.size, k.size))
        return s.map(lambda values: values / np.where(distance > 0, distance, np.nan))


QUOTIENTS = Matrix(
    "pair_difference",
    True,
    lambda unit: rf"$K(t,\,t^\prime)$  [{unit}]",
    lambda run: (
        "How much the noise prediction depends on what the network is told: K(t, t') = |eps(x_t, t) - eps(x_t, t')|_2 "
        f"/ |t - t'|, x noised to level t; {captions.norm(run)}, unit {run.unit}"
    ),
    "The diagonal has no quotient; grey cells are exactly 0, a shared timestep",
)
LOSSES = Matrix(
    "swap_loss",
    False,
    lambda _: r"loss $L(t,\,t^\prime)$  [1]",
    lambda _: (
        "What a wrong time costs: L(t, t'), the squared error against the true noise, averaged over entries (no unit), "
        "when x is noised to level t and the network is told t'"
    ),
    "Circles: the t' with the least mean loss at each t",
)


def draw(canvas: Picture, runs: Sequence[Run], matrix: Matrix) -> None:
    """Two panels a run, and the words under them."""
    axes, each = iter(canvas.panels(2 * len(runs))), [matrix.statistics(run) for run in runs]
    for run, s, whole, rows in zip(runs, each, axes, axes, strict=True):
        mesh = draw_whole(whole, run, s, canvas.style, least=not matrix.quotient)
        canvas.colorbar(mesh, ax=whole, pad=0.02).set_label(matrix.label(run.unit))
        draw_rows(rows, run, s, canvas.style)
        rows.set_ylabel(matrix.label(run.unit))
        canvas.title(whole, marks.literal(run.label))
        canvas.title(rows, "rows of it, interval shaded")
        canvas.rows += [
            {"series": run.label, "timestep": float(run.timestep[i]), "other": float(run.timestep[j]), **s.row((i, j))}
            for i, j in np.argwhere(np.isfinite(s.mean))
        ]
    canvas.said = [
        matrix.what(runs[0]),
        f"Means of {captions.draws(each, runs)}; right, rows with the {captions.INTERVAL}; its half-width is at most "
        f"{max(map(widest, each)):.0%} of the mean anywhere in the matrix",
        matrix.note,
    ]


pairs, swap = partial(draw, matrix=QUOTIENTS), partial(draw, matrix=LOSSES)


def widest(s: Statistics) -> float:
    """The largest half-width of an interval, relative to its mean."""
    positive = s.mean > 0
    return float((s.half_width[positive] / s.mean[positive]).max(initial=0))


def draw_whole(axes: Any, run: Run, s: Statistics, look: Style, least: bool) -> Any:
    """Both axes logarithmic, the colour too; t upwards, t' to the right."""
    mean, x = s.mean, run.x
    edges = cells(x)
    marks.over_time(axes, run, "told: ")
    axes.set_yscale("log")
    zero, positive = mean == 0, mean > 0
    if zero.any():
        axes.pcolormesh(edges, edges, np.ma.masked_array(np.ones_like(mean), ~zero), cmap=ListedColormap([ZERO]))
    ends = (mean[positive].min(), mean[positive].max()) if positive.any() else (0.1, 1.0)
    norm = LogNorm(ends[0], ends[1] if ends[1] > ends[0] else ends[0] * 10)
    mesh = axes.pcolormesh(edges, edges, np.ma.masked_array(mean, ~positive), cmap=COLOURS, norm=norm)
    if least:
        known = np.isfinite(mean).any(axis=1)
        best = np.nanargmin(mean[known], axis=1)
        size = 2.0 * look.scale
        axes.plot(
            x[best], x[known], linestyle="none", marker="o", markersize=size, markerfacecolor="white", color="black"
        )
    axes.set(xlim=(edges[0], edges[-1]), ylim=(edges[0], edges[-1]))
    axes.set_ylabel(f"true: {run.axis}")
    return mesh


def cells(x: np.ndarray) -> np.ndarray:
    """Edges of cells around positive, increasing places, halfway between them on a logarithmic scale."""
    if x.size < 2:
        return np.array([x[0] / 1.5, x[0] * 1.5])
    middle = np.sqrt(x[1:] * x[:-1])
    return np.concatenate([[x[0] ** 2 / middle[0]], middle, [x[-1] ** 2 / middle[-1]]])


def draw_rows(axes: Any, run: Run, s: Statistics, look: Style) -> None:
    """Some rows over t', each with its interval."""
    marks.over_time(axes, run, "told: ")
    axes.set_yscale("log")
    for number, i in enumerate(marks.chosen(run.x, np.any(s.mean > 0, axis=1), SLICES)):
        positive = s.at(i).where(s.mean[i] > 0)  # a logarithmic scale cannot show exact zeros
        marks.means(axes, run.x, positive, number, look, spread=False, name=f"$t={run.timestep[i]:.3g}$")
    marks.inside(axes)
