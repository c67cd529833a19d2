"""The Lipschitz singularity: how fast the noise prediction changes with the timestep, and how that grows near t = 0.

Left, the whole axis, both scales logarithmic; exact zeros lie on a rail below the scale. Right, the part near t = 0,
both scales linear, where zero has its own place. E-TSDM's blocks are shaded; its quotient is 0 inside them by
construction, and what was taken from there is drawn where it went: the jumps at the last timesteps of the blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .curve import Curve, curves
from .picture import Picture, Row, blank
from .run import Run, read
from .style import COLOURS, INTERVAL_OPACITY, LINES, MARKERS, QUANTILE_OPACITY, SHADES, THEORY, Style, applied, preset
from .theory import Theory, theory

if TYPE_CHECKING:
    import xarray as xr

RAIL = 0.35
"""Height of the rail for exact zeros below the scale, in decades."""

HEADROOM = 1.15
TALLEST = 2.0
"""How far above a mean the linear scale follows its interval, so that a few draws do not flatten all the rest."""

POINTS_LINE, SMOOTH_LINE = "theory, point data", "theory, smooth data"
LONGEST = 48
"""Characters of a legend's text that fit the narrowest column."""

POINTS = 72
"""In an inch."""

SYMBOLS = {"time_difference": r"$K(t,\,t^\prime)$", "time_derivative": r"$\|\partial_t\,\epsilon_\theta\|_2$"}
ANCHOR = 0.1
"""The t at which the curve for smooth data, whose height theory leaves open, is put onto the measured one."""


@dataclass(frozen=True)
class Content:
    """All that is drawn."""

    curves: list[Curve]
    theory: Theory | None
    scale: float

    @property
    def first(self) -> Run:
        return self.curves[0].run

    @property
    def shared(self) -> list[Run]:
        return [curve.run for curve in self.curves if curve.run.shared]

    @property
    def bounded(self) -> bool:
        """Whether any mean has an interval, which takes two draws."""
        return any(np.isfinite(curve.statistics.high[~curve.zero]).any() for curve in self.curves)

    @property
    def symbol(self) -> str:
        variable = self.curves[0].variable
        if variable == "time_difference" and self.first.discrete and abs(self.step) == 1:
            return r"$K(t,\,t{+}1)$"
        return SYMBOLS.get(variable, variable)

    @property
    def step(self) -> float:
        return float((self.first.other[0] - self.first.timestep)[0])


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
        zoom: Where the enlarged part ends, in timesteps (for a model of continuous time: in t); by default 150 of
            1000, or more to hold all shared blocks.
        show_theory: Whether to draw what the target of training would show.
        style: A preset's name.

    Raises:
        UsageError: If a run lacks the variable, or the runs' time axes differ.
    """
    content = gather(datasets, variable, labels, show_theory)
    look = preset(style)
    with applied(look):
        picture, (whole, near) = blank(look, 2)
        draw_whole(whole, content, look)
        draw_near(near, content, look, content_zoom(content, zoom))
        draw_legend(picture, content, look)
        picture.rows = rows(content)
        picture.caption = words(content)
    return picture


def gather(
    datasets: "Sequence[xr.Dataset]",
    variable: str | None = None,
    labels: Sequence[str] | None = None,
    show_theory: bool = True,
) -> Content:
    """What is to be drawn."""
    found = curves(read(datasets, labels), variable)
    target = theory(found[0].run, found[0].variable) if show_theory else None
    return Content(found, target, anchor(found[0], target) if target else np.nan)


def anchor(curve: Curve, target: Theory) -> float:
    """Height of the curve for smooth data: through the first measured point at t >= 0.1 that is neither 0 nor a jump."""
    usable = (curve.run.time("t") > ANCHOR) & curve.line & (curve.statistics.mean > 0) & (target.schedule > 0)
    if not usable.any():
        return np.nan
    first = int(usable.argmax())
    return float(curve.statistics.mean[first] / target.schedule[first])


def content_zoom(content: Content, zoom: float | None) -> float:
    return max(curve.run.zoom for curve in content.curves) if zoom is None else zoom


def draw_whole(axes: Any, content: Content, look: Style) -> None:
    """The whole time axis, logarithmic."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    bottom, top = limits(content)
    rail = bottom / 10**RAIL
    zeros = any(curve.zero.any() for curve in content.curves)
    floor = rail / 10 ** (0.6 * RAIL) if zeros else bottom
    shade(axes, content)
    for number, curve in enumerate(content.curves):
        run, s = curve.run, curve.statistics
        band(axes, run.x, curve, floor, number)
        stems(axes, run.x, curve, floor, number, look)
        zero(axes, run.x, np.where(curve.zero, rail, np.nan), number, look)
        line(axes, run.x, np.where(curve.line, s.mean, np.nan), number, look)
    if content.theory is not None:
        draw_theory(axes, content.first.x, content, look, bottom)
    axes.set_xlim(*ends(content))
    axes.set_ylim(floor, top)
    if zeros:
        draw_rail(axes, rail, bottom, top)
    axes.set_xlabel(content.first.axis)
    axes.set_ylabel(f"{content.symbol}  [{content.first.unit}]")
    axes.set_title("(a) all timesteps" if content.first.discrete else "(a) all times")


