"""How fast a network's encoding of the timestep moves: what every layer is told about time, before it sees x."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..results.curve import Curve
from ..results.run import read
from . import captions as wording
from . import marks
from .canvas import Picture, blank
from .exhibit import blocks, gather
from .singularity import draw_whole, entries
from .style import applied, preset

if TYPE_CHECKING:
    import xarray as xr


def embedding(*datasets: "xr.Dataset", labels: Sequence[str] | None = None, style: str = "iclr") -> Picture:
    """Change of the embedding of time per timestep, and its size.

    Args:
        datasets: What `measure` returned, with the quantity `embedding`.
        labels: What to call them.
        style: A preset's name.

    Raises:
        UsageError: If a run lacks it, or the runs' time axes differ.
    """
    look = preset(style)
    for run in read(datasets, labels):
        run.demand(["embedding_difference", "embedding_norm"], "embedding", " --draws 2")
    exhibit = gather(datasets, "embedding_difference", labels, show_theory=False)
    sizes = [Curve(c.run, "embedding_norm", c.run.statistics("embedding_norm")) for c in exhibit.curves]
    with applied(look):
        picture, (speed, size) = blank(look, 2)
        draw_whole(speed, exhibit, look)
        speed.set_title("(a) speed of the embedding")
        size.set_xscale("log")
        for number, curve in enumerate(sizes):
            marks.mean(size, curve.run.x, curve.statistics, number, look)
        size.set_ylim(0)
        size.set_xlabel(exhibit.first.axis)
        size.set_ylabel(r"$\|e(t)\|_2$  [1]")
        size.set_title("(b) its size")
        marks.legend(picture, entries(exhibit, look), look)
    picture.rows = exhibit.rows() + [row for curve in sizes for row in curve.rows()]
    distance = f"t' = t + {exhibit.first.step:g}" if exhibit.first.step else "t' a thousandth of the time axis later"
    picture.caption = wording.caption(
        [
            "How fast the network's own embedding e of the timestep moves: |e(t') - e(t)|_2 / |t' - t|, "
            f"{distance}, and its size |e(t)|_2",
            f"Euclidean norm over all entries of the embedding, unit {exhibit.first.unit}"
            f"{wording.own_time(exhibit.first)}",
            f"Means of {wording.draws((c.statistics.count for c in exhibit.curves), [c.run for c in exhibit.curves])} "
            f"with the {wording.INTERVAL}; the embedding is told nothing but the timestep, so draws agree and the "
            "interval has no width",
            *(sentence for curve in exhibit.curves for sentence in blocks(curve)),
        ]
    )
    return picture
