"""The Jacobian d eps / d x over time: how much the prediction can stretch x, expand it, and contract volumes.

For a true model J = -sigma grad^2 log q, and posterior covariances are positive, so that J has no eigenvalue above
1 / sigma: its one-sided constant lies below 1 / sigma and its trace below d / sigma, dashed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..results.curve import Curve
from ..results.run import Run, read
from ..results.statistics import Statistics, over_draws
from . import captions as wording
from . import marks
from .canvas import Picture, blank
from .style import DASHES, THEORY, Style, applied, preset

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Norm:
    """A panel.

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


PANELS = (
    Norm("spectral_norm", "spectral norm", r"$\|J\|_2$"),
    Norm("one_sided_lipschitz", "one-sided constant", r"$\lambda_{\max}(J{+}J^\top)\,/\,2$", bounded=True),
    Norm("squared_frobenius_norm", "Frobenius norm", r"$\|J\|_F$"),
    Norm("trace", "trace", r"$\mathrm{tr}\,J$", bounded=True),
)


def jacobian(*datasets: "xr.Dataset", labels: Sequence[str] | None = None, style: str = "iclr") -> Picture:
    """Norms of the Jacobian over time, as many of four as all runs have.

    Args:
        datasets: What `measure` returned.
        labels: What to call them.
        style: A preset's name.

    Raises:
        UsageError: If no norm was measured in all runs.
    """
    look, runs = preset(style), read(datasets, labels)
    shown = [panel for panel in PANELS if all(run.has(panel.quantity) for run in runs)]
    absent = [panel.quantity for panel in PANELS if panel not in shown]
    again = f"lipdiag measure {runs[0].checkpoint} {' '.join(f'--quantity {name}' for name in absent)} --out NEW.zarr"
    if not shown:
        raise UsageError(f"no norm of the Jacobian was measured in all of these runs; measure them with `{again}`")
    found = [[curve(run, panel) for run in runs] for panel in shown]
    with applied(look):
        picture, axes = blank(look, len(shown))
        for letter, panel, place, curves in zip("abcd", shown, axes, found, strict=False):
            draw(place, panel, curves, look)
            place.set_title(f"({letter}) {panel.title}")
        marks.legend(picture, entries(runs, shown, look), look)
    picture.rows = [row for curves in found for each in curves for row in each.rows()]
    if shown[0] is PANELS[0]:
        picture.rows += [
            row
            for run in runs
            for row in Curve(run, "spectral_norm_upper", run.statistics("spectral_norm_upper")).rows()
        ]
    confidence = runs[0].dataset["spectral_norm_upper"].attrs.get("confidence", "") if shown[0] is PANELS[0] else ""
    picture.caption = wording.caption(
        [
            "The Jacobian J = d eps / d x at x_t over time, without unit: operator norm from Euclidean to Euclidean, "
            "largest eigenvalue of its symmetric part, Frobenius norm (root of the mean square), trace",
            f"Means of {wording.draws((c.statistics.count for curves in found for c in curves), runs)} with the "
            f"{wording.INTERVAL}; light bands: 5 to 95 % of the draws",
            "The spectral norm's line is a lower bound that Krylov steps raise to the true value, the thin line above "
            f"it the mean of upper bounds (confidence {confidence})"
            if confidence
            else "",
            "Frobenius norm and trace are estimated with random probes, whose errors are part of the spread",
            "" if any(run.raw for run in runs) else "Dashed: no true model exceeds 1 / sigma (the trace: d / sigma)",
            f"Not measured: {', '.join(absent)} (`{again}`)" if absent else "",
        ]
    )
    return picture


def curve(run: Run, panel: Norm) -> Curve:
    """A norm of a run; of the squared Frobenius norm the root of its mean."""
    s = run.statistics(panel.quantity)
    if panel.quantity != "squared_frobenius_norm":
        return Curve(run, panel.quantity, s)
    roots = {name: np.sqrt(np.maximum(getattr(s, name), 0)) for name in s.__dataclass_fields__ if name != "count"}
    roots["low"] = np.where(np.isfinite(s.low), roots["low"], s.low)  # of a single draw -infinity
    with np.errstate(invalid="ignore", divide="ignore"):
        roots["standard_error"] = s.standard_error / (2 * roots["mean"])
    return Curve(run, "frobenius_norm", Statistics(**roots, count=s.count))


