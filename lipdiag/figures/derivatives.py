"""Partial against total: how fast the prediction changes at a fixed x, and how fast along the sampler's own path.

The partial derivative in the timestep is the one that is singular near t = 0; a solver of the probability-flow ODE
meets the total one, d eps/dt = partial + J dx/dt, in which much of it may cancel.
"""

from collections.abc import Sequence

import numpy as np

from ..results.curve import Curve
from ..results.distribution import Statistics, over_draws
from ..results.run import Run
from . import captions, marks
from .canvas import Picture

PARTIAL, TOTAL = "time_derivative", "trajectory_derivative"
NAMES = {PARTIAL: "partial, fixed $x$", TOTAL: "total, along the trajectory"}


def derivatives(canvas: Picture, runs: Sequence[Run]) -> None:
    """Both derivatives of one or several runs, and their ratio."""
    first, look = runs[0], canvas.style
    curves = [Curve(run, name, run.statistics(name)) for run in runs for name in (PARTIAL, TOTAL)]
    ratios = [Curve(run, "ratio", ratio(run)) for run in runs]
    both, share = canvas.panels(2)
    both.set_yscale("log")
    for number, curve in enumerate(curves):
        positive = curve.statistics.where(~curve.zero)  # a logarithmic scale cannot show exact zeros
        marks.means(both, curve.run.x, positive, number, look)
        marks.key(canvas, number, curve.run.label, f": {NAMES[curve.variable]}")
    marks.band_keys(canvas)
    for number, curve in enumerate(ratios):
        marks.means(share, curve.run.x, curve.statistics, 2 * number + 1, look, spread=False)
    share.axhline(1, color="0.5", linewidth=0.6, zorder=1)
    share.set_ylim(0)
    for axes, title in ((both, "speed of the prediction"), (share, "total over partial")):
        marks.over_time(axes, first)
        canvas.title(axes, title)
    both.set_ylabel(rf"$\|d\epsilon_\theta/dt\|_2$  [{first.unit}]")
    share.set_ylabel("ratio of the means  [1]")
    canvas.rows = [row for curve in [*curves, *ratios] for row in curve.rows()]
    still = [run.label for run in runs if run.shared]
    canvas.said = [
        "Speed of the noise prediction: |d eps/dt|_2 at fixed x (partial) and along the probability-flow "
        "trajectory (total), exact derivatives in the model's own time",
        f"{captions.norm(first)}, unit {first.unit}{captions.own_time(first)}",
        f"Means of {captions.of_curves(curves)} with the {captions.INTERVAL}; light bands: 5 to 95 % of the draws",
        "(b) Mean of the total over mean of the partial derivative, with its interval by the delta method over "
        "the same draws; below 1, change in time and motion of x cancel",
        f"{', '.join(still)} shares timesteps: the partial derivative is exactly 0 inside its blocks, where no "
        "curve is drawn, and neither derivative sees its jumps"
        if still
        else "",
    ]


def ratio(run: Run) -> Statistics:
    """Mean of the total over mean of the partial derivative.

    With r the ratio of the means a / b, the draws of r + (A - r B) / b have mean r and its standard error to first
    order, so that Student's interval of them is that of the delta method.
    """
    A, B = run.values(TOTAL), run.values(PARTIAL)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = np.nanmean(A, 1, keepdims=True), np.nanmean(B, 1, keepdims=True)
        return over_draws(a / b + (A - a / b * B) / b)