def draw_near(axes: Any, content: Content, look: Style, zoom: float) -> None:
    """The part near t = 0, linear."""
    discrete = content.first.discrete
    highest = 0.0
    shade(axes, content, shift=-1.0 if discrete else 0.0)
    last = 0.0
    for number, curve in enumerate(content.curves):
        run, s = curve.run, curve.statistics
        x = run.timestep if discrete else run.x
        inside = (run.timestep if discrete else run.time("t")) <= zoom
        last = max([last, *x[inside]])
        band(axes, x, curve, 0.0, number)
        stems(axes, x, curve, 0.0, number, look)
        zero(axes, x, np.where(curve.zero & inside, 0.0, np.nan), number, look)
        line(axes, x, np.where(curve.line, s.mean, np.nan), number, look)
        shown = np.concatenate([s.mean[inside], np.minimum(s.high, TALLEST * s.mean)[inside], s.q95[inside]])
        highest = max([highest, *shown[np.isfinite(shown)]])
    if content.theory is not None:
        draw_theory(axes, content.first.timestep if discrete else content.first.x, content, look)
    axes.set_ylim(0, HEADROOM * highest or 1)
    axes.set_xlim(-0.02 * zoom if discrete else 0, zoom if discrete else last)
    axes.set_xlabel("timestep" if discrete else content.first.axis)
    axes.set_ylabel(f"{content.symbol}  [{content.first.unit}]")
    axes.set_title(f"(b) first {zoom:g} timesteps" if discrete else f"(b) $t \\leq {zoom:g}$")


def line(axes: Any, x: np.ndarray, y: np.ndarray, number: int, look: Style) -> None:
    style = dict(color=colour(number), linestyle=LINES[number % len(LINES)], marker=MARKERS[number % len(MARKERS)])
    axes.plot(x, y, markersize=2.2 * look.scale, markeredgewidth=0, **style, zorder=4 + number / 10)


def band(axes: Any, x: np.ndarray, curve: Curve, floor: float, number: int) -> None:
    """Quantiles of draws, and on them the mean's interval."""
    s = curve.statistics
    for low, high, opacity in ((s.q05, s.q95, QUANTILE_OPACITY), (s.low, s.high, INTERVAL_OPACITY)):
        bounded = curve.line & np.isfinite(low) & np.isfinite(high)
        low, high = np.where(bounded, np.maximum(low, floor), np.nan), np.where(bounded, high, np.nan)
        axes.fill_between(x, low, high, color=colour(number), alpha=opacity, zorder=2 + number / 10)


def stems(axes: Any, x: np.ndarray, curve: Curve, floor: float, number: int, look: Style) -> None:
    """Jumps: a stem up to the mean, a thick bar for its interval and a thin one for the quantiles."""
    at, s = curve.jump, curve.statistics
    if not at.any():
        return
    color = colour(number)
    axes.vlines(x[at], floor, s.mean[at], color=color, linewidth=0.8 * look.scale, alpha=0.6, zorder=3)
    for low, high, width, opacity in ((s.q05, s.q95, 3.2, 0.45), (s.low, s.high, 3.2, 0.7)):
        finite = at & np.isfinite(low) & np.isfinite(high)
        low = np.maximum(low[finite], floor)
        axes.vlines(x[finite], low, high[finite], color=color, linewidth=width * look.scale, alpha=opacity, zorder=3)
    axes.plot(x[at], s.mean[at], linestyle="none", **points(number, look, hollow=False), zorder=6)


def zero(axes: Any, x: np.ndarray, y: np.ndarray, number: int, look: Style) -> None:
    """Exact zeros: hollow points, joined within a block."""
    if np.isnan(y).all():
        return
    width = 0.7 * look.scale
    axes.plot(x, y, color=colour(number), linewidth=width, clip_on=False, **points(number, look, hollow=True), zorder=5)


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def points(number: int, look: Style, hollow: bool) -> dict[str, Any]:
    """Markers of jumps, or hollow ones of exact zeros."""
    size, face, edge, width = (2.0, "white", colour(number), 0.6) if hollow else (4.2, colour(number), "0.15", 0.4)
    return {
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": size * look.scale,
        "markerfacecolor": face,
        "markeredgecolor": edge,
        "markeredgewidth": width * look.scale,
    }


