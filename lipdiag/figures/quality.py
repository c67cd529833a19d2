"""How good samples are with how many steps: the price of a sampler, and the floor that real data set."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..printing import Row
from ..results.statistics import Statistics, over_draws
from . import captions as wording
from . import marks
from .canvas import Picture, blank
from .style import THEORY, Style, applied, preset

if TYPE_CHECKING:
    import xarray as xr

NORMAL = 1.959964
APART = 1.02
"""Ratio of the places of two lines, so that their intervals do not hide each other."""

METRICS = {"fid": "FID", "kid": "KID"}


def quality(*datasets: "xr.Dataset", labels: Sequence[str] | None = None, style: str = "iclr") -> Picture:
    """FID and KID over the number of steps, a line a sampler and model.

    Args:
        datasets: Each with `fid`, `kid` or both over (`sampler`, `seed`), samplers called `ddim:20`.
        labels: What to call the models.
        style: A preset's name.

    Raises:
        UsageError: If one is no evaluation, or they were judged by different networks or on different numbers.
    """
    look = preset(style)
    for dataset in datasets:
        if "sampler" not in dataset.dims or not set(METRICS) & set(dataset.data_vars):
            raise UsageError("this dataset is no evaluation; give the store that `lipdiag evaluate` wrote")
        for name in ("extractor", "n"):
            if dataset.attrs.get(name) != datasets[0].attrs.get(name):
                raise UsageError(
                    f"these evaluations have different {name}s ({datasets[0].attrs.get(name)} and "
                    f"{dataset.attrs.get(name)}), so that their numbers do not compare; show them one by one"
                )
    names = list(labels or [str(dataset.attrs.get("name", "model")) for dataset in datasets])
    shown = [metric for metric in METRICS if all(metric in dataset.data_vars for dataset in datasets)]
    lines = [
        (f"{name}, {kind}", dataset, kind)
        for name, dataset in zip(names, datasets, strict=True)
        for kind in kinds(dataset)
    ]
    with applied(look):
        picture, axes = blank(look, len(shown))
        for letter, place, metric in zip("ab", axes, shown, strict=False):
            for number, (name, dataset, kind) in enumerate(lines):
                shift = APART ** (number - (len(lines) - 1) / 2)
                picture.rows += draw(place, dataset, kind, metric, name, number, shift, look)
            floor = floors(datasets, metric)
            if floor is not None:
                place.axhline(floor, **floor_stroke(look))
            place.set_xscale("log", base=2)
            ticks = sorted({steps for _, dataset, kind in lines for steps, _ in kinds(dataset)[kind]})
            place.set_xticks(ticks, [str(tick) for tick in ticks])
            place.set_xticks([], minor=True)
            place.set_xlabel("steps of the sampler")
            place.set_ylabel(f"{METRICS[metric]}  [1]")
            place.set_title(f"({letter}) {METRICS[metric]}, lower is better")
        marks.legend(picture, entries([name for name, _, _ in lines], datasets, shown, look), look)
    picture.caption = describe(names, datasets, shown)
    return picture


def kinds(dataset: "xr.Dataset") -> dict[str, list[tuple[int, int]]]:
    """Sampler -> its numbers of steps, increasing, with their places along the dimension."""
    found: dict[str, list[tuple[int, int]]] = {}
    for place, name in enumerate(dataset["sampler"].values):
        kind, _, steps = str(name).partition(":")
        if not steps.isdigit():
            raise UsageError(f"cannot read the sampler {name}; it is called NAME:STEPS, such as ddim:20")
        found.setdefault(kind, []).append((int(steps), place))
    return {kind: sorted(places) for kind, places in found.items()}


def draw(
    axes: Any, dataset: "xr.Dataset", kind: str, metric: str, name: str, number: int, shift: float, look: Style
) -> list[Row]:
    """A line with its intervals, moved aside by a ratio; its rows."""
    steps, places = zip(*kinds(dataset)[kind], strict=True)
    s = over_seeds(dataset, metric, list(places))
    x = np.array(steps, dtype=np.float64) * shift
    bounded = np.isfinite(s.low) & np.isfinite(s.high)
    axes.vlines(x[bounded], s.low[bounded], s.high[bounded], color=marks.colour(number), linewidth=1.6 * look.scale)
    line = {**marks.stroke(number, look), "markersize": 4 * look.scale}
    axes.plot(x, s.mean, **line, zorder=4)
    return [
        {
            "series": name,
            "metric": metric,
            "steps": steps[i],
            "mean": float(s.mean[i]),
            "low": float(s.low[i]),
            "high": float(s.high[i]),
            "seeds": int(s.count[i]),
        }
        for i in range(x.size)
    ]


def over_seeds(dataset: "xr.Dataset", metric: str, places: list[int]) -> Statistics:
    """Mean over seeds with Student's interval; of a single seed's KID its own standard error."""
    values = dataset[metric].transpose("sampler", "seed").values[places].astype(np.float64)
    s = over_draws(values)
    single = s.count == 1
    own = f"{metric}_standard_error"
    if not single.any() or own not in dataset.data_vars:
        return s
    error = np.nanmean(dataset[own].transpose("sampler", "seed").values[places], axis=1)
    fields = {name: getattr(s, name) for name in s.__dataclass_fields__}
    low, high = s.mean - NORMAL * error, s.mean + NORMAL * error
    return Statistics(**fields | {"low": np.where(single, low, s.low), "high": np.where(single, high, s.high)})


def floors(datasets: Sequence["xr.Dataset"], metric: str) -> float | None:
    found = datasets[0].attrs.get(f"floor_{metric}")
    return None if found is None else float(found)


def floor_stroke(look: Style) -> dict[str, Any]:
    return {"color": THEORY, "linestyle": (0, (6, 2)), "linewidth": 0.8 * look.scale, "zorder": 1}


def entries(
    names: Sequence[str], datasets: Sequence["xr.Dataset"], shown: Sequence[str], look: Style
) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    found = [marks.entry(n, look, name) for n, name in enumerate(names)]
    found.append((Line2D([], [], color="0.2", linewidth=1.6 * look.scale), "95 % interval"))
    if any(floors(datasets, metric) is not None for metric in shown):
        found.append((Line2D([], [], **floor_stroke(look)), "floor: real against real"))
    return found


def describe(names: Sequence[str], datasets: Sequence["xr.Dataset"], shown: Sequence[str]) -> str:
    attributes = datasets[0].attrs
    seeds = sorted({dataset.sizes["seed"] for dataset in datasets})
    single = seeds[0] == 1
    lone = "; one seed alone has no interval of FID, and of KID that of its own standard error"
    return wording.caption(
        [
            f"Quality of samples of {', '.join(names)} over the number of sampler steps: "
            f"{' and '.join(METRICS[metric] for metric in shown)}, distances without unit in the features of "
            f"{attributes.get('extractor', 'an unknown network')}",
            f"Each from n = {attributes.get('n', 'an unknown number of')} samples; mean over "
            f"{' or '.join(map(str, seeds))} seeds with its 95 % interval (Student){lone if single else ''}",
            "Dashed: the same distance between real data and the rest of them"
            if any(floors(datasets, metric) is not None for metric in shown)
            else "",
        ]
    )
