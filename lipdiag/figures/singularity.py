"""The Lipschitz singularity: how fast the noise prediction changes with the timestep, and how that grows near t = 0.

Left, the whole axis, both scales logarithmic; exact zeros lie on a rail below the scale. Right, the part near t = 0,
both scales linear, where zero has its own place. E-TSDM's blocks are shaded; its quotient is 0 inside them by
construction, and what was taken from there is drawn where it went: the jumps at the last timesteps of the blocks.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import marks
from .canvas import Picture, blank
from .exhibit import POINT_DATA, SMOOTH_DATA, Exhibit, gather
from .style import INTERVAL_OPACITY, QUANTILE_OPACITY, SHADES, THEORY, Style, applied, preset

if TYPE_CHECKING:
    import xarray as xr

RAIL = 0.35
"""Height of the rail for exact zeros below the scale, in decades."""

DECADES = 6
"""The most that the logarithmic scale reaches below its top."""

MARGIN = 1.6
HEADROOM = 1.15
TALLEST = 2.0
"""How far above a mean the linear scale follows its interval, so that a few draws do not flatten all the rest."""


def singularity(
    *datasets: "xr.Dataset",
    variable: str | None = None,
    labels: Sequence[str] | None = None,
    zoom: float | None = None,
    show_theory: bool = True,
    style: str = "iclr",
) -> Picture:
    """The singularity curve of one or several runs.

    Args:
        datasets: What `measure` returned; a DDPM and its E-TSDM twin, say.
        variable: `time_difference` or `time_derivative`; by default the first of them that all runs have.
        labels: What to call the runs.
        zoom: Where the enlarged part ends, in timesteps (for a model of continuous time in t, over log-SNR in
            sigma/alpha); by default 150 of 1000, or more to hold all shared blocks.
        show_theory: Whether to draw what the target of training would show.
        style: A preset's name.

    Raises:
        UsageError: If a run lacks the variable, or the runs' time axes differ.
    """
    look = preset(style)
    exhibit = gather(datasets, variable, labels, show_theory)
    with applied(look):
        picture, (whole, near) = blank(look, 2)
        draw_whole(whole, exhibit, look)
        draw_near(near, exhibit, look, exhibit.zoom if zoom is None else zoom)
        marks.legend(picture, entries(exhibit, look), look)
    picture.rows, picture.caption = exhibit.rows(), exhibit.caption()
    return picture


def draw_whole(axes: Any, exhibit: Exhibit, look: Style) -> None:
    """The whole time axis, logarithmic."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    bottom, top = limits(exhibit)
    any_zero = any(curve.zero.any() for curve in exhibit.curves)
    height = bottom / 10**RAIL
    floor = height / 10 ** (0.6 * RAIL) if any_zero else bottom
    for run in exhibit.shared[:1]:
        marks.shade(axes, run)
    for number, curve in enumerate(exhibit.curves):
        x = curve.run.x
        marks.band(axes, x, curve, floor, number)
        marks.stems(axes, x, curve, floor, number, look)
        marks.zeros(axes, x, curve.zero, height, number, look)
        marks.line(axes, x, curve, number, look)
    draw_theory(axes, exhibit.first.x, exhibit, look, bottom)
    axes.set_xlim(*ends(exhibit))
    axes.set_ylim(floor, top)
    if any_zero:
        marks.rail(axes, height, bottom, top)
    axes.set_xlabel(exhibit.first.axis)
    axes.set_ylabel(f"{exhibit.symbol}  [{exhibit.first.unit}]")
    axes.set_title("(a) all timesteps" if exhibit.first.discrete else "(a) all times")


