"""A model and its remedy in one figure: K of both, below it the ratio, and what else was measured.

K is drawn as in every figure: blocks shaded, exact zeros on a rail below the scale, jumps as stems. With one pair of
models the bands are over draws, with several over training seeds. Ratios and differences have their paired interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..comparison.comparison import Comparison, compare
from ..comparison.effect import mean
from ..comparison.pairs import values
from ..comparison.quality import METRICS
from ..comparison.statements import SPEED
from ..errors import UsageError
from ..printing import abbreviated
from ..results.curve import Curve
from ..results.statistics import over_draws
from . import marks
from .canvas import Picture
from .style import INTERVAL_OPACITY, QUANTILE_OPACITY, SHADES, THEORY, Style, applied, preset

if TYPE_CHECKING:
    import xarray as xr

RAIL = 0.35
"""Height of the rail for exact zeros below a logarithmic scale, in decades."""

MARGIN = 1.6
SHORT = 0.72
"""Height of the ratio's panel, of a whole one's."""

EFFECT = 4
"""Number of the colour for what belongs to neither model: ratios and differences."""

Panel = Callable[[Any, Comparison, Style], str]
"""Draws into axes and returns their title."""


def compare_figure(
    *datasets: "xr.Dataset",
    labels: Sequence[str] | None = None,
    style: str = "iclr",
    quality: "Sequence[tuple[Any, Any]]" = (),
) -> Picture:
    """The figure of runs A, B, and of further pairs of training seeds after them.

    Args:
        datasets: What `measure` returned, two a pair.
        labels: What to call the two models.
        style: A preset's name.
        quality: What `evaluate` wrote of both, a pair each.

    Raises:
        UsageError: If the runs are not two a pair.
        RunError: If they cannot be paired.
    """
    if not datasets or len(datasets) % 2:
        raise UsageError(f"there are {len(datasets)} runs; give two a pair, the plain model and its remedy")
    pairs = list(zip(datasets[::2], datasets[1::2], strict=True))
    return draw(compare(*pairs[0], pairs[1:], quality, labels), style)


def draw(comparison: Comparison, style: str = "iclr") -> Picture:
    """The figure of a comparison.

    Args:
        comparison: What `compare` found.
        style: A preset's name.

    Raises:
        UsageError: If the runs have nothing to show, or there is no such style.
    """
    look = preset(style)
    left: list[tuple[Panel, float]] = []
    if SPEED in comparison.effects:
        left += [(draw_speeds, 1.0), (draw_ratio, SHORT)]
    right: list[tuple[Panel, float]] = []
    if "loss" in comparison.effects:
        right.append((draw_loss, 1.0))
    if "sensitivity" in comparison.effects:
        right.append((draw_sensitivity, SHORT if right else 1.0))
    if comparison.quality is not None:
        (left if len(right) > 1 else right).append((draw_fid, 1.0))
        if len(right) > 1:
            right.append((draw_kid, 1.0))
    if not left + right:
        raise UsageError("these runs have neither K nor loss nor sensitivity in common; measure one with both")
    with applied(look):
        picture, axes = blank(look, left, right)
        for place, (panel, _), letter in zip(axes, left + right, "abcdef", strict=False):
            place.set_title(f"({letter}) {panel(place, comparison, look)}")
        marks.legend(picture, entries(comparison, look), look)
    picture.rows, picture.caption = comparison.rows(), caption(comparison)
    return picture


def blank(look: Style, left: list[tuple[Panel, float]], right: list[tuple[Panel, float]]) -> tuple[Picture, list[Any]]:
    """An empty picture whose columns have panels of these heights; one column where the preset has no room for two."""
    columns = [left, right] if look.columns > 1 and left and right else [left + right]
    heights = [sum(height for _, height in column) for column in columns]
    picture = Picture(look, figsize=(look.width, max(heights) * look.panel), layout="constrained")
    grid = picture.add_gridspec(1, len(columns))
    axes = []
    for i, column in enumerate(columns):
        inner = grid[0, i].subgridspec(len(column), 1, height_ratios=[height for _, height in column])
        axes += [picture.add_subplot(inner[j, 0]) for j in range(len(column))]
    return picture, axes


def draw_speeds(axes: Any, comparison: Comparison, look: Style) -> str:
    """K of both models."""
    found = [seeds_curve(comparison, side) for side in range(2)]
    axes.set_xscale("log")
    axes.set_yscale("log")
    bottom, top = limits(found)
    zero = any(curve.zero.any() for curve in found)
    height = bottom / 10**RAIL
    floor = height / 10 ** (0.6 * RAIL) if zero else bottom
    shade(axes, comparison)
    for number, curve in enumerate(found):
        x = curve.run.x
        marks.band(axes, x, curve, floor, number)
        marks.stems(axes, x, curve, floor, number, look)
        marks.zeros(axes, x, curve.zero, height, number, look)
        marks.line(axes, x, curve, number, look)
    axes.set_ylim(floor, top)
    if zero:
        marks.rail(axes, height, bottom, top)
    time_axis(axes, comparison)
    axes.set_ylabel(f"$K(t, t')$  [{found[0].run.unit}]")
    return "rate of change of the prediction"


def seeds_curve(comparison: Comparison, side: int) -> Curve:
    """K of one of the models: over draws, or over the means of training seeds."""
    runs = [pair[side] for pair in comparison.pairs]
    if len(runs) == 1:
        return Curve(runs[0], SPEED, runs[0].statistics(SPEED))
    seeds = np.stack([mean(values(run, SPEED)) for run in runs], -1)
    s = over_draws(seeds)
    lowest = np.quantile(seeds, 0, axis=-1)
    return Curve(runs[0], SPEED, replace(s, q05=lowest, q95=s.max))


def limits(found: Sequence[Curve]) -> tuple[float, float]:
    """The ends of a logarithmic scale that holds all means and quantiles."""
    each = [getattr(curve.statistics, name)[~curve.zero] for curve in found for name in ("mean", "q05", "q95")]
    shown = np.concatenate(each)
    shown = shown[np.isfinite(shown) & (shown > 0)]
    return (shown.min() / MARGIN, shown.max() * MARGIN) if shown.size else (1e-3, 1.0)


def draw_ratio(axes: Any, comparison: Comparison, look: Style) -> str:
    """K of the second over the first: a line where neither is 0, points at jumps, crosses where the second is 0."""
    effect = comparison.effects[SPEED]
    jumps = np.logical_or(*(run.jumps for run in comparison.pairs[0]))
    zero = effect.b == 0
    axes.set_yscale("log")
    draw_effect(axes, comparison, effect.ratio, ~jumps & ~zero, jumps & ~zero, look, 1.0)
    low, high = axes.get_ylim()
    shown = effect.ratio.value[np.isfinite(effect.ratio.value) & (effect.ratio.value > 0)]
    if shown.size:
        low, high = min(0.5, shown.min() / MARGIN), max(2.0, shown.max() * MARGIN)
    height = low / 10**RAIL
    marks.zeros(axes, comparison.pairs[0][0].x, zero, height, 1, look)
    axes.set_ylim(height / 10 ** (0.6 * RAIL) if zero.any() else low, high)
    if zero.any():
        marks.rail(axes, height, low, high)
    axes.set_ylabel("ratio")
    return f"$K$, {over(comparison)}"


def draw_loss(axes: Any, comparison: Comparison, look: Style) -> str:
    """The paired difference of the losses."""
    difference = comparison.effects["loss"].difference
    draw_effect(axes, comparison, difference, np.isfinite(difference.value), None, look, 0.0)
    axes.set_ylabel("difference  [1]")
    return f"loss, {minus(comparison)}"


def draw_sensitivity(axes: Any, comparison: Comparison, look: Style) -> str:
    """The ratio of the sensitivities."""
    ratio = comparison.effects["sensitivity"].ratio
    draw_effect(axes, comparison, ratio, np.isfinite(ratio.value), None, look, 1.0)
    axes.set_ylabel("ratio")
    return f"sensitivity, {over(comparison)}"


def draw_effect(
    axes: Any,
    comparison: Comparison,
    interval: Any,
    line: np.ndarray,
    points: np.ndarray | None,
    look: Style,
    none: float,
) -> None:
    """A ratio or difference over time with its paired interval, and where there would be none."""
    x = comparison.pairs[0][0].x
    shade(axes, comparison)
    hue = marks.colour(EFFECT)
    axes.axhline(none, color=THEORY, linewidth=0.6 * look.scale, zorder=1)
    masked = [np.where(line, bound, np.nan) for bound in interval]
    axes.fill_between(x, masked[1], masked[2], color=hue, alpha=INTERVAL_OPACITY, zorder=2)
    axes.plot(x, masked[0], color=hue, marker="o", markersize=1.8 * look.scale, markeredgewidth=0, zorder=4)
    if points is not None and points.any():
        bounds = [bound[points] for bound in interval]
        axes.vlines(x[points], bounds[1], bounds[2], color=hue, linewidth=1.6 * look.scale, zorder=5)
        axes.plot(x[points], bounds[0], linestyle="none", color=hue, marker="D", markersize=3.2 * look.scale, zorder=5)
    axes.set_xscale("log")
    time_axis(axes, comparison)


def over(comparison: Comparison) -> str:
    a, b = map(marks.literal, abbreviated(comparison.labels))
    return f"{b} / {a}"


def minus(comparison: Comparison) -> str:
    a, b = map(marks.literal, abbreviated(comparison.labels))
    return f"{b} minus {a}"


def shade(axes: Any, comparison: Comparison) -> None:
    for run in [run for run in comparison.pairs[0] if run.shared][:1]:
        marks.shade(axes, run)


def time_axis(axes: Any, comparison: Comparison) -> None:
    run = comparison.pairs[0][0]
    axes.set_xlabel(run.axis)
    axes.set_xlim(run.x.min() / 1.12, run.x.max() * 1.12)


def draw_fid(axes: Any, comparison: Comparison, look: Style) -> str:
    return draw_quality(axes, comparison, look, "fid")


def draw_kid(axes: Any, comparison: Comparison, look: Style) -> str:
    return draw_quality(axes, comparison, look, "kid")


def draw_quality(axes: Any, comparison: Comparison, look: Style, metric: str) -> str:
    """The paired difference of a distance with each sampler, and each seed's as a small point."""
    quality = comparison.quality
    assert quality is not None
    hue = marks.colour(EFFECT)
    numbers = quality.values[metric]
    gaps = numbers[:, 1] - numbers[:, 0]  # (pair, sampler, seed)
    found = [s for s in comparison.statements if s.variable == metric]
    axes.axhline(0, color=THEORY, linewidth=0.6 * look.scale, zorder=1)
    for i, statement in enumerate(found):
        seeds = gaps[0, i] if len(gaps) == 1 else mean(gaps[:, i])
        axes.plot(
            np.full(seeds.size, i) + 0.18, seeds, linestyle="none", color="0.45", marker="o", markersize=2 * look.scale
        )
        value, low, high = statement.effect.difference
        if np.isfinite(low) and np.isfinite(high):
            axes.vlines(i, low, high, color=hue, linewidth=1.6 * look.scale, zorder=3)
        axes.plot(i, value, linestyle="none", color=hue, marker="D", markersize=3.4 * look.scale, zorder=4)
    axes.set_xticks(range(len(found)), quality.samplers)
    axes.set_xlim(-0.6, len(found) - 0.4)
    axes.set_ylabel("difference  [1]")
    return f"{METRICS[metric]}, {minus(comparison)}"