def shade(axes: Any, content: Content, shift: float = 0.0) -> None:
    """Blocks of the first run that has any."""
    for run in content.shared[:1]:
        # between the last timestep of a block and the first of the next
        edges = [edge - 0.5 for edge in run.edges] if run.discrete else list(run.edges)
        places = run.position(np.array(edges)) + shift
        for number, (left, right) in enumerate(zip(places, places[1:], strict=False)):
            axes.axvspan(left, right, facecolor=SHADES[number % 2], edgecolor="none", zorder=0)


def draw_theory(axes: Any, x: np.ndarray, content: Content, look: Style, bottom: float = 0.0) -> None:
    """The target's curves, where they are above the rail for exact zeros."""
    for name, values in theory_lines(content).items():
        axes.plot(x, np.where(values > bottom, values, np.nan), **theory_style(name, look), zorder=1)


def theory_lines(content: Content) -> dict[str, np.ndarray]:
    """Name -> values at the first run's timesteps."""
    if content.theory is None:
        return {}
    lines = {POINTS_LINE: content.theory.points}
    if np.isfinite(content.scale):
        lines[SMOOTH_LINE] = content.scale * content.theory.schedule
    return lines


def theory_style(name: str, look: Style) -> dict[str, Any]:
    dashes, width = ((6, 2), 0.8) if name == POINTS_LINE else ((1, 1.5), 1.0)
    return {"color": THEORY, "linestyle": (0, dashes), "linewidth": width * look.scale}


def draw_rail(axes: Any, rail: float, bottom: float, top: float) -> None:
    """A line for exact zeros below the scale, cut off from it, with 0 among the tick labels."""
    axes.axhline(bottom, color="0.5", linewidth=0.5, linestyle=(0, (1, 1)), zorder=1)
    decades = range(int(np.ceil(np.log10(bottom) - 1e-9)), int(np.floor(np.log10(top) + 1e-9)) + 1)
    stride = 1 + len(decades) // 7
    shown = [k for k in decades if k % stride == 0]
    axes.set_yticks([rail, *(10.0**k for k in shown)], ["0", *(f"$10^{{{k}}}$" for k in shown)])
    minor = [m * 10.0**k for k in range(decades.start - 1, decades.stop) for m in range(1 if stride > 1 else 2, 10)]
    axes.set_yticks([y for y in minor if bottom <= y <= top], [], minor=True)


def limits(content: Content) -> tuple[float, float]:
    """Of the logarithmic scale: all means, intervals and quantiles that are drawn, within five decades of the top."""
    values = [getattr(curve.statistics, name)[~curve.zero] for curve in content.curves for name in ("mean", "q05", "q95")]
    found = np.concatenate(values)
    found = found[np.isfinite(found) & (found > 0)]
    if not found.size:
        return 1e-3, 1.0
    top = found.max()
    if content.theory is not None:
        target = content.theory.points[np.isfinite(content.theory.points)]
        top = min(max([top, *target]), 10 * top)
    return max(found.min(), top * 1e-6) / 1.6, top * 1.6


def ends(content: Content) -> tuple[float, float]:
    x = np.concatenate([curve.run.x for curve in content.curves])
    x = x[np.isfinite(x) & (x > 0)]
    return float(x.min()) / 1.12, float(x.max()) * 1.12


