"""How curves, intervals, jumps, exact zeros and shared blocks are drawn, the same in every figure."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..results.curve import Curve
from ..results.distribution import Statistics
from ..results.run import NOUGHT, Run
from .backend import Patch
from .canvas import Picture
from .style import INTERVAL_OPACITY, QUANTILE_OPACITY, SHADES, Style, appearance, colour

RAIL = 0.35
"""Height of the rail for exact zeros below a logarithmic scale, in decades."""

MARGIN = 1.6
"""Factor by which such a scale reaches beyond what is drawn."""

LEGEND_ROW = 0.15
"""The share of a panel's height that a row of a legend inside it takes."""

MOST_SHADES = 200
"""Edges of blocks up to which each is drawn by itself."""


def literal(name: str) -> str:
    """A name as matplotlib writes it letter by letter: a pair of dollars in it would begin and end mathematics."""
    return name.replace("$", r"\$")


def over_time(axes: Any, run: Run, told: str = "") -> None:
    """A logarithmic axis of time, on which time 0, if it was measured, has a place of its own, cut off."""
    axes.set(xscale="log", xlabel=f"{told}{run.axis}")
    if run.nought is not None:
        axes.axvline(run.nought * NOUGHT**0.5, color="0.5", linewidth=0.5, linestyle=(0, (1, 1)), zorder=1)
        size = axes.xaxis.get_ticklabels()[0].get_fontsize()
        below = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "xytext": (0, -4)}
        axes.annotate("0", (run.nought, 0), ha="center", va="top", fontsize=size, **below)


def stroke(number: int, look: Style) -> dict[str, Any]:
    """How a run's line looks: colour, dashes and marker, so that grey print tells runs apart too."""
    hue, dashes, marker = appearance(number)
    return {"color": hue, "linestyle": dashes, "marker": marker, "markersize": 2.2 * look.scale, "markeredgewidth": 0}


def points(number: int, look: Style, hollow: bool) -> dict[str, Any]:
    """Markers of jumps, or hollow ones of exact zeros."""
    hue, _, marker = appearance(number)
    size, face, edge, width = (2.0, "white", hue, 0.6) if hollow else (4.2, hue, "0.15", 0.4)
    return {
        "marker": marker,
        "markersize": size * look.scale,
        "markerfacecolor": face,
        "markeredgecolor": edge,
        "markeredgewidth": width * look.scale,
    }


def line(axes: Any, x: np.ndarray, curve: Curve, number: int, look: Style) -> None:
    """The means, where the curve is neither 0 nor a jump."""
    y = np.where(curve.line, curve.statistics.mean, np.nan)
    axes.plot(x, y, **stroke(number, look), zorder=4 + number / 10)


def band(axes: Any, x: np.ndarray, curve: Curve, floor: float, number: int) -> None:
    """Quantiles of draws, and on them the mean's interval."""
    s = curve.statistics
    for low, high, opacity in ((s.q05, s.q95, QUANTILE_OPACITY), (s.low, s.high, INTERVAL_OPACITY)):
        fill(axes, x, np.where(curve.line, low, np.nan), high, number, opacity, floor)


def fill(
    axes: Any,
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    number: int,
    opacity: float = INTERVAL_OPACITY,
    floor: float = -np.inf,
) -> None:
    """A band where both its bounds are finite, cut at a floor."""
    bounded = np.isfinite(low) & np.isfinite(high)
    bottom, top = np.where(bounded, np.maximum(low, floor), np.nan), np.where(bounded, high, np.nan)
    how = {"color": colour(number), "alpha": opacity, "zorder": 2 + number / 10}
    axes.fill_between(x, bottom, top, **how)
    beside = np.concatenate([[False], bounded, [False]])
    alone = bounded & ~beside[:-2] & ~beside[2:]  # where a band has no width
    if alone.any():
        axes.vlines(x[alone], bottom[alone], top[alone], linewidth=3.0, **how)


def means(
    axes: Any, x: np.ndarray, s: Statistics, number: int, look: Style, spread: bool = True, name: str = ""
) -> None:
    """A line of means with their intervals and, below it, the quantiles of draws; its name for `inside`."""
    floor = float(np.nanmin(np.where(s.mean > 0, s.mean, np.nan))) / 100 if axes.get_yscale() == "log" else -np.inf
    if spread:
        fill(axes, x, s.q05, s.q95, number, QUANTILE_OPACITY, floor)
    fill(axes, x, s.low, s.high, number, INTERVAL_OPACITY, floor)
    axes.plot(x, s.mean, **stroke(number, look), zorder=4 + number / 10, **({"label": name} if name else {}))


def bar(axes: Any, x: np.ndarray, s: Statistics, number: int, look: Style) -> None:
    """Single means with their intervals as bars."""
    bounded = np.isfinite(s.low) & np.isfinite(s.high)
    ends = np.where(bounded, s.low, s.mean), np.where(bounded, s.high, s.mean)
    axes.plot(x, s.mean, linestyle="none", **points(number, look, hollow=False), zorder=4)
    # in front, for it is often narrower than the marker
    axes.vlines(x, *ends, color="0.1", linewidth=0.9 * look.scale, zorder=5)