def entries(comparison: Comparison, look: Style) -> list[tuple[Any, str]]:
    """The legend's entries."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found: list[tuple[Any, str]] = []
    if SPEED in comparison.effects:
        for number, label in enumerate(comparison.labels):
            found.append(marks.entry(number, look, label, ", mean"))
        for number, (label, run) in enumerate(zip(comparison.labels, comparison.pairs[0], strict=True)):
            if run.jumps.any():
                jump = Line2D([], [], linestyle="none", **marks.points(number, look, hollow=False))
                found.append((jump, f"{marks.literal(label)}: jump between blocks"))
        if (comparison.effects[SPEED].b == 0).any():
            found.append((Line2D([], [], **marks.zero_stroke(1, look)), "exactly 0"))
    if any(run.shared for run in comparison.pairs[0]):
        found.append((tuple(Patch(facecolor=grey) for grey in SHADES), "timesteps shared in a block"))
    hue = marks.colour(EFFECT)
    line = Line2D([], [], color=hue, marker="o", markersize=1.8 * look.scale)
    found.append(((Patch(facecolor=hue, alpha=INTERVAL_OPACITY), line), "paired ratio or difference, 95 % interval"))
    if SPEED in comparison.effects:
        dark = Patch(facecolor="0.2", alpha=INTERVAL_OPACITY + QUANTILE_OPACITY)
        found.append((dark, "95 % interval of the mean"))
        spread = "5 to 95 % of the draws" if len(comparison.pairs) == 1 else "range of training seeds"
        found.append((Patch(facecolor="0.2", alpha=QUANTILE_OPACITY), spread))
    return found


def caption(comparison: Comparison) -> str:
    """Words for under the figure."""
    a, b = comparison.labels
    run = comparison.pairs[0][0]
    said = [f"{b} (second) against {a} (first), measured alike on {run.data}"]
    if SPEED in comparison.effects:
        said.append(
            f"K(t, t') = |eps(x_t, t) - eps(x_t, t')|_2 / |t - t'| in {run.unit}, Euclidean norm over all entries of "
            "a sample"
        )
    if "loss" in comparison.effects:
        said.append("Loss: squared error of the predicted noise, mean over entries")
    if "sensitivity" in comparison.effects:
        about = run.dataset["sensitivity"].attrs.get("long_name", "change of the sample per change of x")
        said.append(f"Sensitivity: {about}")
    if comparison.quality is not None:
        said.append(f"FID and KID: {comparison.quality.extractor}; grey points are single seeds")
    said.append(f"Intervals are at 95 %, {comparison.method}")
    return ". ".join(said) + "."
