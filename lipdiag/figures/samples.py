"""Samples of one or several models, side by side: same place, same starting noise, if they were made with one seed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..printing import Row
from . import captions as wording
from . import marks
from .canvas import Picture
from .style import applied, preset

if TYPE_CHECKING:
    import xarray as xr

COLUMNS = 16
"""Images beside each other over the whole width, of all models together."""

MOST_ROWS = 6


def samples(
    *datasets: "xr.Dataset", labels: Sequence[str] | None = None, rows: int = 4, style: str = "iclr"
) -> Picture:
    """A grid of images a model, the first ones stored, none chosen.

    Args:
        datasets: Each with a variable `samples` (sample, channel, row, column) in [-1, 1].
        labels: What to call them.
        rows: The most rows of images.
        style: A preset's name.

    Raises:
        UsageError: If one holds no images.
    """
    look = preset(style)
    for dataset in datasets:
        if "samples" not in dataset.data_vars:
            raise UsageError("this dataset holds no samples; give the .npz file that `lipdiag sample` wrote")
    names = list(labels or [str(dataset.attrs.get("name", "samples")) for dataset in datasets])
    across = max(2, (COLUMNS if look.columns > 1 else COLUMNS // 2) // len(datasets))
    shown = [dataset["samples"].values[: across * min(rows, MOST_ROWS)] for dataset in datasets]
    height = max(-(-len(images) // across) for images in shown)
    with applied(look):
        cell = (look.width - 0.1 * len(datasets)) / (across * len(datasets))
        picture = Picture(
            look, figsize=(look.width, height * cell + 3 * look.text / marks.POINTS), layout="constrained"
        )
        places = picture.subplots(1, len(datasets), squeeze=False)[0]
        for axes, images, name in zip(places, shown, names, strict=True):
            axes.imshow(mosaic(images, across), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.set_title(marks.literal(name))
    picture.rows = [row for images, name in zip(shown, names, strict=True) for row in table(images, name)]
    largest = max(float(np.abs(images).max()) for images in shown)
    counts = [f"{len(images)} of {dataset.sizes['sample']}" for images, dataset in zip(shown, datasets, strict=True)]
    picture.caption = wording.caption(
        [
            f"Samples of {', '.join(names)}: the first n = {', '.join(counts)} in the order stored, none chosen",
            "Values from -1 (black) to 1 (white), without unit or norm, cut where they lie outside; the largest "
            f"magnitude is {largest:.3g}",
        ]
    )
    return picture


def mosaic(images: np.ndarray, across: int) -> np.ndarray:
    """Images as one, a pixel apart, in [0, 1]; white where there is none.

    Args:
        images: (sample, channel, row, column) in [-1, 1].
        across: In a row.
    """
    number, channels, height, width = images.shape
    down = -(-number // across)
    bands = 3 if channels == 3 else 1
    page = np.ones((down * (height + 1) - 1, across * (width + 1) - 1, bands))
    for i, image in enumerate(images):
        y, x = (i // across) * (height + 1), (i % across) * (width + 1)
        page[y : y + height, x : x + width] = np.moveaxis(np.clip(image[:bands] / 2 + 0.5, 0, 1), 0, -1)
    return page if bands == 3 else page[..., 0]


def table(images: np.ndarray, name: str) -> list[Row]:
    """Every image's mean and extremes: the images themselves are in the file they came from."""
    found: list[Row] = []
    for i, image in enumerate(images):
        of = {"mean": image.mean(), "standard_deviation": image.std(), "min": image.min(), "max": image.max()}
        found.append({"series": name, "sample": i, **{key: float(value) for key, value in of.items()}})
    return found