def draw(axes: Any, panel: Norm, curves: Sequence[Curve], look: Style) -> None:
    axes.set_xscale("log")
    lowest = min(float(np.nanmin(each.statistics.q05)) for each in curves)
    axes.set_yscale("log" if lowest > 0 else "linear")
    for number, each in enumerate(curves):
        marks.mean(axes, each.run.x, each.statistics, number, look)
        if panel.quantity == "spectral_norm":
            upper = each.run.statistics("spectral_norm_upper")
            dashes = {"color": marks.colour(number), "linestyle": DASHES[number % len(DASHES)]}
            axes.plot(each.run.x, upper.mean, **dashes, linewidth=0.6 * look.scale, zorder=5)
    if panel.bounded and not any(each.run.raw for each in curves):
        run = curves[0].run
        most = (run.dimension or 1 if panel.quantity == "trace" else 1) / run.time("sigma")
        bottom, top = axes.get_ylim()
        axes.plot(run.x, most, **limit(look), zorder=1)
        axes.set_ylim(bottom, min(max(top, 1.1 * float(most.max())), 3 * top) if lowest > 0 else top)
    axes.set_xlabel(curves[0].run.axis)
    axes.set_ylabel(f"{panel.symbol}  [1]")


def limit(look: Style) -> dict[str, Any]:
    return {"color": THEORY, "linestyle": (0, (6, 2)), "linewidth": 0.8 * look.scale}


def entries(runs: Sequence[Run], shown: Sequence[Norm], look: Style) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    found = [marks.entry(n, look, run.label) for n, run in enumerate(runs)]
    if shown[0] is PANELS[0]:
        found.append((Line2D([], [], color="0.2", linewidth=0.6 * look.scale), "upper bound"))
    if any(panel.bounded for panel in shown) and not any(run.raw for run in runs):
        found.append((Line2D([], [], **limit(look)), "bound of a true model"))
    return [*found, *marks.band_entries()]


def spectrum(*datasets: "xr.Dataset", labels: Sequence[str] | None = None, style: str = "iclr") -> Picture:
    """The leading singular values of the Jacobian over time, and over their rank at single timesteps.

    Args:
        datasets: What `measure` returned, with the quantity `singular_values`.
        labels: What to call them.
        style: A preset's name.

    Raises:
        UsageError: If a run lacks them.
    """
    look, runs = preset(style), read(datasets, labels)
    for run in runs:
        run.demand(["singular_values", "singular_values_residual"], "singular_values")
    with applied(look):
        picture, axes = blank(look, 2 * len(runs))
        for n, run in enumerate(runs):
            over_time, over_rank = axes[2 * n : 2 * n + 2]
            ranks = ranked(run)
            draw_ranks(over_time, over_rank, run, ranks, look)
            over_time.set_title(f"({marks.letter(2 * n)}) {marks.literal(run.label)}")
            over_rank.set_title(f"({marks.letter(2 * n + 1)}) at single timesteps")
            picture.rows += [
                {"rank": rank, **row}
                for rank, s in enumerate(ranks, 1)
                for row in Curve(run, "singular_values", s).rows()
            ]
    residual = max(
        float((run.dataset["singular_values_residual"] / run.dataset["singular_values"].isel(rank=0)).max())
        for run in runs
    )
    counts = [s.count for run in runs for s in ranked(run)]
    picture.caption = wording.caption(
        [
            f"The {len(ranked(runs[0]))} largest singular values of J = d eps / d x, operator norm from Euclidean to "
            "Euclidean, without unit",
            f"Means of {wording.draws(counts, runs)} with the {wording.INTERVAL}",
            "Each is a lower bound of the true value of its rank, and within its residual of a true one; the largest "
            f"residual is {residual:.2g} of the largest singular value there",
        ]
    )
    return picture


def ranked(run: Run) -> list[Statistics]:
    """Statistics of each rank over time."""
    values = run.values("singular_values")
    return [over_draws(values[..., rank]) for rank in range(values.shape[-1])]


def draw_ranks(over_time: Any, over_rank: Any, run: Run, ranks: Sequence[Statistics], look: Style) -> None:
    over_time.set_xscale("log")
    for axes in (over_time, over_rank):
        axes.set_yscale("log")
        axes.set_ylabel(r"singular value $\sigma_i(J)$  [1]")
    for number, s in enumerate(ranks):
        marks.mean(over_time, run.x, s, number, look, spread=False)
        over_time.lines[-1].set_label(f"$i={number + 1}$")
    over_time.set_xlabel(run.axis)
    marks.inside(over_time)
    places = np.arange(1, len(ranks) + 1)
    for number, i in enumerate(marks.chosen(run.x, ranks[0].mean > 0, 4)):
        row = Statistics(
            **{name: np.array([getattr(s, name)[i] for s in ranks]) for name in Statistics.__dataclass_fields__}
        )
        marks.mean(over_rank, places, row, number, look, spread=False)
        over_rank.lines[-1].set_label(f"$t={run.timestep[i]:.3g}$")
    over_rank.set_xticks(places)
    over_rank.set_xlabel("rank $i$")
    marks.inside(over_rank)
