"""Partial against total: how fast the prediction changes at a fixed x, and how fast along the sampler's own path.

The partial derivative in the timestep is the one that is singular near t = 0; a solver of the probability-flow ODE
meets the total one, d eps/dt = partial + J dx/dt, in which much of it may cancel.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..results.curve import Curve
from ..results.run import Run, read, same_time
from ..results.statistics import Statistics, over_draws
from . import captions as wording
from . import marks
from .canvas import Picture, blank
from .style import applied, preset

if TYPE_CHECKING:
    import xarray as xr

PARTIAL, TOTAL = "time_derivative", "trajectory_derivative"
NAMES = {PARTIAL: "partial, fixed $x$", TOTAL: "total, along the trajectory"}


def derivatives(*datasets: "xr.Dataset", labels: Sequence[str] | None = None, style: str = "iclr") -> Picture:
    """Both derivatives of one or several runs, and their ratio.

    Args:
        datasets: What `measure` returned.
        labels: What to call them.
        style: A preset's name.

    Raises:
        UsageError: If a run lacks one of them, or the time axes differ.
    """
    look, runs = preset(style), read(datasets, labels)
    same_time(runs)
    for run in runs:
        run.demand([PARTIAL, TOTAL], f"{PARTIAL} --quantity {TOTAL}")
    curves = [Curve(run, name, run.statistics(name)) for run in runs for name in (PARTIAL, TOTAL)]
    shares = [Curve(run, "ratio", ratio(run)) for run in runs]
    first = runs[0]
    with applied(look):
        picture, (both, share) = blank(look, 2)
        both.set_xscale("log")
        both.set_yscale("log")
        share.set_xscale("log")
        for number, curve in enumerate(curves):
            marks.mean(both, curve.run.x, positive(curve), number, look)
        for number, curve in enumerate(shares):
            marks.mean(share, curve.run.x, curve.statistics, 2 * number + 1, look, spread=False)
        share.axhline(1, color="0.5", linewidth=0.6, zorder=1)
        share.set_ylim(0)
        for axes, title in ((both, "(a) speed of the prediction"), (share, "(b) total over partial")):
            axes.set_xlabel(first.axis)
            axes.set_title(title)
        both.set_ylabel(rf"$\|d\epsilon_\theta/dt\|_2$  [{first.unit}]")
        share.set_ylabel("ratio of the means  [1]")
        marks.legend(
            picture,
            [
                *(marks.entry(n, look, c.run.label, f": {NAMES[c.variable]}") for n, c in enumerate(curves)),
                *marks.band_entries(),
            ],
            look,
        )
    picture.rows = [row for curve in [*curves, *shares] for row in curve.rows()]
    still = [run.label for run in runs if run.shared]
    picture.caption = wording.caption(
        [
            "Speed of the noise prediction: |d eps/dt|_2 at fixed x (partial) and along the probability-flow "
            "trajectory (total), exact derivatives in the model's own time",
            f"{wording.norm(first)}, unit {first.unit}{wording.own_time(first)}",
            f"Means of {wording.draws((c.statistics.count for c in curves), runs)} with the {wording.INTERVAL}; "
            "light bands: 5 to 95 % of the draws",
            "(b) Mean of the total over mean of the partial derivative, with its interval by the delta method over "
            "the same draws; below 1, change in time and motion of x cancel",
            f"{', '.join(still)} shares timesteps: the partial derivative is exactly 0 inside its blocks, where no "
            "curve is drawn, and neither derivative sees its jumps"
            if still
            else "",
        ]
    )
    return picture


def positive(curve: Curve) -> Statistics:
    """Without exact zeros, which a logarithmic scale cannot show."""
    s = curve.statistics
    return Statistics(**{name: np.where(curve.zero, np.nan, getattr(s, name)) for name in s.__dataclass_fields__})


def ratio(run: Run) -> Statistics:
    """Mean of the total over mean of the partial derivative.

    With r the ratio of the means a / b, the draws of r + (A - r B) / b have mean r and its standard error to first
    order, so that Student's interval of them is that of the delta method.
    """
    A, B = run.values(TOTAL), run.values(PARTIAL)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = np.nanmean(A, 1, keepdims=True), np.nanmean(B, 1, keepdims=True)
        return over_draws(a / b + (A - a / b * B) / b)
