"""The Jacobian d eps / d x over time: how much the prediction can stretch x, expand it, and contract volumes.

For a true model J = -sigma grad^2 log q, and posterior covariances are positive, so that J has no eigenvalue above
1 / sigma: its one-sided constant lies below 1 / sigma and its trace below d / sigma, dashed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..results.command import again
from ..results.curve import Curve
from ..results.distribution import Statistics, over_draws
from ..results.run import Run
from . import captions, marks
from .canvas import Picture
from .style import THEORY, Style, appearance


@dataclass(frozen=True)
class Norm:
    """What a panel shows.

    Attributes:
        quantity: What `measure` is asked for, and the variable's name.
        title: Of the panel.
        symbol: Of its axis.
        bounded: Whether no true model has more than 1 / sigma of it, per dimension for the trace.
    """

    quantity: str
    title: str
    symbol: str
    bounded: bool = False


DARK = "0.2"
"""The colour of upper bounds."""

UPPER = "spectral_norm_upper"
NORMS = (
    Norm("spectral_norm", "spectral norm", r"$\|J\|_2$"),
    Norm("one_sided_lipschitz", "one-sided constant", r"$\lambda_{\max}(J{+}J^\top)\,/\,2$", bounded=True),
    Norm("squared_frobenius_norm", "Frobenius norm", r"$\|J\|_F$"),
    Norm("trace", "trace", r"$\mathrm{tr}\,J$", bounded=True),
)


def jacobian(canvas: Picture, runs: Sequence[Run]) -> None:
    """Norms of the Jacobian over time, as many of four as all runs have."""
    norms = [norm for norm in NORMS if all(run.has(norm.quantity) for run in runs)]
    absent = [norm.quantity for norm in NORMS if norm not in norms]
    certified, true = norms[0] is NORMS[0], not any(run.raw for run in runs)
    drawn = true and any(norm.bounded for norm in norms)
    curves = [[curve(run, norm) for run in runs] for norm in norms]
    look = canvas.style
    for norm, axes, each in zip(norms, canvas.panels(len(norms)), curves, strict=True):
        draw(axes, norm, each, look, norm.bounded and true)
        canvas.title(axes, norm.title)
    for number, run in enumerate(runs):
        marks.key(canvas, number, run.label)
    if certified:
        canvas.key("upper bound", color=DARK, linewidth=0.6 * look.scale)
        curves.append([Curve(run, UPPER, run.statistics(UPPER)) for run in runs])
    if drawn:
        canvas.key("bound of a true model", **limit(look))
    marks.band_keys(canvas)
    canvas.rows = [row for each in curves for curve in each for row in curve.rows()]
    confidence = runs[0].dataset[UPPER].attrs.get("confidence", "") if certified else ""
    asked = " ".join(f"--quantity {name}" for name in absent)
    canvas.said = [
        "The Jacobian J = d eps / d x at x_t over time, without unit: operator norm from Euclidean to Euclidean, "
        "largest eigenvalue of its symmetric part, Frobenius norm (root of the mean square), trace",
        f"Means of {captions.of_curves([c for each in curves[: len(norms)] for c in each])} with the "
        f"{captions.INTERVAL}; light bands: 5 to 95 % of the draws",
        "The spectral norm's line is a lower bound that Krylov steps raise to the true value, the thin line above "
        f"it the mean of upper bounds (confidence {confidence})"
        if confidence
        else "",
        "Frobenius norm and trace are estimated with random probes, whose errors are part of the spread",
        "Dashed: no true model exceeds 1 / sigma (the trace: d / sigma)" if drawn else "",
        f"Not measured: {', '.join(absent)} (`{again(runs[0].dataset, asked)}`)" if absent else "",
    ]


def curve(run: Run, norm: Norm) -> Curve:
    """A norm of a run; of the squared Frobenius norm the root of its mean."""
    s = run.statistics(norm.quantity)
    if norm.quantity != "squared_frobenius_norm":
        return Curve(run, norm.quantity, s)
    roots = s.map(lambda values: np.sqrt(np.maximum(values, 0)))
    low = np.where(np.isfinite(s.low), roots.low, s.low)  # of a single draw -infinity
    with np.errstate(invalid="ignore", divide="ignore"):
        error = s.standard_error / (2 * roots.mean)
    return Curve(run, "frobenius_norm", replace(roots, low=low, standard_error=error))


def draw(axes: Any, norm: Norm, curves: Sequence[Curve], look: Style, bounded: bool) -> None:
    """A norm of all runs, with the bound of a true model where it has one."""
    marks.over_time(axes, curves[0].run)
    lowest = min(float(np.nanmin(each.statistics.q05)) for each in curves)
    axes.set_yscale("log" if lowest > 0 else "linear")
    for number, each in enumerate(curves):
        marks.means(axes, each.run.x, each.statistics, number, look)
        if norm.quantity == "spectral_norm":
            dashes = appearance(number)[1]  # dark: in the run's colour it would hide under a line a few per cent below
            upper = each.run.statistics(UPPER).mean
            axes.plot(each.run.x, upper, color=DARK, linestyle=dashes, linewidth=0.6 * look.scale, zorder=5)
    if bounded:
        run = curves[0].run
        most = (run.dimension or 1 if norm.quantity == "trace" else 1) / run.time("sigma")
        bottom, top = axes.get_ylim()
        axes.plot(run.x, most, **limit(look), zorder=1)
        axes.set_ylim(bottom, min(max(top, 1.1 * float(most.max())), 3 * top) if lowest > 0 else top)
    axes.set_ylabel(f"{norm.symbol}  [1]")


def limit(look: Style) -> dict[str, Any]:
    """How the bound of a true model looks."""
    return {"color": THEORY, "linestyle": (0, (6, 2)), "linewidth": 0.8 * look.scale}


def spectrum(canvas: Picture, runs: Sequence[Run]) -> None:
    """The leading singular values of the Jacobian over time, and over their rank at single timesteps."""
    axes = iter(canvas.panels(2 * len(runs)))
    counted = []
    for run, over_time, over_rank in zip(runs, axes, axes, strict=True):
        values = run.values("singular_values")
        ranks = [over_draws(values[..., rank]) for rank in range(values.shape[-1])]
        draw_ranks(over_time, over_rank, run, ranks, canvas.style)
        canvas.title(over_time, marks.literal(run.label))
        canvas.title(over_rank, "at single timesteps")
        for rank, s in enumerate(ranks, 1):
            canvas.rows += [{"rank": rank, **row} for row in Curve(run, "singular_values", s).rows()]
        counted += ranks
    residual = max(
        float((run.dataset["singular_values_residual"] / run.dataset["singular_values"].isel(rank=0)).max())
        for run in runs
    )
    canvas.said = [
        f"The {runs[0].dataset.sizes['rank']} largest singular values of J = d eps / d x, operator norm from Euclidean "
        "to Euclidean, without unit",
        f"Means of {captions.draws(counted, runs)} with the {captions.INTERVAL}",
        "Each is a lower bound of the true value of its rank, and within its residual of a true one; the largest "
        f"residual is {residual:.2g} of the largest singular value there",
    ]


def draw_ranks(over_time: Any, over_rank: Any, run: Run, ranks: Sequence[Statistics], look: Style) -> None:
    """Each rank over time, and some timesteps over the ranks."""
    marks.over_time(over_time, run)
    for axes in (over_time, over_rank):
        axes.set(yscale="log", ylabel=r"singular value $\sigma_i(J)$  [1]")
    for number, s in enumerate(ranks):
        marks.means(over_time, run.x, s, number, look, spread=False, name=f"$i={number + 1}$")
    marks.inside(over_time)
    places = np.arange(1, len(ranks) + 1)
    for number, i in enumerate(marks.chosen(run.x, ranks[0].mean > 0, 4)):
        row = Statistics(**{name: np.array([getattr(s, name)[i] for s in ranks]) for name in vars(ranks[0])})
        marks.means(over_rank, places, row, number, look, spread=False, name=f"$t={run.timestep[i]:.3g}$")
    over_rank.set_xticks(places)
    over_rank.set_xlabel("rank $i$")
    marks.inside(over_rank)