def draw_legend(picture: Picture, content: Content, look: Style) -> None:
    """One legend for both panels, above them, where it covers nothing."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[tuple[Any, str]] = []
    for number, curve in enumerate(content.curves):
        line = Line2D([], [], color=colour(number), linestyle=LINES[number % len(LINES)], marker=MARKERS[number % len(MARKERS)])
        line.set(markersize=2.6 * look.scale, markeredgewidth=0)
        entries.append((line, f"{curve.run.label}, mean"))
    for number, curve in enumerate(content.curves):
        owner = f"{curve.run.label}: " if len(content.shared) > 1 else ""
        if curve.jump.any():
            jump = Line2D([], [], linestyle="none", **points(number, look, hollow=False))
            entries.append((jump, f"{owner}jump between blocks"))
        if curve.zero.any():
            none = Line2D([], [], color=colour(number), linewidth=0.7 * look.scale, **points(number, look, hollow=True))
            entries.append((none, f"{owner}exactly 0"))
    if content.shared:
        entries.append((tuple(Patch(facecolor=shade) for shade in SHADES), "timesteps shared in a block"))
    if content.bounded:
        entries.append((Patch(facecolor="0.2", alpha=INTERVAL_OPACITY + QUANTILE_OPACITY), "95 % interval of the mean"))
    entries.append((Patch(facecolor="0.2", alpha=QUANTILE_OPACITY), "5–95 % of the draws"))
    for name in theory_lines(content):
        formula = r": $\propto d\sigma/dt$" if name == SMOOTH_LINE else ""
        entries.append((Line2D([], [], **theory_style(name, look)), name + formula))
    handles, texts = zip(*entries, strict=True)
    room = picture.get_figwidth() * picture.dpi
    for columns in range(look.legend, 0, -1):
        shorter = [text if columns > 1 or len(text) <= LONGEST else f"{text[: LONGEST - 1]}…" for text in texts]
        tuples = {tuple: HandlerTuple(ndivide=None, pad=0)}
        legend = picture.legend(handles, shorter, loc="outside upper center", ncols=columns, handler_map=tuples)
        if columns == 1 or legend.get_window_extent().width <= room:
            break
        legend.remove()
    lines = -(-len(texts) // columns)
    picture.set_figheight(picture.get_figheight() + 1.3 * lines * look.small / POINTS)


def rows(content: Content) -> list[Row]:
    """The drawn numbers: every curve's, then the theory lines'."""
    found = [row for curve in content.curves for row in curve.rows()]
    run, variable = content.first, content.curves[0].variable
    for series, values in theory_lines(content).items():
        for i, value in enumerate(values):
            place = {name: float(run.time(name)[i]) for name in ("timestep", "t", "sigma", "logsnr")}
            found.append({"series": series, "variable": variable, "kind": "theory", **place, "mean": float(value)})
    return found


def caption(*datasets: "xr.Dataset", variable: str | None = None, labels: Sequence[str] | None = None) -> str:
    """Words for under the figure: what is drawn, of what, in which norm and unit, from how many draws."""
    return words(gather(datasets, variable, labels))


def words(content: Content) -> str:
    first = content.first
    counts = np.concatenate([curve.statistics.count for curve in content.curves])
    counts = counts[counts > 0].astype(int)
    number = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    size = f" over all {first.dimension} entries of a sample" if first.dimension else " over all entries of a sample"
    own = "" if first.discrete or first.own_unit == "timestep" else f", where a timestep is {first.own_unit}"
    data = ", ".join(dict.fromkeys(curve.run.data for curve in content.curves))
    if content.curves[0].variable == "time_difference":
        other = f"t' = t {'+' if content.step > 0 else '-'} {abs(content.step):g}"
        what = f"K(t, t') = |eps(x_t, t) - eps(x_t, t')|_2 / |t - t'| with x_t noised to level t and {other} in timesteps"
    else:
        what = "|d eps(x_t, t) / dt|_2, the partial derivative of the noise prediction in the timestep at fixed x_t"
        if first.discrete:
            what += " (between the integer timesteps of training it is interpolation by the network)"
    sentences = [
        f"Rate of change of the noise prediction in time: {what}",
        f"Euclidean norm{size}, unit {first.unit}{own}",
        f"Lines: mean of n = {number} draws of {data}; "
        + ("dark bands: 95 % interval of the mean (Student); " if content.bounded else "")
        + "light bands: 5 to 95 % of the draws",
    ]
    for curve in content.curves:
        run = curve.run
        if run.shared and (curve.jump.any() or curve.zero.any()):
            sentence = f"{run.label} shares its timestep in the {len(run.edges) - 1} shaded blocks below {run.end:g}: inside a block the value is exactly 0 by construction"
            if curve.jump.any():
                sentence += ", and the large markers are the jumps from one block to the next"
            sentences.append(sentence)
        if run.missing_jumps and curve.variable == "time_difference":
            sentences.append(f"Not measured: {run.label}'s jumps at timesteps {', '.join(map(str, run.missing_jumps))}")
    if content.theory is not None:
        sentence = f"Grey, theory of the training target, not of the network: dashed, isolated data points in {first.dimension} dimensions, "
        sentence += (
            "sqrt(d) |1 - sigma_t / sigma_t'| / |t - t'|"
            if content.curves[0].variable == "time_difference"
            else "sqrt(d) sigma' / sigma"
        )
        if np.isfinite(content.scale):
            sentence += f"; dotted, smooth data, the schedule's own factor sigma' scaled to {first.label} at t = {ANCHOR:g}"
        sentences.append(sentence)
    return ". ".join(sentences) + "."
