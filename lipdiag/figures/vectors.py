"""Leading singular vectors of d eps / d x as images: the change in x that moves the prediction most, and that move.

A row is a timestep, all of one draw. Each image has its own scale, grey being 0; a vector's sign is arbitrary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..printing import Row
from ..results.run import Run
from . import marks
from .canvas import POINTS, Picture

TIMES, RANKS = 4, 4
SIDES = {"right_singular_vectors": "v", "left_singular_vectors": "u"}


def vectors(canvas: Picture, runs: Sequence[Run], draw: int = 0) -> None:
    """The leading right and left singular vectors of one draw at up to four timesteps.

    Args:
        canvas: To draw on.
        runs: One.
        draw: Whose.

    Raises:
        UsageError: If its samples are no images, or that draw is not done.
    """
    (run,), look = runs, canvas.style
    shape = tuple(run.model.get("shape") or ())
    if len(shape) != 3:
        raise UsageError(f"vectors are shown as images of shape (channels, height, width), and these have {shape}")
    done = np.flatnonzero((run.dataset["done"] == 1).all("time").values)
    if draw not in done:
        raise UsageError(f"draw {draw} is not done at all timesteps of {run.label}; give one of {done.tolist()}")
    values, residuals = (run.dataset[name].values[:, draw] for name in ("vector_singular_values", "vector_residuals"))
    times = marks.chosen(run.x, np.isfinite(values[:, 0]), TIMES)
    ranks = min(RANKS if look.columns > 1 else RANKS - 1, values.shape[1])
    cell = (look.width - 0.5) / (2 * ranks)
    canvas.set_size_inches(look.width, len(times) * (cell + 2.4 * look.small / POINTS) + 0.3)
    for row, i in zip(canvas.subplots(len(times), 2 * ranks, squeeze=False), times, strict=True):
        row[0].set_ylabel(f"$t={run.timestep[i]:.3g}$")
        for column, axes in enumerate(row):
            side, rank = divmod(column, ranks)
            name = list(SIDES)[side]
            image(axes, run.dataset[name].values[i, draw, rank].reshape(shape))
            symbol = f"${SIDES[name]}_{rank + 1}$"
            axes.set_title(symbol if side else f"{symbol}: {values[i, rank]:.3g}", loc="center")
    canvas.rows = rows(run, times, draw, ranks)
    worst = float((residuals[times][:, :ranks] / values[times][:, :1]).max())
    largest = " (of several channels the one with the largest norm)" if shape[0] not in (1, 3) else ""
    canvas.said = [
        f"Leading singular vectors of J = d eps / d x of {run.label} at x_t, {run.data}, draw {draw} alone (n = 1)",
        "Rows: timesteps; left half: right vectors v_i, unit changes of x, each with its singular value (operator "
        "norm from Euclidean to Euclidean, no unit); right half: left vectors u_i = J v_i / that value, the "
        "changes of eps",
        f"Grey is 0, each image has its own scale, signs are arbitrary{largest}",
        f"Residuals are at most {worst:.1g} of the largest singular value; vectors of nearly equal singular values "
        "are determined only together",
    ]


def image(axes: Any, vector: np.ndarray) -> None:
    """A signed image: grey is 0."""
    if vector.shape[0] == 3:
        page = np.moveaxis(0.5 + vector / (2 * np.abs(vector).max()), 0, -1)
    else:
        page = vector[np.square(vector).sum((1, 2)).argmax()]
    most = float(np.abs(vector).max()) or 1.0
    axes.imshow(page, cmap="gray", vmin=-most, vmax=most, interpolation="nearest")
    marks.bare(axes)


def rows(run: Run, times: Sequence[int], draw: int, ranks: int) -> list[Row]:
    """Every entry shown."""
    entries: list[Row] = []
    for i in times:
        place: Row = {"series": run.label, "timestep": float(run.timestep[i]), "draw": draw}
        for rank in range(ranks):
            evidence = {
                "singular_value": float(run.dataset["vector_singular_values"].values[i, draw, rank]),
                "residual": float(run.dataset["vector_residuals"].values[i, draw, rank]),
            }
            for name, symbol in SIDES.items():
                vector = " ".join(f"{value:.6g}" for value in run.dataset[name].values[i, draw, rank])
                entries.append({**place, "side": symbol, "rank": rank + 1, **evidence, "vector": vector})
    return entries
