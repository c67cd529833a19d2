"""The Lipschitz singularity: how fast the noise prediction changes with the timestep, and how that grows near t = 0.

Left, the whole axis, both scales logarithmic; exact zeros lie on a rail below the scale. Right, the part near t = 0,
both scales linear, where zero has its own place. E-TSDM's blocks are shaded; its quotient is 0 inside them by
construction, and what was taken from there is drawn where it went: the jumps at the last timesteps of the blocks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..results.curve import Curve
from ..results.run import Run
from . import marks
from .canvas import Picture
from .exhibit import POINT_DATA, SMOOTH_DATA, Exhibit, gather
from .style import THEORY, Style

DECADES = 6
"""The most that the logarithmic scale reaches below its top."""

HEADROOM = 1.15
EDGE = 0.02
"""The share of the linear axis of time by which it goes beyond its ends, so that a point there is seen whole."""

TALLEST = 2.0
"""How far above a mean the linear scale follows its interval, so that a few draws do not flatten all the rest."""


def singularity(
    canvas: Picture,
    runs: Sequence[Run],
    variable: str | None = None,
    zoom: float | None = None,
    show_theory: bool = True,
) -> None:
    """The singularity curve of one or several runs.

    Args:
        canvas: To draw on.
        runs: Of a DDPM and its E-TSDM twin, say.
        variable: `time_difference` or `time_derivative`; by default the first of them that all runs have.
        zoom: Where the enlarged part ends, in timesteps (for a model of continuous time in t, over log-SNR in
            sigma/alpha); by default 150 of 1000, or more to hold all shared blocks.
        show_theory: Whether to draw what the target of training would show.

    Raises:
        UsageError: If a run lacks the variable.
    """
    exhibit = gather(runs, variable, show_theory)
    whole, near = canvas.panels(2)
    draw_whole(whole, exhibit, canvas.style)
    canvas.title(whole, "all timesteps" if exhibit.first.discrete else "all times")
    zoom = exhibit.zoom if zoom is None else zoom
    draw_near(near, exhibit, canvas.style, zoom)
    along = r"\sigma/\alpha" if exhibit.first.over_logsnr else "t"
    canvas.title(near, f"first {zoom:g} timesteps" if exhibit.first.discrete else rf"${along} \leq {zoom:.2g}$")
    keys(canvas, exhibit)
    canvas.rows, canvas.said = exhibit.rows(), exhibit.sentences()


def draw_whole(axes: Any, exhibit: Exhibit, look: Style) -> None:
    """The whole time axis, logarithmic."""
    axes.set_yscale("log")
    first = exhibit.first
    marks.over_time(axes, first)
    bottom, top = limits(exhibit)
    rail = marks.Rail(bottom, any(curve.zero.any() for curve in exhibit.curves))
    for run in exhibit.shared[:1]:
        marks.shade(axes, run)
    for number, curve in enumerate(exhibit.curves):
        draw_curve(axes, curve.run.x, curve, number, look, rail.floor, rail.height, curve.zero)
    draw_theory(axes, lambda timestep: first.logarithmic(first.position(timestep)), exhibit, look, bottom)
    axes.set_xlim(*ends(exhibit))
    axes.set_ylim(rail.floor, top)
    rail.draw(axes, top)
    axes.set_ylabel(f"{exhibit.symbol}  [{first.unit}]")


def draw_curve(
    axes: Any, x: np.ndarray, curve: Curve, number: int, look: Style, floor: float, height: float, zero: np.ndarray
) -> None:
    """Bands down to a floor, jumps, exact zeros at their height, and the line."""
    marks.band(axes, x, curve, floor, number)
    marks.stems(axes, x, curve, floor, number, look)
    marks.zeros(axes, x, zero, height, number, look)
    marks.line(axes, x, curve, number, look)


def draw_near(axes: Any, exhibit: Exhibit, look: Style, zoom: float) -> None:
    """The part near t = 0, linear."""
    first = exhibit.first
    highest, last = 0.0, 0.0
    for run in exhibit.shared[:1]:
        marks.shade(axes, run, shift=-1.0 if first.discrete else 0.0)
    for number, curve in enumerate(exhibit.curves):
        run, s = curve.run, curve.statistics
        x = run.timestep if first.discrete else run.position(run.timestep)
        inside = (x if first.discrete or first.over_logsnr else run.time("t")) <= zoom
        draw_curve(axes, x, curve, number, look, 0.0, 0.0, curve.zero & inside)
        high = np.where(np.isfinite(s.high), np.minimum(s.high, TALLEST * s.mean), 0)
        tops = np.concatenate([s.mean[inside], high[inside], s.q95[inside]])
        highest, last = max([highest, *tops[np.isfinite(tops)]]), max([last, *x[inside]])
    draw_theory(axes, np.asarray if first.discrete else first.position, exhibit, look)
    axes.set_ylim(0, HEADROOM * highest or 1)
    end = zoom if first.discrete else last or 1
    axes.set_xlim(-EDGE * end, (1 + EDGE) * end)
    axes.set(xlabel="timestep" if first.discrete else first.axis, ylabel=f"{exhibit.symbol}  [{first.unit}]")


def draw_theory(
    axes: Any, position: Callable[[np.ndarray], np.ndarray], exhibit: Exhibit, look: Style, bottom: float = 0.0
) -> None:
    """The target's curves, where they are above the rail for exact zeros; `position` tells where a timestep lies."""
    if exhibit.between is None:
        return
    x = position(exhibit.between.timestep)
    for name, values in exhibit.named(exhibit.between).items():
        axes.plot(x, np.where(values > bottom, values, np.nan), **theory_stroke(name, look), zorder=1)