def stems(axes: Any, x: np.ndarray, curve: Curve, floor: float, number: int, look: Style) -> None:
    """Jumps: a stem up to the mean, a bar for the quantiles and a darker one for the interval."""
    at, s = curve.jump, curve.statistics
    if not at.any():
        return
    hue = colour(number)
    axes.vlines(x[at], floor, s.mean[at], color=hue, linewidth=0.8 * look.scale, alpha=0.6, zorder=3)
    for low, high, opacity in ((s.q05, s.q95, 0.45), (s.low, s.high, 0.7)):
        bounded = at & np.isfinite(low) & np.isfinite(high)
        bottom, width = np.maximum(low[bounded], floor), 3.2 * look.scale
        axes.vlines(x[bounded], bottom, high[bounded], color=hue, linewidth=width, alpha=opacity, zorder=3)
    axes.plot(x[at], s.mean[at], linestyle="none", **points(number, look, hollow=False), zorder=6)


def zeros(axes: Any, x: np.ndarray, at: np.ndarray, height: float, number: int, look: Style) -> None:
    """Exact zeros: hollow points, joined within a block."""
    if at.any():
        axes.plot(x, np.where(at, height, np.nan), **zero_stroke(number, look), clip_on=False, zorder=5)


def zero_stroke(number: int, look: Style) -> dict[str, Any]:
    return {"color": colour(number), "linewidth": 0.7 * look.scale, **points(number, look, hollow=True)}


def shade(axes: Any, run: Run, shift: float = 0.0) -> None:
    """The blocks of a run."""
    # between the last timestep of a block and the first of the next
    edges = np.array(run.edges) - 0.5 if run.discrete else np.array(run.edges)
    places = run.position(edges) + shift
    if len(places) > MOST_SHADES:  # too narrow to be told apart
        places = places[[0, -1]]
    for number, (left, right) in enumerate(itertools.pairwise(places)):
        axes.axvspan(left, right, facecolor=SHADES[number % 2], edgecolor="none", zorder=0)


@dataclass(frozen=True)
class Rail:
    """A place for exact zeros below a logarithmic scale, cut off from it, with 0 among the tick labels.

    Attributes:
        bottom: Where the scale ends.
        needed: Whether there are exact zeros.
    """

    bottom: float
    needed: bool

    @property
    def height(self) -> float:
        """Where the zeros lie."""
        return self.bottom / 10**RAIL

    @property
    def floor(self) -> float:
        """Where the axis ends."""
        return self.height / 10 ** (0.6 * RAIL) if self.needed else self.bottom

    def draw(self, axes: Any, top: float) -> None:
        """Cut it off, and set the ticks of the scale up to its top; nothing where it is not needed."""
        if not self.needed:
            return
        bottom = self.bottom
        axes.axhline(bottom, color="0.5", linewidth=0.5, linestyle=(0, (1, 1)), zorder=1)
        decades = range(int(np.ceil(np.log10(bottom) - 1e-9)), int(np.floor(np.log10(top) + 1e-9)) + 1)
        stride = 1 + len(decades) // 7
        labelled = [k for k in decades if k % stride == 0]
        axes.set_yticks([self.height, *(10.0**k for k in labelled)], ["0", *(f"$10^{{{k}}}$" for k in labelled)])
        minor = [m * 10.0**k for k in range(decades.start - 1, decades.stop) for m in range(1, 10)]
        minor = [y for y in minor if bottom <= y <= top and y not in [10.0**k for k in labelled]]
        axes.set_yticks(minor, [], minor=True)


def key(picture: Picture, number: int, name: str, what: str = "") -> None:
    """A run's entry in the legend: its line with its marker, and its name with what is shown of it."""
    picture.key(literal(name) + what, **stroke(number, picture.style))


def jump_key(picture: Picture, number: int, owner: str) -> None:
    """The entry of a run's jumps; its owner's name where there are several."""
    picture.key(f"{owner}jump between blocks", linestyle="none", **points(number, picture.style, hollow=False))


def zero_key(picture: Picture, number: int, owner: str = "") -> None:
    """The entry of a run's exact zeros."""
    picture.key(f"{owner}exactly 0", **zero_stroke(number, picture.style))


def block_key(picture: Picture) -> None:
    """The entry of shaded blocks."""
    picture.keys.append((tuple(Patch(facecolor=grey) for grey in SHADES), "timesteps shared in a block"))


def band_keys(picture: Picture, spread: str = "5 to 95 % of the draws", interval: bool = True) -> None:
    """The entries that say what the bands are: the light one, where there is one, and the interval that lies on it."""
    dark, light = INTERVAL_OPACITY + (QUANTILE_OPACITY if spread else 0), QUANTILE_OPACITY
    for text, opacity in (("95 % interval of the mean" if interval else "", dark), (spread, light)):
        if text:
            picture.keys.append((Patch(facecolor="0.2", alpha=opacity), text))


def bare(axes: Any) -> None:
    """Nothing but the image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def inside(axes: Any) -> None:
    """A legend of the panel's own lines at its top, on room made for it."""
    handles, _ = axes.get_legend_handles_labels()
    bottom, top = axes.get_ylim()
    headroom = LEGEND_ROW * -(-len(handles) // 2)
    if axes.get_yscale() == "log":
        axes.set_ylim(bottom, top * (top / bottom) ** headroom)
    else:
        axes.set_ylim(bottom, top + headroom * (top - bottom))
    axes.legend(loc="upper center", ncols=2, handlelength=2.4, columnspacing=0.8)


def chosen(x: np.ndarray, usable: np.ndarray, number: int) -> list[int]:
    """A few indices of usable places, evenly spaced on a logarithmic scale, the first and the last among them."""
    places = np.flatnonzero(usable)
    if not places.size:
        return []
    wanted = np.geomspace(x[places[0]], x[places[-1]], number)
    return sorted({int(places[np.abs(np.log(x[places] / w)).argmin()]) for w in wanted})
