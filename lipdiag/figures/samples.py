"""Samples of one or several models, side by side: same place, same starting noise, if they were made with one seed."""

from collections.abc import Sequence

import numpy as np

from ..printing import Row
from ..results.source import Source
from . import marks
from .canvas import POINTS, Picture

COLUMNS = 16
"""Images beside each other over the whole width, of all models together."""

MOST_ROWS = 6


def samples(canvas: Picture, files: Sequence[Source], rows: int = 4) -> None:
    """A grid of images a model, the first ones stored, none chosen.

    Args:
        canvas: To draw on.
        files: Each with a variable `samples` (sample, channel, row, column) in [-1, 1].
        rows: The most rows of images.
    """
    look = canvas.style
    across = max(2, (COLUMNS if look.columns > 1 else COLUMNS // 2) // len(files))
    first = [file.dataset["samples"].values[: across * min(rows, MOST_ROWS)] for file in files]
    height = max(-(-len(images) // across) for images in first)
    cell = (look.width - 0.1 * len(files)) / (across * len(files))
    canvas.set_size_inches(look.width, height * cell + 3 * look.text / POINTS)
    for axes, images, file in zip(canvas.subplots(1, len(files), squeeze=False)[0], first, files, strict=True):
        axes.imshow(mosaic(images, across), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        marks.bare(axes)
        axes.set_title(marks.literal(file.label))
        canvas.rows += summaries(images, file.label)
    largest = max(float(np.abs(images).max()) for images in first)
    counts = [f"{len(images)} of {file.dataset.sizes['sample']}" for images, file in zip(first, files, strict=True)]
    canvas.said = [
        f"Samples of {', '.join(file.label for file in files)}: the first n = {', '.join(counts)} in the order stored, "
        "none chosen",
        "Values from -1 (black) to 1 (white), without unit or norm, cut where they lie outside; the largest "
        f"magnitude is {largest:.3g}",
    ]


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


def summaries(images: np.ndarray, name: str) -> list[Row]:
    """Every image's mean and extremes: the images themselves are in the file they came from."""
    rows: list[Row] = []
    for i, image in enumerate(images):
        of = {"mean": image.mean(), "standard_deviation": image.std(), "min": image.min(), "max": image.max()}
        rows.append({"series": name, "sample": i, **{key: float(value) for key, value in of.items()}})
    return rows