def theory_stroke(name: str, look: Style) -> dict[str, Any]:
    """How a line of theory looks."""
    dashes, width = ((6, 2), 0.8) if name == POINT_DATA else ((1, 1.5), 1.0)
    return {"color": THEORY, "linestyle": (0, dashes), "linewidth": width * look.scale}


def limits(exhibit: Exhibit) -> tuple[float, float]:
    """The ends of the logarithmic scale: all means and quantiles, and of theory what is at most ten times as high."""
    heights = np.concatenate(
        [getattr(curve.statistics, name)[~curve.zero] for curve in exhibit.curves for name in ("mean", "q05", "q95")]
    )
    heights = heights[np.isfinite(heights) & (heights > 0)]
    if not heights.size:
        return 1e-3, 1.0
    top = heights.max()
    if POINT_DATA in exhibit.lines:
        target = exhibit.lines[POINT_DATA]
        top = min(max([top, *target[np.isfinite(target)]]), 10 * top)
    return max(heights.min(), top / 10**DECADES) / marks.MARGIN, top * marks.MARGIN


def ends(exhibit: Exhibit) -> tuple[float, float]:
    """The ends of the logarithmic time axis."""
    x = np.concatenate([curve.run.x for curve in exhibit.curves])
    x = x[np.isfinite(x) & (x > 0)]
    return float(x.min()) / 1.12, float(x.max()) * 1.12


def keys(canvas: Picture, exhibit: Exhibit) -> None:
    """The legend: runs, what became of shared timesteps, bands, theory."""
    for number, curve in enumerate(exhibit.curves):
        marks.key(canvas, number, curve.run.label, ", mean")
    for number, curve in enumerate(exhibit.curves):
        owner = f"{marks.literal(curve.run.label)}: " if len(exhibit.shared) > 1 else ""
        if curve.jump.any():
            marks.jump_key(canvas, number, owner)
        if curve.zero.any():
            marks.zero_key(canvas, number, owner)
    if exhibit.shared:
        marks.block_key(canvas)
    marks.band_keys(canvas, interval=exhibit.bounded)
    for name in exhibit.lines:
        formula = r": $\propto d\sigma/dt$" if name == SMOOTH_DATA else ""
        canvas.key(name + formula, **theory_stroke(name, canvas.style))