def draw_near(axes: Any, exhibit: Exhibit, look: Style, zoom: float) -> None:
    """The part near t = 0, linear."""
    first = exhibit.first
    highest, last = 0.0, 0.0
    for run in exhibit.shared[:1]:
        marks.shade(axes, run, shift=-1.0 if first.discrete else 0.0)
    for number, curve in enumerate(exhibit.curves):
        run, s = curve.run, curve.statistics
        x = run.timestep if first.discrete else run.x
        inside = (x if first.discrete or first.over_logsnr else run.time("t")) <= zoom
        marks.band(axes, x, curve, 0.0, number)
        marks.stems(axes, x, curve, 0.0, number, look)
        marks.zeros(axes, x, curve.zero & inside, 0.0, number, look)
        marks.line(axes, x, curve, number, look)
        high = np.where(np.isfinite(s.high), np.minimum(s.high, TALLEST * s.mean), 0)
        shown = np.concatenate([s.mean[inside], high[inside], s.q95[inside]])
        highest, last = max([highest, *shown[np.isfinite(shown)]]), max([last, *x[inside]])
    draw_theory(axes, first.timestep if first.discrete else first.x, exhibit, look)
    axes.set_ylim(0, HEADROOM * highest or 1)
    axes.set_xlim(-0.02 * zoom if first.discrete else 0, zoom if first.discrete else last or 1)
    axes.set_xlabel("timestep" if first.discrete else first.axis)
    axes.set_ylabel(f"{exhibit.symbol}  [{first.unit}]")
    along = r"\sigma/\alpha" if first.over_logsnr else "t"
    axes.set_title(f"(b) first {zoom:g} timesteps" if first.discrete else rf"(b) ${along} \leq {zoom:.2g}$")


def draw_theory(axes: Any, x: np.ndarray, exhibit: Exhibit, look: Style, bottom: float = 0.0) -> None:
    """The target's curves, where they are above the rail for exact zeros."""
    for name, values in exhibit.lines.items():
        axes.plot(x, np.where(values > bottom, values, np.nan), **theory_stroke(name, look), zorder=1)


def theory_stroke(name: str, look: Style) -> dict[str, Any]:
    dashes, width = ((6, 2), 0.8) if name == POINT_DATA else ((1, 1.5), 1.0)
    return {"color": THEORY, "linestyle": (0, dashes), "linewidth": width * look.scale}


def limits(exhibit: Exhibit) -> tuple[float, float]:
    """The ends of the logarithmic scale: all means and quantiles, and of theory what is at most ten times as high."""
    found = np.concatenate(
        [getattr(curve.statistics, name)[~curve.zero] for curve in exhibit.curves for name in ("mean", "q05", "q95")]
    )
    found = found[np.isfinite(found) & (found > 0)]
    if not found.size:
        return 1e-3, 1.0
    top = found.max()
    if POINT_DATA in exhibit.lines:
        target = exhibit.lines[POINT_DATA]
        top = min(max([top, *target[np.isfinite(target)]]), 10 * top)
    return max(found.min(), top / 10**DECADES) / MARGIN, top * MARGIN


def ends(exhibit: Exhibit) -> tuple[float, float]:
    """The ends of the logarithmic time axis."""
    x = np.concatenate([curve.run.x for curve in exhibit.curves])
    x = x[np.isfinite(x) & (x > 0)]
    return float(x.min()) / 1.12, float(x.max()) * 1.12


def entries(exhibit: Exhibit, look: Style) -> list[tuple[Any, str]]:
    """The legend's entries: runs, what became of shared timesteps, bands, theory."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found: list[tuple[Any, str]] = []
    for number, curve in enumerate(exhibit.curves):
        found.append(marks.entry(number, look, curve.run.label, ", mean"))
    for number, curve in enumerate(exhibit.curves):
        owner = f"{marks.literal(curve.run.label)}: " if len(exhibit.shared) > 1 else ""
        if curve.jump.any():
            jump = Line2D([], [], linestyle="none", **marks.points(number, look, hollow=False))
            found.append((jump, f"{owner}jump between blocks"))
        if curve.zero.any():
            none = Line2D([], [], **marks.zero_stroke(number, look))
            found.append((none, f"{owner}exactly 0"))
    if exhibit.shared:
        found.append((tuple(Patch(facecolor=grey) for grey in SHADES), "timesteps shared in a block"))
    if exhibit.bounded:
        dark = Patch(facecolor="0.2", alpha=INTERVAL_OPACITY + QUANTILE_OPACITY)
        found.append((dark, "95 % interval of the mean"))
    found.append((Patch(facecolor="0.2", alpha=QUANTILE_OPACITY), "5 to 95 % of the draws"))
    for name in exhibit.lines:
        formula = r": $\propto d\sigma/dt$" if name == SMOOTH_DATA else ""
        found.append((Line2D([], [], **theory_stroke(name, look)), name + formula))
    return found
