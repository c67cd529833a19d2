"""Samples as pictures: pixels, and many pictures side by side."""

import math

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError

CHANNELS = (1, 3, 4)
SMALLEST = 32
"""Pixels along the shorter side below which a picture in a grid is enlarged, by a whole factor."""


def pixels(x: Float[Tensor, "n *event"]) -> np.ndarray:
    """Samples in [-1, 1] as 8-bit pictures (n, height, width, channels); values beyond are cut.

    Raises:
        UsageError: If the samples are no pictures.
    """
    if x.ndim != 4 or x.shape[1] not in CHANNELS:
        raise UsageError(f"samples of shape {tuple(x.shape[1:])} are no pictures: write them to a .npz file")
    levels = ((x.double().cpu().clamp(-1, 1) + 1) * 127.5).round()
    return levels.numpy().astype(np.uint8).transpose(0, 2, 3, 1)


def grid(pictures: np.ndarray) -> np.ndarray:
    """Pictures side by side in a rectangle that is about square, small ones enlarged, (height, width, channels)."""
    n, height, width, channels = pictures.shape
    factor = -(-SMALLEST // min(height, width))
    large = pictures.repeat(factor, 1).repeat(factor, 2)
    columns = math.ceil(math.sqrt(n))
    rows = -(-n // columns)
    gap = 2
    cell_height, cell_width = height * factor + gap, width * factor + gap
    sheet = np.full((rows * cell_height + gap, columns * cell_width + gap, channels), 255, dtype=np.uint8)
    for i, one in enumerate(large):
        top, left = gap + i // columns * cell_height, gap + i % columns * cell_width
        sheet[top : top + height * factor, left : left + width * factor] = one
    return sheet


def png(picture: np.ndarray) -> bytes:
    """A picture (height, width, channels) as a PNG file."""
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(buffer, "PNG")
    return buffer.getvalue()
