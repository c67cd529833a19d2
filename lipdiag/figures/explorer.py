"""A run looked at one timestep at a time: where it lies on the curve, and how its draws are spread."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..printing import plain, with_half_width
from ..results.curve import Curve, curves
from ..results.headline import SPEEDS, peak
from ..results.run import Run, read
from . import marks
from .canvas import Picture, blank
from .style import applied, preset

if TYPE_CHECKING:
    import xarray as xr


def explore(dataset: "xr.Dataset", variable: str | None = None) -> Any:
    """A slider over the timesteps of a run, in a notebook that has ipywidgets; else the figure at the curve's peak.

    Args:
        dataset: What `measure` returned.
        variable: Shown first; by default the speed in time.

    Returns:
        A widget, or a picture.
    """
    (run,) = read([dataset])
    names = variables(run)
    if variable is not None and variable not in names:
        raise UsageError(f"{run.label} has no {variable!r} to explore; it has {', '.join(names)}")
    first = variable or names[0]
    start = peak(curve(run, first)) or 0
    if find_spec("ipywidgets") is None:
        return moment(run, first, start)
    return widget(run, names, first, start)


def variables(run: Run) -> list[str]:
    """With one number for each timestep and draw, the speeds in time first."""
    found = [str(name) for name, v in run.dataset.data_vars.items() if v.dims == ("time", "draw") and name != "done"]
    if not found:
        raise UsageError(f"{run.label} has no variable over timesteps and draws; measure one")
    return sorted(found, key=lambda name: (*SPEEDS, *found).index(name))


def curve(run: Run, variable: str) -> Curve:
    return curves([run], variable)[0]


def widget(run: Run, names: Sequence[str], first: str, start: int) -> Any:
    """Sliders and the figure they choose."""
    ipywidgets: Any = import_module("ipywidgets")
    choice = ipywidgets.Dropdown(options=list(names), value=first, description="variable")
    steps = [(f"{k:.6g}", i) for i, k in enumerate(run.timestep)]
    slider = ipywidgets.SelectionSlider(options=steps, value=start, description="timestep")
    slider.layout.width = "100%"
    image = ipywidgets.Image(format="png", value=moment(run, first, start).contents(".png", dpi=150))
    image.layout.max_width = "100%"

    def redraw(_: Any) -> None:
        image.value = moment(run, choice.value, slider.value).contents(".png", dpi=150)

    for control in (choice, slider):
        control.observe(redraw, names="value")
    return ipywidgets.VBox([choice, slider, image])


def moment(run: Run, variable: str, place: int, style: str = "iclr") -> Picture:
    """The curve with one timestep marked, and the draws at that timestep."""
    look, shown = preset(style), curve(run, variable)
    s, known = shown.statistics, run.dataset["done"].values[place] == 1
    values = run.dataset[variable].values[place, known]
    values = values[np.isfinite(values)]
    said = f"{variable} at timestep {run.timestep[place]:.6g}: {with_half_width(s.mean[place], s.half_width[place])}, "
    said += f"at most {plain(s.max[place])}, n = {values.size}"
    with applied(look):
        picture, (whole, here) = blank(look, 2)
        positive = bool((s.mean[np.isfinite(s.mean)] > 0).all())
        whole.set_xscale("log")
        whole.set_yscale("log" if positive else "linear")
        for low, high, opacity in ((s.q05, s.q95, 0.16), (s.low, s.high, 0.38)):
            whole.fill_between(run.x, low, high, color=marks.colour(0), alpha=opacity)
        whole.plot(run.x, s.mean, **marks.stroke(0, look))
        whole.plot(run.x[place], s.mean[place], **marks.points(4, look, hollow=False))
        whole.set(xlabel=run.axis, ylabel=variable, title="(a) mean over draws")
        here.hist(values, "auto", color=marks.colour(0), alpha=0.5)
        here.axvline(s.mean[place], color=marks.colour(4))
        if np.isfinite(s.half_width[place]):
            here.axvspan(s.low[place], s.high[place], color=marks.colour(4), alpha=0.25)
        here.set(xlabel=variable, ylabel="draws", title=f"(b) timestep {run.timestep[place]:.6g}")
    picture.caption = f"{run.label}: {said} (95 % interval of the mean; bands: 5 to 95 % of the draws)."
    picture.rows = shown.rows()
    return picture
