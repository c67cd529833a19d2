"""How a quantity is spread over draws: what a mean hides, and what a maximum over draws can say.

A maximum over n draws is a lower bound of a Lipschitz constant that grows with n; the band of an empirical
distribution is that of Dvoretzky, Kiefer and Wolfowitz: with probability 95 %, sup |F_n - F| <= sqrt(log(40) / 2n).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..printing import Row
from ..results.curve import DERIVATIVES, Curve, curves
from ..results.run import Run
from . import captions, marks
from .canvas import Picture
from .exhibit import symbol
from .style import INTERVAL_OPACITY, QUANTILE_OPACITY, Style, colour

SLICES = 4


def distribution(canvas: Picture, runs: Sequence[Run], variable: str | None = None) -> None:
    """The draws of a variable, at every timestep and at four of them in full.

    Args:
        canvas: To draw on.
        runs: A row of panels each.
        variable: Any with one number a draw; by default the difference quotient or the derivative in time.

    Raises:
        UsageError: If a run lacks the variable, or it has more than one number a draw.
    """
    for run in runs:
        if variable is not None and run.has(variable) and run.dataset[variable].dims != ("time", "draw"):
            raise UsageError(f"{variable} has several numbers a draw; distribution shows variables with one")
    each, look = curves(list(runs), variable), canvas.style
    name = each[0].variable
    described = runs[0].dataset[name].attrs
    unit = runs[0].unit if name in DERIVATIVES else described.get("units", "1")
    axes = iter(canvas.panels(2 * len(each)))
    steps_rows = []
    for curve, fan, steps in zip(each, axes, axes, strict=True):
        draw_fan(fan, curve, look)
        fan.set_ylabel(f"{symbol(curve.run, name)}  [{unit}]")
        canvas.title(fan, marks.literal(curve.run.label))
        steps_rows += draw_steps(steps, curve, look)
        canvas.title(steps, "draws, 95 % band")
    marks.key(canvas, 0, "mean")
    canvas.key("largest draw", **largest(look))
    marks.band_keys(canvas)
    canvas.rows = [row for curve in each for row in curve.rows()] + steps_rows
    canvas.said = [
        f"Spread over draws of {described.get('long_name', name)}, unit {unit} (norm: "
        f"{described.get('norm', 'unknown')})",
        f"Left: mean of {captions.of_curves(each)} with the {captions.INTERVAL}, quantiles, and the largest draw, "
        "which is a lower bound of a Lipschitz constant and grows with n",
        "Right: share of draws at or below a multiple of the mean, at single timesteps, with the 95 % band of "
        "Dvoretzky, Kiefer and Wolfowitz",
    ]


def draw_fan(axes: Any, curve: Curve, look: Style) -> None:
    """Mean, quantiles and largest draw over time."""
    run, s = curve.run, curve.statistics
    marks.over_time(axes, run)
    usable = ~curve.zero & np.isfinite(s.mean)
    positive = bool((s.q05[usable] > 0).all())
    axes.set_yscale("log" if positive else "linear")
    floor = float(s.q05[usable].min()) / 2 if positive and usable.any() else -np.inf
    for low, high, opacity in ((s.q05, s.q95, QUANTILE_OPACITY), (s.low, s.high, INTERVAL_OPACITY)):
        marks.fill(axes, run.x, np.where(usable, low, np.nan), high, 0, opacity, floor)
    axes.plot(run.x, np.where(usable, s.mean, np.nan), **marks.stroke(0, look), zorder=5)
    axes.plot(run.x, np.where(usable, s.max, np.nan), **largest(look), zorder=4)


def largest(look: Style) -> dict[str, Any]:
    """How the largest draws look."""
    size = {"markersize": 2.6 * look.scale, "markeredgewidth": 0}
    return {"color": colour(4), "linestyle": "none", "marker": "v", **size}


def draw_steps(axes: Any, curve: Curve, look: Style) -> list[Row]:
    """Empirical distributions of the draws over their mean, and their rows."""
    run, s = curve.run, curve.statistics
    values = run.values(curve.variable)
    rows: list[Row] = []
    for number, i in enumerate(marks.chosen(run.x, ~curve.zero & (s.mean > 0), SLICES)):
        draws = np.sort(values[i][np.isfinite(values[i])]) / s.mean[i]
        share = np.arange(1, draws.size + 1) / draws.size
        margin = np.sqrt(np.log(2 / 0.05) / (2 * draws.size))
        low, high = np.clip(share - margin, 0, 1), np.clip(share + margin, 0, 1)
        axes.fill_between(draws, low, high, step="post", color=colour(number), alpha=QUANTILE_OPACITY)
        stroke = {**marks.stroke(number, look), "markevery": max(1, draws.size // 5)}
        axes.plot(draws, share, drawstyle="steps-post", **stroke, label=f"$t={run.timestep[i]:.3g}$")
        place: Row = {
            "series": run.label,
            "variable": curve.variable,
            "kind": "draw",
            "timestep": float(run.timestep[i]),
        }
        for numbers in zip(draws, share, low, high, strict=True):
            named = zip(("over_mean", "share", "share_low", "share_high"), map(float, numbers), strict=True)
            rows.append({**place, **dict(named)})
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    axes.set(xlabel="draw over the mean  [1]", ylabel="share of draws  [1]")
    marks.inside(axes)
    return rows
