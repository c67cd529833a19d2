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
from .canvas import Picture, drawing
from .style import INTERVAL_OPACITY, QUANTILE_OPACITY, colour

if TYPE_CHECKING:
    import xarray as xr


def explore(dataset: "xr.Dataset", variable: str | None = None) -> Any:
    """A slider over the timesteps of a run, in a notebook that has ipywidgets; else the figure at the curve's peak.

    Args:
        dataset: What `measure` returned.
        variable: Shown first; by default the speed in time.

    Returns:
        A widget, or a picture.

    Example:
        >>> run = lipdiag.open_run("digits-ddpm.zarr")
        >>> slider = lipdiag.explore(run, "time_difference")
    """
    (run,) = read([dataset])
    names = variables(run)
    if not names:
        raise UsageError(f"{run.label} has no variable over timesteps and draws; measure one")
    if variable is not None and variable not in names:
        raise UsageError(f"{run.label} has no {variable!r} to explore; it has {', '.join(names)}")
    first = variable or names[0]
    start = peak(curve(run, first)) or 0
    if find_spec("ipywidgets") is None:
        return moment(run, first, start)
    return widget(run, names, first, start)


def variables(run: Run) -> list[str]:
    """With one number for each timestep and draw, the speeds in time first."""
    names = [str(name) for name, v in run.dataset.data_vars.items() if v.dims == ("time", "draw") and name != "done"]
    return sorted(names, key=lambda name: (*SPEEDS, *names).index(name))


def curve(run: Run, variable: str) -> Curve:
    """A variable of the run over time."""
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


def moment(run: Run, variable: str, place: int) -> Picture:
    """The curve with one timestep marked, and the draws at that timestep."""
    return drawing(draw, curve(run, variable), "iclr", place=place)


def draw(canvas: Picture, curve: Curve, place: int) -> None:
    """One variable of a run over time, and all its draws at one of the timesteps."""
    run, s, variable, look = curve.run, curve.statistics, curve.variable, canvas.style
    draws = run.values(variable)[place]
    draws = draws[np.isfinite(draws)]
    whole, here = canvas.panels(2)
    positive = bool((s.mean[np.isfinite(s.mean)] > 0).all())
    marks.over_time(whole, run)
    whole.set_yscale("log" if positive else "linear")
    for low, high, opacity in ((s.q05, s.q95, QUANTILE_OPACITY), (s.low, s.high, INTERVAL_OPACITY)):
        marks.fill(whole, run.x, low, high, 0, opacity)
    whole.plot(run.x, s.mean, **marks.stroke(0, look))
    whole.plot(run.x[place], s.mean[place], **marks.points(4, look, hollow=False))
    whole.set_ylabel(variable)
    canvas.title(whole, "mean over draws")
    here.hist(draws, "auto", color=colour(0), alpha=0.5)
    here.axvline(s.mean[place], color=colour(4))
    if np.isfinite(s.half_width[place]):
        here.axvspan(s.low[place], s.high[place], color=colour(4), alpha=0.25)
    here.set(xlabel=variable, ylabel="draws")
    canvas.title(here, f"timestep {run.timestep[place]:.6g}")
    canvas.rows = curve.rows()
    canvas.said = [
        f"{run.label}: {variable} at timestep {run.timestep[place]:.6g}: "
        f"{with_half_width(s.mean[place], s.half_width[place])}, at most {plain(s.max[place])}, n = {draws.size} "
        "(95 % interval of the mean; bands: 5 to 95 % of the draws)"
    ]
