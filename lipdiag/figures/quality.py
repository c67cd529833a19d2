"""How good samples are with how many steps: the price of a sampler, and the floor that real data set."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..comparison.quality import METRICS
from ..errors import UsageError
from ..printing import Row
from ..results.distribution import NORMAL, Statistics, over_draws
from ..results.source import Source
from . import marks
from .canvas import Picture
from .style import CYCLE, DASHES, THEORY, Style

if TYPE_CHECKING:
    import xarray as xr

ALONE = 2.0
"""Ratio of the axis's ends to the only number of steps there is."""

APART = 1 / 64
"""How far two lines are moved apart, as a share of the axis."""


class Line(NamedTuple):
    """What one model's samples by one sampler are worth, over its steps.

    Attributes:
        name: Of both.
        dataset: The model's evaluation.
        kind: The sampler.
        sampler: Its number, which tells colour and marker.
        model: The model's number, which tells dashes and whether markers are hollow; None where there is one alone.
    """

    name: str
    dataset: "xr.Dataset"
    kind: str
    sampler: int
    model: int | None

    def stroke(self, look: Style) -> dict[str, Any]:
        """How it looks."""
        whole = marks.stroke(self.sampler, look) | {"markersize": 3.6 * look.scale}
        if self.model is None:
            return whole
        hollow = {"markerfacecolor": "white", "markeredgewidth": 0.8 * look.scale} if self.model % 2 else {}
        return whole | hollow | {"linestyle": DASHES[self.model % CYCLE]}


def quality(canvas: Picture, evaluations: Sequence[Source]) -> None:
    """FID and KID over the number of steps, a line a sampler and model: its colour and marker tell the sampler.

    Args:
        canvas: To draw on.
        evaluations: Each with `fid`, `kid` or both over (`sampler`, `seed`), samplers called `ddim:20`.

    Raises:
        UsageError: If they have no metric in common, or were judged by different networks or on different numbers.
    """
    look, datasets = canvas.style, [evaluation.dataset for evaluation in evaluations]
    metrics = in_common(datasets)
    samplers = list(dict.fromkeys(kind for dataset in datasets for kind in kinds(dataset)))
    lines = [
        Line(f"{e.label}, {kind}", e.dataset, kind, samplers.index(kind), number if len(evaluations) > 1 else None)
        for number, e in enumerate(evaluations)
        for kind in kinds(e.dataset)
    ]
    known = {metric: datasets[0].attrs.get(f"floor_{metric}") for metric in metrics}
    floors = {metric: float(floor) for metric, floor in known.items() if floor is not None}
    ticks = sorted({steps for line in lines for steps, _ in kinds(line.dataset)[line.kind]})
    shifts = beside(ticks, [line.sampler for line in lines])
    for metric, axes in zip(metrics, canvas.panels(len(metrics)), strict=True):
        for line, shift in zip(lines, shifts, strict=True):
            canvas.rows += draw(axes, line, metric, shift, look)
        if metric in floors:
            axes.axhline(floors[metric], **floor_stroke(look))
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
        if len(ticks) == 1:
            axes.set_xlim(ticks[0] / ALONE, ticks[0] * ALONE)
        axes.set(xlabel="steps of the sampler", ylabel=f"{METRICS[metric]}  [1]")
        canvas.title(axes, f"{METRICS[metric]}, lower is better")
    for line in lines:
        canvas.key(marks.literal(line.name), **line.stroke(look))
    canvas.key("95 % interval", color="0.2", linewidth=1.6 * look.scale)
    if floors:
        canvas.key("floor: real against real", **floor_stroke(look))
    attributes = datasets[0].attrs
    seeds = sorted({dataset.sizes["seed"] for dataset in datasets})
    lone = "; one seed alone has no interval of FID, and of KID that of its own standard error"
    canvas.said = [
        f"Quality of samples of {', '.join(e.label for e in evaluations)} over the number of sampler steps: "
        f"{' and '.join(METRICS[metric] for metric in metrics)}, distances without unit in the features of "
        f"{attributes.get('extractor', 'an unknown network')}",
        f"Each from n = {attributes.get('n', 'an unknown number of')} samples; mean over "
        f"{' or '.join(map(str, seeds))} seeds with its 95 % interval (Student){lone if seeds[0] == 1 else ''}; lines "
        "stand side by side at each number of steps",
        "Dashed: the same distance between real data and the rest of them" if floors else "",
    ]


