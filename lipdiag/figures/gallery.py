"""Every figure by name. To add one: write the function `draw(canvas, runs)`, and its entry in `FIGURES`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, unknown
from ..results.curve import DERIVATIVES, same_time
from ..results.label import labels_for
from ..results.run import Run, read
from ..results.source import Source, named
from .canvas import Picture, drawing
from .comparison import model_and_remedy
from .derivatives import PARTIAL, TOTAL, derivatives
from .distribution import distribution
from .embedding import embedding
from .jacobian import NORMS, jacobian, spectrum
from .jumps import jumps
from .matrix import LOSSES, QUOTIENTS, pairs, swap
from .modules import DERIVATIVES as CHANGES
from .modules import modules
from .quality import quality
from .samples import samples
from .schedules import schedules
from .singularity import singularity
from .steps import steps
from .training import training
from .vectors import SIDES, vectors

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class FigureSpec:
    """A figure that can be asked for, and what it needs.

    Attributes:
        draw: Puts runs (of another source, what is read from it) on an empty picture; also takes options of its own.
        line: What it shows.
        source: What it is drawn from: `run`, `samples`, `training` or `quality`.
        needs: Variables that every run must have.
        any_of: Variables of which all runs must have one in common, unless the option `variable` names another.
        measured: How `lipdiag measure` is asked for them: quantities and further options; by default their names.
        least: Runs without which there is nothing to show.
        most: Runs that it can show at once.
        alike: Whether the runs must count time in the same unit.
        paired: Whether runs come in pairs, which are called by the labels of the first.
    """

    draw: Callable[..., None]
    line: str
    source: str = "run"
    needs: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    measured: str = ""
    least: int = 1
    most: int | None = None
    alike: bool = False
    paired: bool = False

    @property
    def quantities(self) -> str:
        """What to ask `lipdiag measure` for, behind the first `--quantity`."""
        return self.measured or " --quantity ".join(self.needs or self.any_of)

    def to_dict(self) -> dict[str, Any]:
        """What `lipdiag plot --list --json` says of it."""
        facts = {name: value for name, value in vars(self).items() if name not in ("draw", "measured")}
        return facts | {"measure": f"--quantity {self.quantities}" if self.quantities else ""}


MATRIX = " --timesteps log:24 --draws 32"
"""Asked of `measure` with a matrix, since its price is a forward pass a column."""

FIGURES = {
    "singularity": FigureSpec(
        singularity,
        "K(t, t+1) or |d eps/dt| over all t and near 0 (the paper's Fig. 1)",
        any_of=DERIVATIVES,
        measured=DERIVATIVES[0],
        alike=True,
    ),
    "compare": FigureSpec(model_and_remedy, "a model and its remedy: K, ratio, loss, sensitivity", paired=True),
    "jumps": FigureSpec(
        jumps, "E-TSDM's jumps against its twin's summed K, block by block", needs=("time_difference",), alike=True
    ),
    "derivatives": FigureSpec(
        derivatives, "partial derivative in t against the total one on trajectories", needs=(PARTIAL, TOTAL), alike=True
    ),
    "pairs": FigureSpec(
        pairs, "K(t, t') of every pair of timesteps", needs=(QUOTIENTS.variable,), measured=f"pairs{MATRIX}"
    ),
    "swap": FigureSpec(
        swap, "loss at t of a network that is told t'", needs=(LOSSES.variable,), measured=f"swap{MATRIX}"
    ),
    "distribution": FigureSpec(
        distribution, "spread over draws, and the largest draw", any_of=DERIVATIVES, measured=DERIVATIVES[0], alike=True
    ),
    "jacobian": FigureSpec(
        jacobian,
        "spectral norm with its bound, one-sided, Frobenius, trace",
        any_of=tuple(norm.quantity for norm in NORMS),
    ),
    "spectrum": FigureSpec(
        spectrum,
        "leading singular values of the Jacobian",
        needs=("singular_values", "singular_values_residual"),
        measured="singular_values",
    ),
    "vectors": FigureSpec(
        vectors,
        "leading singular vectors as images",
        needs=(*SIDES, "vector_singular_values", "vector_residuals"),
        measured="vectors --timesteps 0,10,100,500 --draws 2",
        most=1,
    ),
    "schedules": FigureSpec(schedules, "alpha, sigma, log-SNR with its ends, and their rates"),
    "embedding": FigureSpec(
        embedding,
        "how fast the network's embedding of time moves",
        needs=("embedding_difference", "embedding_norm"),
        measured="embedding --draws 2",
        alike=True,
    ),
    "modules": FigureSpec(
        modules,
        "what each module makes of a change of the timestep or of x",
        any_of=CHANGES,
        measured="modules --quantity modules_x --draws 8",
    ),
    "samples": FigureSpec(samples, "images (give the .npz of `lipdiag sample`)", "samples"),
    "training": FigureSpec(training, "loss, gradient, K in training (give a training's folder)", "training"),
    "steps": FigureSpec(
        steps,
        "K, spectral norm and loss over the steps of a training",
        any_of=DERIVATIVES,
        measured=DERIVATIVES[0],
        least=2,
        alike=True,
    ),
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

    Example:
        >>> run = lipdiag.open_run("digits-ddpm.zarr")
        >>> figure = lipdiag.plot(run, style="icml")
        >>> figure.savefig("K.pdf")
        >>> float(figure.get_figwidth())
        3.25
    """
    import xarray as xr

    datasets = [runs] if isinstance(runs, xr.Dataset) else list(runs)
    admitted = admit(figure, datasets, labels, options.get("variable"))
    return drawing(FIGURES[figure].draw, admitted, style, **options).settle()


def specified(figure: str) -> FigureSpec:
    """The figure of that name.

    Raises:
        UsageError: If there is none.
    """
    if figure not in FIGURES:
        raise unknown("figure", figure, FIGURES)
    return FIGURES[figure]


def admit(
    figure: str, datasets: "Sequence[xr.Dataset]", labels: Sequence[str] | None = None, variable: str | None = None
) -> Sequence[Run | Source]:
    """What a figure is drawn from, if it has what that figure needs.

    Args:
        figure: A name in `FIGURES`.
        datasets: Runs, or what the figure is drawn from instead.
        labels: What to call them.
        variable: What is asked for, in the place of the figure's own choice.

    Raises:
        UsageError: If there is no such figure, a dataset lacks what it shows, or there are too many.
    """
    spec = specified(figure)
    if spec.source != "run":
        return named(datasets, spec.source, labels)
    if spec.paired:
        if not datasets or len(datasets) % 2:
            raise UsageError(
                f"runs come in pairs here, and the number given is {len(datasets)}; give two a pair, the plain "
                "model and its remedy"
            )
        labels = [*(labels_for(labels, 2) or ())] * (len(datasets) // 2) or None
    runs = read(datasets, labels)
    if spec.most is not None and len(runs) > spec.most:
        raise UsageError(f"there are {len(runs)} runs, and {figure} shows {spec.most} at a time; give them one by one")
    if len(runs) < spec.least:
        raise UsageError(f"{figure} shows {spec.least} runs or more, and there is 1; give others of its training too")
    if spec.alike:
        same_time(runs)
    common = [name for name in spec.any_of if variable or all(run.has(name) for run in runs)]
    for run in runs:
        run.demand(spec.needs if common or not spec.any_of else spec.any_of[:1], spec.quantities)
    return runs
