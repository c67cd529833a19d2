"""How fast a network's encoding of the timestep moves: what every layer is told about time, before it sees x."""

from collections.abc import Sequence

from ..results.curve import Curve
from ..results.run import Run
from . import captions, marks
from .canvas import Picture
from .exhibit import Exhibit, blocks
from .singularity import draw_whole, keys


def embedding(canvas: Picture, runs: Sequence[Run]) -> None:
    """Change of the embedding of time per timestep, and its size."""
    speeds, sizes = (
        [Curve(run, name, run.statistics(name)) for run in runs] for name in ("embedding_difference", "embedding_norm")
    )
    exhibit = Exhibit(speeds)
    speed, size = canvas.panels(2)
    draw_whole(speed, exhibit, canvas.style)
    canvas.title(speed, "speed of the embedding")
    marks.over_time(size, exhibit.first)
    for number, curve in enumerate(sizes):
        marks.means(size, curve.run.x, curve.statistics, number, canvas.style)
    size.set(ylim=0, ylabel=r"$\|e(t)\|_2$  [1]")
    canvas.title(size, "its size")
    keys(canvas, exhibit)
    canvas.rows = exhibit.rows() + [row for curve in sizes for row in curve.rows()]
    distance = f"t' = t + {exhibit.first.step:g}" if exhibit.first.step else "t' a thousandth of the time axis later"
    canvas.said = [
        "How fast the network's own embedding e of the timestep moves: |e(t') - e(t)|_2 / |t' - t|, "
        f"{distance}, and its size |e(t)|_2",
        f"Euclidean norm over all entries of the embedding, unit {exhibit.first.unit}"
        f"{captions.own_time(exhibit.first)}",
        f"Means of {captions.of_curves(speeds)} with the {captions.INTERVAL}; the embedding is told nothing but the "
        "timestep, so draws agree and the interval has no width",
        *(sentence for curve in speeds for sentence in blocks(curve)),
    ]
