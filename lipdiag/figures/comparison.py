"""A model and its remedy in one figure: K of both, below it the ratio, and what else was measured.

K is drawn as in every figure: blocks shaded, exact zeros on a rail below the scale, jumps as stems. With one pair of
models the bands are over draws, with several over training seeds. Ratios and differences have their paired interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..comparison.comparison import Comparison, compare
from ..comparison.effect import mean
from ..comparison.pairs import values
from ..comparison.quality import METRICS
from ..comparison.statements import SPEED
from ..errors import UsageError
from ..printing import abbreviated
from ..results.curve import Curve
from ..results.distribution import over_draws
from ..results.run import Run
from . import marks
from .backend import Line2D, Patch
from .canvas import Picture, drawing
from .exhibit import Exhibit
from .singularity import draw_whole
from .style import INTERVAL_OPACITY, THEORY, Style, colour

SHORT = 0.72
"""Height of the ratio's panel, of a whole one's."""

LONGEST = 10
"""An interval of a jump that ends so many times above the largest ratio is cut; others are shown whole."""

EFFECT = 4
"""Number of the colour for what belongs to neither model: ratios and differences."""

Panel = Callable[[Any, Comparison, Style], str]
"""Draws into axes and returns their title."""


def model_and_remedy(canvas: Picture, runs: Sequence[Run], quality: "Sequence[tuple[Any, Any]]" = ()) -> None:
    """The figure of runs A, B, and of further pairs of training seeds after them.

    Args:
        canvas: To draw on.
        runs: Two a pair.
        quality: What `evaluate` wrote of both, a pair each.

    Raises:
        RunError: If they cannot be paired.
        UsageError: If they have nothing to show in common.
    """
    datasets = [run.dataset for run in runs]
    first, *others = zip(datasets[::2], datasets[1::2], strict=True)
    draw_comparison(canvas, compare(*first, others, quality, [run.label for run in runs[:2]]))


def draw(comparison: Comparison, style: str = "iclr") -> Picture:
    """The figure of a comparison that is there already.

    Args:
        comparison: What `compare` found.
        style: A preset's name.

    Raises:
        UsageError: If the runs have nothing to show, or there is no such style.
    """
    return drawing(draw_comparison, comparison, style)


def draw_comparison(canvas: Picture, comparison: Comparison) -> None:
    """Speeds and their ratio left, loss, sensitivity and the quality of samples right."""
    left: list[tuple[Panel, float]] = []
    if SPEED in comparison.effects:
        left += [(draw_speeds, 1.0), (draw_ratio, SHORT)]
    right: list[tuple[Panel, float]] = []
    for variable in [name for name in ("loss", "sensitivity") if name in comparison.effects]:
        right.append((partial(draw_average, variable=variable), SHORT if right else 1.0))
    if comparison.quality is not None:
        fid, kid = ((partial(draw_quality, metric=metric), 1.0) for metric in METRICS)
        if len(right) > 1:
            left.append(fid)
            right.append(kid)
        else:
            right.append(fid)
    if not left + right:
        raise UsageError("these runs have neither K nor loss nor sensitivity in common; measure one with both")
    for axes, (panel, _) in zip(stacked(canvas, left, right), left + right, strict=True):
        canvas.title(axes, panel(axes, comparison, canvas.style))
    keys(canvas, comparison)
    canvas.rows, canvas.said = comparison.rows(), sentences(comparison)


def stacked(canvas: Picture, left: list[tuple[Panel, float]], right: list[tuple[Panel, float]]) -> list[Any]:
    """Axes in columns, with these heights; one column where the preset has no room for two."""
    look = canvas.style
    columns = [left, right] if look.columns > 1 and left and right else [left + right]
    heights = [sum(height for _, height in column) for column in columns]
    canvas.set_size_inches(look.width, max(heights) * look.panel)
    grid = canvas.add_gridspec(1, len(columns))
    axes = []
    for i, column in enumerate(columns):
        inner = grid[0, i].subgridspec(len(column), 1, height_ratios=[height for _, height in column])
        axes += [canvas.add_subplot(inner[j, 0]) for j in range(len(column))]
    return axes


def draw_speeds(axes: Any, comparison: Comparison, look: Style) -> str:
    """K of both models."""
    exhibit = Exhibit([seeds_curve(comparison, side) for side in range(2)])
    draw_whole(axes, exhibit, look)
    axes.set_ylabel(f"$K(t, t')$  [{exhibit.first.unit}]")
    return "rate of change of the prediction"


def seeds_curve(comparison: Comparison, side: int) -> Curve:
    """K of one of the models: over draws, or over the means of training seeds."""
    runs = [pair[side] for pair in comparison.pairs]
    if len(runs) == 1:
        return Curve(runs[0], SPEED, runs[0].statistics(SPEED))
    seeds = np.stack([mean(values(run, SPEED)) for run in runs], -1)
    s = over_draws(seeds)
    return Curve(runs[0], SPEED, replace(s, q05=np.quantile(seeds, 0, axis=-1), q95=s.max))


def draw_ratio(axes: Any, comparison: Comparison, look: Style) -> str:
    """K of the second over the first: a line where neither is 0, points at jumps, crosses where the second is 0."""
    effect = comparison.effects[SPEED]
    jumps = np.logical_or(*(run.jumps for run in comparison.pairs[0]))
    zero = effect.b == 0
    axes.set_yscale("log")
    draw_effect(axes, comparison, effect.ratio, ~jumps & ~zero, look, 1.0, jumps & ~zero)
    low, high = axes.get_ylim()
    ratios = effect.ratio.value[np.isfinite(effect.ratio.value) & (effect.ratio.value > 0)]
    if ratios.size:
        tops = effect.ratio.high[jumps & ~zero & (effect.ratio.high < LONGEST * ratios.max())]
        low, high = min(0.5, ratios.min() / marks.MARGIN), max(2.0, np.append(tops, ratios.max()).max() * marks.MARGIN)
    rail = marks.Rail(low, bool(zero.any()))
    marks.zeros(axes, comparison.pairs[0][0].x, zero, rail.height, 1, look)
    axes.set_ylim(rail.floor, high)
    rail.draw(axes, high)
    axes.set_ylabel("ratio")
    return f"$K$, {over(comparison)}"


def draw_average(axes: Any, comparison: Comparison, look: Style, variable: str) -> str:
    """The paired difference of the losses, or the ratio of the sensitivities."""
    effect, by_ratio = comparison.effects[variable], variable == "sensitivity"
    interval = effect.ratio if by_ratio else effect.difference
    draw_effect(axes, comparison, interval, np.isfinite(interval.value), look, 1.0 if by_ratio else 0.0)
    axes.set_ylabel("ratio" if by_ratio else "difference  [1]")
    return f"{variable}, {over(comparison, '/' if by_ratio else 'minus')}"


def draw_effect(
    axes: Any, comparison: Comparison, interval: Any, line: np.ndarray, look: Style, none: float, points: Any = False
) -> None:
    """A ratio or difference over time with its paired interval, where there are lines or points, and where none is."""
    run = comparison.pairs[0][0]
    x = run.x
    for sharing in [each for each in comparison.pairs[0] if each.shared][:1]:
        marks.shade(axes, sharing)
    hue = colour(EFFECT)
    axes.axhline(none, color=THEORY, linewidth=0.6 * look.scale, zorder=1)
    masked = [np.where(line, bound, np.nan) for bound in interval]
    axes.fill_between(x, masked[1], masked[2], color=hue, alpha=INTERVAL_OPACITY, zorder=2)
    axes.plot(x, masked[0], color=hue, marker="o", markersize=1.8 * look.scale, markeredgewidth=0, zorder=4)
    if np.any(points):
        bounds = [bound[points] for bound in interval]
        axes.vlines(x[points], bounds[1], bounds[2], color=hue, linewidth=1.6 * look.scale, zorder=5)
        axes.plot(x[points], bounds[0], linestyle="none", color=hue, marker="D", markersize=3.2 * look.scale, zorder=5)
    marks.over_time(axes, run)
    axes.set_xlim(x.min() / 1.12, x.max() * 1.12)


def over(comparison: Comparison, sign: str = "/") -> str:
    """The second model over the first, or minus it."""
    a, b = map(marks.literal, abbreviated(comparison.labels))
    return f"{b} {sign} {a}"


def draw_quality(axes: Any, comparison: Comparison, look: Style, metric: str) -> str:
    """The paired difference of a distance with each sampler, and each seed's as a small point."""
    quality = comparison.quality
    assert quality is not None
    hue = colour(EFFECT)
    numbers = quality.values[metric]
    gaps = numbers[:, 1] - numbers[:, 0]  # (pair, sampler, seed)
    statements = [s for s in comparison.statements if s.variable == metric]
    axes.axhline(0, color=THEORY, linewidth=0.6 * look.scale, zorder=1)
    for i, statement in enumerate(statements):
        seeds = gaps[0, i] if len(gaps) == 1 else mean(gaps[:, i])
        axes.plot(
            np.full(seeds.size, i) + 0.18, seeds, linestyle="none", color="0.45", marker="o", markersize=2 * look.scale
        )
        value, low, high = statement.effect.difference
        if np.isfinite(low) and np.isfinite(high):
            axes.vlines(i, low, high, color=hue, linewidth=1.6 * look.scale, zorder=3)
        axes.plot(i, value, linestyle="none", color=hue, marker="D", markersize=3.4 * look.scale, zorder=4)
    axes.set_xticks(range(len(statements)), quality.samplers)
    axes.set(xlim=(-0.6, len(statements) - 0.4), ylabel="difference  [1]")
    return f"{METRICS[metric]}, {over(comparison, 'minus')}"


def keys(canvas: Picture, comparison: Comparison) -> None:
    """The legend."""
    look, measured = canvas.style, SPEED in comparison.effects
    if measured:
        for number, label in enumerate(comparison.labels):
            marks.key(canvas, number, label, ", mean")
        for number, (label, run) in enumerate(zip(comparison.labels, comparison.pairs[0], strict=True)):
            if run.jumps.any():
                marks.jump_key(canvas, number, f"{marks.literal(label)}: ")
        if (comparison.effects[SPEED].b == 0).any():
            marks.zero_key(canvas, 1)
    if any(run.shared for run in comparison.pairs[0]):
        marks.block_key(canvas)
    hue = colour(EFFECT)
    line = Line2D([], [], color=hue, marker="o", markersize=1.8 * look.scale)
    interval = Patch(facecolor=hue, alpha=INTERVAL_OPACITY), line
    canvas.keys.append((interval, "paired ratio or difference, 95 % interval"))
    if measured:
        marks.band_keys(canvas, "5 to 95 % of the draws" if len(comparison.pairs) == 1 else "range of training seeds")


def sentences(comparison: Comparison) -> list[str]:
    """The caption's."""
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
    return [*said, f"Intervals are at 95 %, {comparison.method}"]
