"""Many checkpoints of one training: K of each, and how its largest value, its mean, the norm and the loss move."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..findings.steps import at_top, averaged, in_order, over
from ..printing import Row
from ..results.run import Run
from . import marks
from .canvas import Picture
from .exhibit import gather
from .singularity import draw_whole, keys

MOST_CURVES = 8
"""Checkpoints whose curves are told apart; of more the first, the last and some between are drawn."""

PANELS = {"spectral_norm": ("spectral norm", r"$\|J\|_2$  [1]"), "loss": ("loss", "loss  [1]")}


def steps(canvas: Picture, runs: Sequence[Run], variable: str | None = None) -> None:
    """Curves of some checkpoints, and numbers of all of them over the steps of their training.

    Args:
        canvas: To draw on.
        runs: Of one training, measured by one plan.
        variable: `time_difference` or `time_derivative`; by default the first of them that all runs have.

    Raises:
        UsageError: If a run lacks it.
    """
    ordered, numbers = in_order(runs)
    few = np.unique(np.linspace(0, len(ordered) - 1, MOST_CURVES).round().astype(int))
    exhibit = gather([ordered[i] for i in few], variable, show_theory=False)
    others = [name for name in PANELS if all(run.has(name) for run in ordered)]
    whole, near, *rest = canvas.panels(2 + len(others))
    draw_whole(whole, exhibit, canvas.style)
    canvas.title(whole, "all timesteps")
    canvas.rows = exhibit.rows()
    x = np.array(numbers if numbers is not None else range(1, len(ordered) + 1), dtype=np.float64)
    unit = exhibit.first.unit
    for axes, name, title, label in (
        (near, exhibit.variable, "its largest value and mean", f"{exhibit.symbol}  [{unit}]"),
        *((axes, name, *PANELS[name]) for axes, name in zip(rest, others, strict=True)),
    ):
        canvas.rows += draw(axes, x, ordered, name, canvas)
        axes.set_xlabel("training step" if numbers is not None else "checkpoint, in the order given [1]")
        axes.set_ylabel(label)
        canvas.title(axes, title)
    keys(canvas, exhibit)
    left = f"; curves of {len(few)} of the {len(ordered)} checkpoints" if len(few) < len(ordered) else ""
    canvas.said = [
        *exhibit.sentences(),
        "Over the steps of training: the largest of the means over draws (largest) and the mean over all measured "
        f"timesteps (mean), each with its 95 % interval over the same draws at every step{left}",
    ]


def draw(axes: Any, x: np.ndarray, runs: Sequence[Run], variable: str, canvas: Picture) -> list[Row]:
    """The largest value and the mean of a variable over training steps, with their intervals; their rows."""
    axes.set_yscale("log")
    rows: list[Row] = []
    for number, (name, reduce) in enumerate((("largest", at_top), ("mean", averaged))):
        s = over(runs, variable, reduce)
        shown = s.where(s.mean > 0)  # on a scale of logarithms
        if (s.mean > 0).any():
            marks.means(axes, x, shown, number, canvas.style, spread=False, name=name)
        place: Row = {"variable": variable, "kind": name}
        rows += [{"series": run.label, **place, "step": float(x[i]), **s.row(i)} for i, run in enumerate(runs)]
    marks.inside(axes)
    return rows
