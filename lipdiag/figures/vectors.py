"""Leading singular vectors of d eps / d x as images: the change in x that moves the prediction most, and that move.

A row is a timestep, all of one draw. Each image has its own scale, grey being 0; a vector's sign is arbitrary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..printing import Row
from ..results.run import Run, read
from . import captions as wording
from . import marks
from .canvas import Picture
from .style import applied, preset

if TYPE_CHECKING:
    import xarray as xr

TIMES, RANKS = 4, 4
SIDES = {"right_singular_vectors": "v", "left_singular_vectors": "u"}
MORE = " --timesteps 0,10,100,500 --draws 2"


def vectors(
    *datasets: "xr.Dataset", draw: int = 0, labels: Sequence[str] | None = None, style: str = "iclr"
) -> Picture:
    """The leading right and left singular vectors of one draw at up to four timesteps.

    Args:
        datasets: What `measure` returned, one run, with the quantity `vectors`.
        draw: Whose.
        labels: What to call it.
        style: A preset's name.

    Raises:
        UsageError: If the run lacks them, or its samples are no images.
    """
    look, runs = preset(style), read(datasets, labels)
    if len(runs) > 1:
        raise UsageError(f"vectors shows one run and {len(runs)} were given; give them one by one")
    (run,) = runs
    run.demand([*SIDES, "vector_singular_values", "vector_residuals"], "vectors", MORE)
    shape = tuple(run.model.get("shape") or ())
    if len(shape) != 3:
        raise UsageError(f"vectors are shown as images of shape (channels, height, width), and these have {shape}")
    done = np.flatnonzero((run.dataset["done"] == 1).all("time").values)
    if draw not in done:
        raise UsageError(f"draw {draw} is not done at all timesteps of {run.label}; give one of {done.tolist()}")
    values, residuals = (run.dataset[name].values[:, draw] for name in ("vector_singular_values", "vector_residuals"))
    times = marks.chosen(run.x, np.isfinite(values[:, 0]), TIMES)
    ranks = min(RANKS if look.columns > 1 else RANKS - 1, values.shape[1])
    with applied(look):
        picture = Picture(look, figsize=(look.width, 1), layout="constrained")
        cell = (look.width - 0.5) / (2 * ranks)
        picture.set_figheight(len(times) * (cell + 2.4 * look.small / marks.POINTS) + 0.3)
        grid = picture.subplots(len(times), 2 * ranks, squeeze=False)
        for row, i in zip(grid, times, strict=True):
            row[0].set_ylabel(f"$t={run.timestep[i]:.3g}$")
            for column, axes in enumerate(row):
                side, rank = divmod(column, ranks)
                name = list(SIDES)[side]
                vector = run.dataset[name].values[i, draw, rank]
                show(axes, vector.reshape(shape))
                symbol = f"${SIDES[name]}_{rank + 1}$"
                axes.set_title(symbol if side else f"{symbol}: {values[i, rank]:.3g}", loc="center")
    picture.rows = table(run, times, draw, ranks)
    worst = float((residuals[times][:, :ranks] / values[times][:, :1]).max())
    largest = " (of several channels the one with the largest norm)" if shape[0] not in (1, 3) else ""
    picture.caption = wording.caption(
        [
            f"Leading singular vectors of J = d eps / d x of {run.label} at x_t, {run.data}, draw {draw} alone (n = 1)",
            "Rows: timesteps; left half: right vectors v_i, unit changes of x, each with its singular value (operator "
            "norm from Euclidean to Euclidean, no unit); right half: left vectors u_i = J v_i / that value, the "
            "changes of eps",
            f"Grey is 0, each image has its own scale, signs are arbitrary{largest}",
            f"Residuals are at most {worst:.1g} of the largest singular value; vectors of nearly equal singular values "
            "are determined only together",
        ]
    )
    return picture


def show(axes: Any, vector: np.ndarray) -> None:
    """A signed image: grey is 0."""
    if vector.shape[0] == 3:
        image = np.moveaxis(0.5 + vector / (2 * np.abs(vector).max()), 0, -1)
    else:
        image = vector[np.square(vector).sum((1, 2)).argmax()]
    most = float(np.abs(vector).max()) or 1.0
    axes.imshow(image, cmap="gray", vmin=-most, vmax=most, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def table(run: Run, times: Sequence[int], draw: int, ranks: int) -> list[Row]:
    """Every entry shown."""
    found: list[Row] = []
    for i in times:
        for rank in range(ranks):
            evidence = {
                "singular_value": float(run.dataset["vector_singular_values"].values[i, draw, rank]),
                "residual": float(run.dataset["vector_residuals"].values[i, draw, rank]),
            }
            for name, symbol in SIDES.items():
                place: Row = {"series": run.label, "timestep": float(run.timestep[i]), "draw": draw}
                vector = run.dataset[name].values[i, draw, rank]
                entries = " ".join(f"{value:.6g}" for value in vector)
                found.append({**place, "side": symbol, "rank": rank + 1, **evidence, "vector": entries})
    return found
