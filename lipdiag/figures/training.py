"""How a training went: loss, gradient, learning rate, and the singularity growing with it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..printing import Row
from ..results.statistics import Statistics, over_draws
from . import captions as wording
from . import marks
from .canvas import Picture, blank
from .style import Style, applied, preset

if TYPE_CHECKING:
    import xarray as xr

BLOCKS = 40
"""Stretches of steps whose means are drawn."""

NORMAL = 1.959964
SLICES = 4
CURVES = {
    "loss": ("loss", "loss  [1]"),
    "gradient_norm": ("norm of the gradient", "Euclidean norm  [1]"),
    "learning_rate": ("learning rate", "learning rate  [1]"),
}


def training(*datasets: "xr.Dataset", labels: Sequence[str] | None = None, style: str = "iclr") -> Picture:
    """Curves of one or several trainings.

    Args:
        datasets: Each with `loss`, `gradient_norm`, `learning_rate` over `step`, and with `mean` and
            `standard_error` over (`measured`, `timestep`) where K was measured on the way.
        labels: What to call them.
        style: A preset's name.

    Raises:
        UsageError: If one is no training.
    """
    look = preset(style)
    for dataset in datasets:
        if "loss" not in dataset.data_vars or "step" not in dataset.dims:
            raise UsageError(
                "this dataset is no training; give the folder that `lipdiag train` wrote, with its log.csv"
            )
    names = list(labels or [str(dataset.attrs.get("name", "training")) for dataset in datasets])
    measured = [n for n, dataset in enumerate(datasets) if "mean" in dataset.data_vars]
    with applied(look):
        picture, axes = blank(look, len(CURVES) + len(measured))
        for letter, place, (variable, (title, label)) in zip("abc", axes, CURVES.items(), strict=False):
            for number, (dataset, name) in enumerate(zip(datasets, names, strict=True)):
                picture.rows += draw(place, dataset, variable, name, number, look)
            place.set_xlabel("training step")
            place.set_ylabel(label)
            place.set_title(f"({letter}) {title}")
        for number, (place, n) in enumerate(zip(axes[len(CURVES) :], measured, strict=True), start=len(CURVES)):
            picture.rows += draw_measured(place, datasets[n], names[n], look)
            place.set_title(f"({marks.letter(number)}) {marks.literal(names[n])}: $K$")
        shown = [marks.entry(n, look, name) for n, name in enumerate(names)]
        marks.legend(picture, shown + marks.band_entries(spread=False), look)
    stretches = ", ".join(dict.fromkeys(str(stretch(dataset)) for dataset in datasets))
    picture.caption = wording.caption(
        [
            f"Training of {', '.join(names)}: loss (mean squared error per entry), Euclidean norm of the gradient over "
            "all weights, learning rate, without unit, over steps of the optimiser",
            f"Points: means of n = {stretches} logged steps each with the {wording.INTERVAL}, taken as independent",
            "K(t, t + 1) during training: Euclidean norm over all entries of a sample, unit 1/timestep; bands are 95 % "
            "intervals of one value by itself, 1.96 standard errors over the draws, which are the same at every step; "
            "how many there were the log does not tell"
            if measured
            else "K during training was not logged (`lipdiag train --measure-every`)",
        ]
    )
    return picture


def stretch(dataset: "xr.Dataset") -> int:
    """Logged steps in a point."""
    return max(1, dataset.sizes["step"] // BLOCKS)


def draw(axes: Any, dataset: "xr.Dataset", variable: str, name: str, number: int, look: Style) -> list[Row]:
    """Means over stretches of steps; the learning rate, which is set and not measured, step by step."""
    size, step = stretch(dataset), dataset["step"].values
    count = step.size // size
    x = step[: count * size].reshape(count, size).mean(1)
    s = over_draws(dataset[variable].values[: count * size].reshape(count, size).astype(np.float64))
    if variable == "learning_rate":
        axes.plot(step, dataset[variable].values, **{**marks.stroke(number, look), "markevery": max(1, step.size // 8)})
        axes.set_ylim(0)
    else:
        axes.set_yscale("log")
        marks.mean(axes, x, s, number, look, spread=False)
    return [
        {
            "series": name,
            "variable": variable,
            "step": float(x[i]),
            "mean": float(s.mean[i]),
            "low": float(s.low[i]),
            "high": float(s.high[i]),
            "steps": int(s.count[i]),
        }
        for i in range(count)
    ]


def draw_measured(axes: Any, dataset: "xr.Dataset", name: str, look: Style) -> list[Row]:
    """K at a few timesteps over training."""
    timestep, step = dataset["timestep"].values, dataset["measured"].values
    axes.set_yscale("log")
    found: list[Row] = []
    for number, j in enumerate(marks.chosen(timestep + 1, np.isfinite(timestep), SLICES)):
        mean, error = dataset["mean"].values[:, j], dataset["standard_error"].values[:, j]
        low, high = mean - NORMAL * error, mean + NORMAL * error
        positive = mean > 0
        blank = np.full_like(mean, np.nan)
        fields = dict.fromkeys(Statistics.__dataclass_fields__, blank)
        shown = {"mean": np.where(positive, mean, np.nan), "low": low, "high": high, "standard_error": error}
        if positive.any():
            marks.mean(axes, step, Statistics(**{**fields, **shown}), number, look, spread=False)
            axes.lines[-1].set_label(f"$t={timestep[j]:.3g}$")
        found += [
            {
                "series": name,
                "variable": "time_difference",
                "step": float(step[i]),
                "timestep": float(timestep[j]),
                "mean": float(mean[i]),
                "low": float(low[i]),
                "high": float(high[i]),
            }
            for i in range(step.size)
        ]
    axes.set_xlabel("training step")
    axes.set_ylabel(r"$K(t,\,t{+}1)$  [1/timestep]")
    marks.inside(axes)
    return found