def in_common(datasets: "Sequence[xr.Dataset]") -> list[str]:
    """The metrics that all evaluations have, if their numbers compare."""
    for dataset in datasets:
        for name in ("extractor", "n"):
            if dataset.attrs.get(name) != datasets[0].attrs.get(name):
                raise UsageError(
                    f"these evaluations have different {name}s ({datasets[0].attrs.get(name)} and "
                    f"{dataset.attrs.get(name)}), so that their numbers do not compare; show them one by one"
                )
    metrics = [metric for metric in METRICS if all(metric in dataset.data_vars for dataset in datasets)]
    if not metrics:
        raise UsageError(f"these evaluations have none of {', '.join(METRICS)} in common; show them one by one")
    return metrics


def kinds(dataset: "xr.Dataset") -> dict[str, list[tuple[int, int]]]:
    """Sampler -> its numbers of steps, increasing, with their places along the dimension."""
    places: dict[str, list[tuple[int, int]]] = {}
    for place, name in enumerate(dataset["sampler"].values):
        kind, _, steps = str(name).partition(":")
        if not steps.isdigit():
            raise UsageError(f"cannot read the sampler {name}; it is called NAME:STEPS, such as ddim:20")
        places.setdefault(kind, []).append((int(steps), place))
    return {kind: sorted(numbers) for kind, numbers in places.items()}


def beside(ticks: Sequence[int], samplers: Sequence[int]) -> np.ndarray:
    """Ratios that move lines aside, those of one sampler next to each other, so that intervals do not hide each other.

    Args:
        ticks: Numbers of steps, increasing.
        samplers: Of each line.
    """
    whole = ticks[-1] / ticks[0] if len(ticks) > 1 else ALONE**2
    places = np.argsort(np.argsort(samplers, kind="stable"))
    return whole ** (APART * (places - places.mean()))


def draw(axes: Any, line: Line, metric: str, shift: float, look: Style) -> list[Row]:
    """A line with its intervals, moved aside by a ratio; its rows."""
    steps, places = zip(*kinds(line.dataset)[line.kind], strict=True)
    s, stroke = over_seeds(line.dataset, metric, list(places)), line.stroke(look)
    x = np.array(steps, dtype=np.float64) * shift
    bounded = np.isfinite(s.low) & np.isfinite(s.high)
    axes.vlines(x[bounded], s.low[bounded], s.high[bounded], color=stroke["color"], linewidth=1.2 * look.scale)
    axes.plot(x, s.mean, **stroke, zorder=4)
    return [{"series": line.name, "metric": metric, "steps": steps[i], **s.row(i, "seeds")} for i in range(x.size)]


def over_seeds(dataset: "xr.Dataset", metric: str, places: list[int]) -> Statistics:
    """Mean over seeds with Student's interval; of a single seed's KID its own standard error."""
    values = dataset[metric].transpose("sampler", "seed").values[places].astype(np.float64)
    s = over_draws(values)
    single = s.count == 1
    own = f"{metric}_standard_error"
    if not single.any() or own not in dataset.data_vars:
        return s
    error = np.nanmean(dataset[own].transpose("sampler", "seed").values[places], axis=1)
    low, high = s.mean - NORMAL * error, s.mean + NORMAL * error
    return replace(s, low=np.where(single, low, s.low), high=np.where(single, high, s.high))


def floor_stroke(look: Style) -> dict[str, Any]:
    """How the distance between real data looks."""
    return {"color": THEORY, "linestyle": (0, (6, 2)), "linewidth": 0.8 * look.scale, "zorder": 1}
