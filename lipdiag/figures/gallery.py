"""Every figure by name. To add one: write the function, and its entry in `FIGURES`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .canvas import Picture
from .comparison import compare_figure
from .derivatives import derivatives
from .distribution import distribution
from .embedding import embedding
from .jacobian import jacobian, spectrum
from .jumps import jumps
from .matrix import pairs, swap
from .quality import quality
from .samples import samples
from .schedules import schedules
from .singularity import singularity
from .training import training
from .vectors import vectors

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class FigureSpec:
    """A figure that can be asked for.

    Attributes:
        draw: Datasets -> the picture; also takes `labels`, `style` and options of its own.
        line: What it shows.
        source: What it is drawn from: `run`, `samples`, `training` or `quality`.
    """

    draw: Callable[..., Picture]
    line: str
    source: str = "run"


FIGURES = {
    "singularity": FigureSpec(singularity, "K(t, t+1) or |d eps/dt| over all t and near 0 (the paper's Fig. 1)"),
    "compare": FigureSpec(compare_figure, "a model and its remedy: K, ratio, loss, sensitivity"),
    "jumps": FigureSpec(jumps, "E-TSDM's jumps against its twin's summed K, block by block"),
    "derivatives": FigureSpec(derivatives, "partial derivative in t against the total one on trajectories"),
    "pairs": FigureSpec(pairs, "K(t, t') of every pair of timesteps"),
    "swap": FigureSpec(swap, "loss at t of a network that is told t'"),
    "distribution": FigureSpec(distribution, "spread over draws, and the largest draw"),
    "jacobian": FigureSpec(jacobian, "spectral norm with its bound, one-sided, Frobenius, trace"),
    "spectrum": FigureSpec(spectrum, "leading singular values of the Jacobian"),
    "vectors": FigureSpec(vectors, "leading singular vectors as images"),
    "schedules": FigureSpec(schedules, "alpha, sigma, log-SNR with its ends, and their rates"),
    "embedding": FigureSpec(embedding, "how fast the network's embedding of time moves"),
    "samples": FigureSpec(samples, "images (give the .npz of `lipdiag sample`)", "samples"),
    "training": FigureSpec(training, "loss, gradient, K in training (give a training's folder)", "training"),
    "quality": FigureSpec(quality, "FID and KID over steps (give what `lipdiag evaluate` wrote)", "quality"),
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
    return FIGURES[figure].draw(*datasets, style=style, labels=labels, **options).settle()


def caption(runs: "xr.Dataset | Sequence[xr.Dataset]", figure: str = "singularity", **options: Any) -> str:
    """The words under a figure."""
    return plot(runs, figure, **options).caption
