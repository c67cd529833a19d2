"""What each module of a network makes of a change of the timestep and of x: its size along the depth, and its growth.

Only modules without others inside are shown; those around them are in the figure's CSV.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..findings.modules import SUFFIXES, Modules
from ..findings.modules import modules as of_run
from ..results.run import Run
from ..statistics import Interval
from . import captions, marks
from .canvas import POINTS, Picture
from .style import Style

DERIVATIVES = tuple(f"module_output_derivative{end}" for end in SUFFIXES.values())
"""The variables that are drawn, along the timestep and along x."""

HEADROOM = 0.12
"""The share of a panel's height for the names of the network's parts."""

PANEL_SHARE, LETTER = 0.75, 0.5
"""The share of its column that a panel's axis takes, and the width of a letter over its height."""


def modules(canvas: Picture, runs: Sequence[Run]) -> None:
    """Relative size of the change of each module's output, and its growth in each module, in the order of the calls."""
    changes = [of for of, end in SUFFIXES.items() if all(run.has(f"module_output_derivative{end}") for run in runs)]
    inside = {of: [next(m for m in of_run(run) if m.of == of) for run in runs] for of in changes}
    kinds = [(of, kind) for of in changes for kind in ("share", "gain") if all(getattr(m, kind) for m in inside[of])]
    for axes, (of, kind) in zip(canvas.panels(len(kinds)), kinds, strict=True):
        draw(axes, inside[of], kind, canvas.style)
        canvas.title(axes, f"change of {of}: {'size' if kind == 'share' else 'growth'} in modules")
    for number, run in enumerate(runs):
        marks.key(canvas, number, run.label)
    marks.band_keys(canvas, spread="")
    if any(m.dead.any() for each in inside.values() for m in each):
        canvas.key("the change dies", **marks.zero_stroke(0, canvas.style))
    canvas.rows = [row for each in inside.values() for m in each for row in m.rows()]
    draws = captions.draws([run.statistics("done") for run in runs], runs)
    told = [(m, said) for each in inside.values() for m in each if (said := m.sentence()) is not None]
    canvas.said = [
        "What each module of the network makes of a change of the timestep that the network is told, or of x along a "
        "random direction: |dy| / |y| of its output y, and |dy| / |dx| of its output and its input",
        "Euclidean norms over all entries of a sample; modules without others inside (all, with their names, are "
        "in the figure's CSV), and gaps where nothing arrives, or nothing that moves",
        f"Grey lines, where the parts of {runs[0].label} begin: {begun(inside[changes[0]][0])}",
        f"Geometric means over {inside[changes[0]][0].when} and {draws}, with Student's 95 % interval over draws",
        *(f"{m.run.label}: {said[0].rstrip('.')}" for m, said in told),
    ]


def draw(axes: Any, models: Sequence[Modules], kind: str, look: Style) -> None:
    """One panel: a line a run over the modules without others inside, hollow points where the change dies."""
    axes.set_yscale("log")
    for number, m in enumerate(models):
        shown = Interval(*(part[m.leaf] for part in getattr(m, kind)))
        x = np.arange(1, m.leaf.sum() + 1)
        marks.fill(axes, x, shown.low, shown.high, number)
        axes.plot(x, shown.value, **marks.stroke(number, look), zorder=4)
    bottom = axes.get_ylim()[0]
    for number, m in enumerate(models):
        marks.zeros(axes, np.arange(1, m.leaf.sum() + 1), m.dead[m.leaf], bottom, number, look)
    axes.set_ylim(bottom)
    unit = models[0].run.unit if kind == "share" and models[0].of == "the timestep" else "1"
    symbol = r"$\|\dot y\|\,/\,\|y\|$" if kind == "share" else r"$\|\dot y\|\,/\,\|\dot x\|$"
    axes.set(ylabel=f"{symbol}  [{unit}]", xlabel="module, in the order of the calls  [number]")
    stages(axes, models[0], look)


def parts_of(m: Modules) -> list[str]:
    """The part of the network to which each shown module belongs."""
    return [name.split(".")[0] for name, leaf in zip(m.names, m.leaf, strict=True) if leaf]


def beginnings(parts: Sequence[str]) -> list[int]:
    """The places at which a part begins."""
    return [i for i, part in enumerate(parts) if i == 0 or part != parts[i - 1]]


def begun(m: Modules) -> str:
    """The parts of a network, with the number of the first module of each."""
    parts = parts_of(m)
    return ", ".join(f"{parts[i]} ({i + 1})" for i in beginnings(parts))


def stages(axes: Any, m: Modules, look: Style) -> None:
    """Where the parts of the first network begin; those with room for it are called by their names."""
    parts = parts_of(m)
    starts = beginnings(parts)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top * (top / bottom) ** HEADROOM)
    width = POINTS * look.width / look.columns * PANEL_SHARE
    for start, end in itertools.pairwise([*starts, len(parts)]):
        axes.axvline(start + 0.5, color="0.85", linewidth=0.5, zorder=0)
        if (end - start) / len(parts) * width > len(parts[start]) * LETTER * look.small:
            place = {"transform": axes.get_xaxis_transform(), "fontsize": look.small, "color": "0.35"}
            axes.text((start + end + 1) / 2, 0.99, marks.literal(parts[start]), va="top", ha="center", **place)
