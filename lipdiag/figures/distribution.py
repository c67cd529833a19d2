"""How a quantity is spread over draws: what a mean hides, and what a maximum over draws can say.

A maximum over n draws is a lower bound of a Lipschitz constant that grows with n; the band of an empirical
distribution is that of Dvoretzky, Kiefer and Wolfowitz: with probability 95 %, sup |F_n - F| <= sqrt(log(40) / 2n).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..printing import Row
from ..results.curve import DERIVATIVES, Curve, curves
from ..results.run import read
from . import captions as wording
from . import marks
from .canvas import Picture, blank
from .style import Style, applied, preset

if TYPE_CHECKING:
    import xarray as xr

SLICES = 4
MARGIN = 1.15


def distribution(
    *datasets: "xr.Dataset", variable: str | None = None, labels: Sequence[str] | None = None, style: str = "iclr"
) -> Picture:
    """The draws of a variable, at every timestep and at four of them in full.

    Args:
        datasets: What `measure` returned.
        variable: Any with one number a draw; by default the difference quotient or the derivative in time.
        labels: What to call them.
        style: A preset's name.

    Raises:
        UsageError: If a run lacks the variable, or it has more than one number a draw.
    """
    look, runs = preset(style), read(datasets, labels)
    for run in runs:
        if variable is not None and run.has(variable) and run.dataset[variable].dims != ("time", "draw"):
            raise UsageError(f"{variable} has several numbers a draw; distribution shows variables with one")
    found = curves(runs, variable)
    name = found[0].variable
    described = runs[0].dataset[name].attrs
    unit = runs[0].unit if name in DERIVATIVES else described.get("units", "1")
    text = f"{described.get('long_name', name)}"
    with applied(look):
        picture, axes = blank(look, 2 * len(found))
        for n, curve in enumerate(found):
            fan, steps = axes[2 * n : 2 * n + 2]
            draw_fan(fan, curve, look)
            fan.set_ylabel(f"{SHORT.get(name, name)}  [{unit}]")
            fan.set_title(f"({marks.letter(2 * n)}) {marks.literal(curve.run.label)}")
            picture.rows += draw_steps(steps, curve, look)
            steps.set_title(f"({marks.letter(2 * n + 1)}) draws, 95 % band")
        marks.legend(picture, entries(look), look)
    picture.rows = [row for curve in found for row in curve.rows()] + picture.rows
    picture.caption = wording.caption(
        [
            f"Spread over draws of {text}, unit {unit} (norm: {described.get('norm', 'unknown')})",
            f"Left: mean of {wording.draws((c.statistics.count for c in found), runs)} with the {wording.INTERVAL}, "
            "quantiles, and the largest draw, which is a lower bound of a Lipschitz constant and grows with n",
            "Right: share of draws at or below a multiple of the mean, at single timesteps, with the 95 % band of "
            "Dvoretzky, Kiefer and Wolfowitz",
        ]
    )
    return picture


SHORT = {"time_difference": r"$K(t,\,t^\prime)$", "time_derivative": r"$\|\partial_t\,\epsilon_\theta\|_2$"}


def draw_fan(axes: Any, curve: Curve, look: Style) -> None:
    run, s = curve.run, curve.statistics
    axes.set_xscale("log")
    usable = ~curve.zero & np.isfinite(s.mean)
    positive = bool((s.q05[usable] > 0).all())
    axes.set_yscale("log" if positive else "linear")
    for low, high, opacity in ((s.q05, s.q95, marks.QUANTILE_OPACITY), (s.low, s.high, marks.INTERVAL_OPACITY)):
        floor = float(s.q05[usable].min()) / 2 if positive and usable.any() else -np.inf
        marks.fill(axes, run.x, np.where(usable, low, np.nan), high, 0, opacity, floor)
    axes.plot(run.x, np.where(usable, s.mean, np.nan), **marks.stroke(0, look), zorder=5)
    axes.plot(run.x, np.where(usable, s.max, np.nan), **largest(look), zorder=4)
    axes.set_xlabel(run.axis)


def largest(look: Style) -> dict[str, Any]:
    return {
        "color": marks.colour(4),
        "linestyle": "none",
        "marker": "v",
        "markersize": 2.6 * look.scale,
        "markeredgewidth": 0,
    }


def draw_steps(axes: Any, curve: Curve, look: Style) -> list[Row]:
    """Empirical distributions of the draws over their mean."""
    run, s = curve.run, curve.statistics
    values = run.values(curve.variable)
    found: list[Row] = []
    for number, i in enumerate(marks.chosen(run.x, ~curve.zero & (s.mean > 0), SLICES)):
        draws = np.sort(values[i][np.isfinite(values[i])]) / s.mean[i]
        share = np.arange(1, draws.size + 1) / draws.size
        margin = np.sqrt(np.log(2 / 0.05) / (2 * draws.size))
        low, high = np.clip(share - margin, 0, 1), np.clip(share + margin, 0, 1)
        axes.fill_between(draws, low, high, step="post", color=marks.colour(number), alpha=marks.QUANTILE_OPACITY)
        look_of = {**marks.stroke(number, look), "markevery": max(1, draws.size // 5)}
        axes.plot(draws, share, drawstyle="steps-post", **look_of, label=f"$t={run.timestep[i]:.3g}$")
        found += [
            {
                "series": run.label,
                "variable": curve.variable,
                "kind": "draw",
                "timestep": float(run.timestep[i]),
                "over_mean": float(d),
                "share": float(p),
                "share_low": float(a),
                "share_high": float(b),
            }
            for d, p, a, b in zip(draws, share, low, high, strict=True)
        ]
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    axes.set_xlabel("draw over the mean  [1]")
    axes.set_ylabel("share of draws  [1]")
    marks.inside(axes)
    return found


def entries(look: Style) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    return [
        marks.entry(0, look, "mean"),
        (Line2D([], [], **largest(look)), "largest draw"),
        *marks.band_entries(),
    ]
