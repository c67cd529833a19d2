"""How a training went: loss, gradient, learning rate, and the singularity growing with it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..printing import Row
from ..results.distribution import NORMAL, over_draws
from ..results.source import Source
from . import captions, marks
from .canvas import Picture
from .style import Style

if TYPE_CHECKING:
    import xarray as xr

BLOCKS = 40
"""Stretches of steps whose means are drawn."""

SLICES = 4
CURVES = {
    "loss": ("loss", "loss  [1]", "loss (mean squared error per entry)"),
    "gradient_norm": ("norm of the gradient", "Euclidean norm  [1]", "Euclidean norm of the gradient over all weights"),
    "learning_rate": ("learning rate", "learning rate  [1]", "learning rate, without unit"),
}


def training(canvas: Picture, trainings: Sequence[Source]) -> None:
    """Curves of one or several trainings.

    Args:
        canvas: To draw on.
        trainings: Each with `loss`, `gradient_norm`, `learning_rate` over `step`, and with `mean` and
            `standard_error` over (`measured`, `timestep`) where K was measured on the way.
    """
    look = canvas.style
    measured = [training for training in trainings if "mean" in training.dataset.data_vars]
    # a loop of the user's own need not tell all of them
    curves = {name: words for name, words in CURVES.items() if any(known(training, name) for training in trainings)}
    axes = canvas.panels(len(curves) + len(measured))
    for place, (variable, (title, label, _)) in zip(axes, curves.items(), strict=False):
        for number, training in enumerate(trainings):
            if known(training, variable):
                canvas.rows += draw(place, training, variable, number, look)
        place.set(xlabel="training step", ylabel=label)
        canvas.title(place, title)
    for place, training in zip(axes[len(curves) :], measured, strict=True):
        canvas.rows += draw_measured(place, training, look)
        canvas.title(place, f"{marks.literal(training.label)}: $K$")
    for number, training in enumerate(trainings):
        marks.key(canvas, number, training.label)
    marks.band_keys(canvas, spread="")
    stretches = ", ".join(dict.fromkeys(str(stretch(training.dataset)) for training in trainings))
    canvas.said = [
        f"Training of {', '.join(training.label for training in trainings)}: "
        f"{', '.join(words for *_, words in curves.values())}, over steps of the optimiser",
        f"Points: means of n = {stretches} logged steps each with the {captions.INTERVAL}, taken as independent",
        "K(t, t + 1) during training: Euclidean norm over all entries of a sample, unit 1/timestep; bands are 95 % "
        "intervals of one value by itself, 1.96 standard errors over the draws, which are the same at every step; "
        "how many there were the log does not tell"
        if measured
        else "K during training was not logged (`lipdiag train --measure-every`)",
    ]


def known(training: Source, variable: str) -> bool:
    """Whether the log tells it at any step."""
    return bool(np.isfinite(training.dataset[variable].values).any())


def stretch(dataset: "xr.Dataset") -> int:
    """Logged steps in a point."""
    return max(1, dataset.sizes["step"] // BLOCKS)


def draw(axes: Any, training: Source, variable: str, number: int, look: Style) -> list[Row]:
    """Means over stretches of steps; the learning rate, which is set and not measured, step by step."""
    step, values = training.dataset["step"].values, training.dataset[variable].values
    size = stretch(training.dataset)
    count = step.size // size
    x = step[: count * size].reshape(count, size).mean(1)
    s = over_draws(values[: count * size].reshape(count, size).astype(np.float64))
    if variable == "learning_rate":
        axes.plot(step, values, **{**marks.stroke(number, look), "markevery": max(1, step.size // 8)})
        axes.set_ylim(0)
    else:
        axes.set_yscale("log")
        marks.means(axes, x, s, number, look, spread=False)
    place = {"series": training.label, "variable": variable}
    return [{**place, "step": float(x[i]), **s.row(i, "steps")} for i in range(count)]


def draw_measured(axes: Any, training: Source, look: Style) -> list[Row]:
    """K at a few timesteps over training."""
    timestep, step = (training.dataset[name].values for name in ("timestep", "measured"))
    axes.set_yscale("log")
    rows: list[Row] = []
    for number, j in enumerate(marks.chosen(timestep + 1, np.isfinite(timestep), SLICES)):
        mean, error = (training.dataset[name].values[:, j] for name in ("mean", "standard_error"))
        low, high = mean - NORMAL * error, mean + NORMAL * error
        if (mean > 0).any():
            s = replace(over_draws(mean[:, None]), mean=np.where(mean > 0, mean, np.nan), low=low, high=high)
            marks.means(axes, step, s, number, look, spread=False, name=f"$t={timestep[j]:.3g}$")
        place: Row = {"series": training.label, "variable": "time_difference"}
        for i in range(step.size):
            numbers = {"mean": mean[i], "low": low[i], "high": high[i]}
            at = {"step": float(step[i]), "timestep": float(timestep[j])}
            rows.append({**place, **at, **{name: float(value) for name, value in numbers.items()}})
    axes.set(xlabel="training step", ylabel=r"$K(t,\,t{+}1)$  [1/timestep]")
    marks.inside(axes)
    return rows
