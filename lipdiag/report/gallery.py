"""Every figure by name. To add one: write the function, and its entry in `FIGURES`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .compare_figure import compare_figure
from .picture import Picture
from .singularity import singularity

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class FigureSpec:
    """A figure that can be asked for.

    Attributes:
        draw: Datasets -> the picture; also takes `labels`, `style` and options of its own.
        line: What it shows.
    """

    draw: Callable[..., Picture]
    line: str


FIGURES = {
    "singularity": FigureSpec(
        singularity, "change of the noise prediction per timestep, the whole axis and the part near t = 0"
    ),
    "compare": FigureSpec(compare_figure, "a model and its remedy: K, ratio, loss, sensitivity (runs two a pair)"),
}


def plot(
    runs: "xr.Dataset | Sequence[xr.Dataset]",
    figure: str = "singularity",
    style: str = "iclr",
    labels: Sequence[str] | None = None,
    **options: Any,
) -> Picture:
    """A figure of one or several runs.

    Args:
        runs: What `measure` returned.
        figure: A name in `FIGURES`.
        style: A preset: iclr, neurips, icml, icml-wide, cvpr, cvpr-wide, slides.
        labels: What to call the runs.
        options: Of that figure.

    Returns:
        A matplotlib figure of the preset's exact width; `rows` are the data drawn, `caption` the words under it.

    Raises:
        UsageError: If there is no such figure or style, or the runs lack what it shows.
    """
    import xarray as xr

    if figure not in FIGURES:
        raise UsageError(f"there is no figure {figure!r}; known are {', '.join(FIGURES)}")
    datasets = [runs] if isinstance(runs, xr.Dataset) else list(runs)
    return FIGURES[figure].draw(*datasets, style=style, labels=labels, **options)


def caption(runs: "xr.Dataset | Sequence[xr.Dataset]", figure: str = "singularity", **options: Any) -> str:
    """The words under a figure."""
    return plot(runs, figure, **options).caption
