"""Every timestep against every other: `pairs`, how much the prediction differs, and `swap`, what a wrong time costs.

A run takes two panels: the whole matrix, and rows of it with their intervals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..printing import Row
from ..results.run import Run, read
from ..results.statistics import Statistics
from . import captions as wording
from . import marks
from .canvas import Picture, blank
from .style import Style, applied, preset

if TYPE_CHECKING:
    import xarray as xr

COLOURS = "cividis"
"""Rises evenly in lightness, for every eye and in grey."""

ZERO = "0.82"
SLICES = 4
MORE = " --timesteps log:24 --draws 32"
"""What the command for a matrix should add: its price is a forward pass a column."""


@dataclass(frozen=True)
class Matrix:
    """A run's matrix, rows t and columns t'.

    Attributes:
        run: The model's.
        statistics: Over draws, each (t, t').
        shown: Where there is something to show.
    """

    run: Run
    statistics: Statistics
    shown: np.ndarray

    def rows(self) -> list[Row]:
        s, k = self.statistics, self.run.timestep
        return [
            {
                "series": self.run.label,
                "timestep": float(k[i]),
                "other": float(k[j]),
                "mean": float(s.mean[i, j]),
                "low": float(s.low[i, j]),
                "high": float(s.high[i, j]),
                "draws": int(s.count[i, j]),
            }
            for i, j in np.argwhere(self.shown)
        ]

    @property
    def widest(self) -> float:
        """The largest half-width of an interval, relative to its mean."""
        s = self.statistics
        positive = self.shown & (s.mean > 0)
        return float((s.half_width[positive] / s.mean[positive]).max(initial=0))


def quotients(run: Run) -> Matrix:
    """K(t, t') = |eps(x_t, t) - eps(x_t, t')| / |t - t'|; nothing on the diagonal."""
    s, k = run.statistics("pair_difference"), run.timestep
    distance = np.abs(k[:, None] - k)
    apart = distance > 0
    scaled = {
        name: getattr(s, name) / np.where(apart, distance, np.nan) for name in s.__dataclass_fields__ if name != "count"
    }
    return Matrix(run, Statistics(**scaled, count=s.count), apart)


def losses(run: Run) -> Matrix:
    s = run.statistics("swap_loss")
    return Matrix(run, s, np.isfinite(s.mean))


def pairs(*datasets: "xr.Dataset", labels: Sequence[str] | None = None, style: str = "iclr") -> Picture:
    """K(t, t') for every pair of timesteps, x drawn at t.

    Args:
        datasets: What `measure` returned, with the quantity `pairs`.
        labels: What to call them.
        style: A preset's name.

    Raises:
        UsageError: If a run lacks the quantity.
    """
    runs = read(datasets, labels)
    for run in runs:
        run.demand(["pair_difference"], "pairs", MORE)
    return panels(
        [quotients(run) for run in runs],
        preset(style),
        lambda run: rf"$K(t,\,t^\prime)$  [{run.unit}]",
        "How much the noise prediction depends on what the network is told: K(t, t') = |eps(x_t, t) - eps(x_t, t')|_2 "
        f"/ |t - t'|, x noised to level t; {wording.norm(runs[0])}, unit {runs[0].unit}",
        "The diagonal has no quotient; grey cells are exactly 0, a shared timestep",
    )


def swap(*datasets: "xr.Dataset", labels: Sequence[str] | None = None, style: str = "iclr") -> Picture:
    """The loss at noise level t of a network that is told t', for every pair.

    Args:
        datasets: What `measure` returned, with the quantity `swap`.
        labels: What to call them.
        style: A preset's name.

    Raises:
        UsageError: If a run lacks the quantity.
    """
    runs = read(datasets, labels)
    for run in runs:
        run.demand(["swap_loss"], "swap", MORE)
    return panels(
        [losses(run) for run in runs],
        preset(style),
        lambda run: r"loss $L(t,\,t^\prime)$  [1]",
        "What a wrong time costs: L(t, t'), the squared error against the true noise, averaged over entries (no unit), "
        "when x is noised to level t and the network is told t'",
        "Circles: the t' with the least mean loss at each t",
        least=True,
    )


def panels(
    found: Sequence[Matrix],
    look: Style,
    label: Callable[[Run], str],
    what: str,
    note: str,
    least: bool = False,
) -> Picture:
    """Two panels a run, and the words under them."""
    with applied(look):
        picture, axes = blank(look, 2 * len(found))
        for n, matrix in enumerate(found):
            whole, rows = axes[2 * n : 2 * n + 2]
            mesh = draw_whole(whole, matrix, look, least)
            picture.colorbar(mesh, ax=whole, pad=0.02).set_label(label(matrix.run))
            draw_rows(rows, matrix, look)
            rows.set_ylabel(label(matrix.run))
            whole.set_title(f"({marks.letter(2 * n)}) {marks.literal(matrix.run.label)}")
            rows.set_title(f"({marks.letter(2 * n + 1)}) rows of it, interval shaded")
    runs = [matrix.run for matrix in found]
    picture.rows = [row for matrix in found for row in matrix.rows()]
    number = wording.draws((matrix.statistics.count for matrix in found), runs)
    widest = max(matrix.widest for matrix in found)
    picture.caption = wording.caption(
        [
            what,
            f"Means of {number}; right, rows with the {wording.INTERVAL}; its half-width is at most {widest:.0%} of "
            "the mean anywhere in the matrix",
            note,
        ]
    )
    return picture


def draw_whole(axes: Any, matrix: Matrix, look: Style, least: bool) -> Any:
    """Both axes logarithmic, the colour too; t upwards, t' to the right."""
    from matplotlib.colors import ListedColormap, LogNorm

    mean, x = matrix.statistics.mean, matrix.run.x
    edges = cells(x)
    axes.set_xscale("log")
    axes.set_yscale("log")
    zero = matrix.shown & (mean == 0)
    if zero.any():
        axes.pcolormesh(edges, edges, np.ma.masked_array(np.ones_like(mean), ~zero), cmap=ListedColormap([ZERO]))
    positive = matrix.shown & (mean > 0)
    ends = (mean[positive].min(), mean[positive].max()) if positive.any() else (0.1, 1.0)
    norm = LogNorm(ends[0], ends[1] if ends[1] > ends[0] else ends[0] * 10)
    mesh = axes.pcolormesh(edges, edges, np.ma.masked_array(mean, ~positive), cmap=COLOURS, norm=norm)
    if least:
        best = np.nanargmin(np.where(matrix.shown, mean, np.nan), axis=1)
        size = 2.0 * look.scale
        axes.plot(x[best], x, linestyle="none", marker="o", markersize=size, markerfacecolor="white", color="black")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(edges[0], edges[-1])
    axes.set_xlabel(f"told: {matrix.run.axis}")
    axes.set_ylabel(f"true: {matrix.run.axis}")
    return mesh


def cells(x: np.ndarray) -> np.ndarray:
    """Edges of cells around positive, increasing places, halfway between them on a logarithmic scale."""
    if x.size < 2:
        return np.array([x[0] / 1.5, x[0] * 1.5])
    middle = np.sqrt(x[1:] * x[:-1])
    return np.concatenate([[x[0] ** 2 / middle[0]], middle, [x[-1] ** 2 / middle[-1]]])


def draw_rows(axes: Any, matrix: Matrix, look: Style) -> None:
    """Some rows over t', each with its interval."""
    run, s = matrix.run, matrix.statistics
    axes.set_xscale("log")
    axes.set_yscale("log")
    for number, i in enumerate(marks.chosen(run.x, np.any(matrix.shown & (s.mean > 0), axis=1), SLICES)):
        drawn = matrix.shown[i] & (s.mean[i] > 0)
        row = Statistics(
            **{name: np.where(drawn, getattr(s, name)[i], np.nan) for name in Statistics.__dataclass_fields__}
        )
        marks.mean(axes, run.x, row, number, look, spread=False)
        axes.lines[-1].set_label(f"$t={run.timestep[i]:.3g}$")
    axes.set_xlabel(f"told: {run.axis}")
    marks.inside(axes)
