"""matplotlib, brought in so that neither the environment's backend nor the machine's fonts matter to a figure.

A notebook hands its MPLBACKEND on to every program started from it, and matplotlib refuses even to be imported where
that names a backend of another environment. Fonts it looks up by name in a list that it keeps in the user's cache,
which may have been written on another day, or by a program that could not open all of them: without STIX in it every
figure would be drawn in another font, wider than its place.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def without_backend() -> Iterator[None]:
    """Hide the environment's backend while matplotlib is imported, and give it back to who plots with it later."""
    named = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if named is not None:
        with suppress(ValueError):  # it is not at hand here, which is the caller's own import of pyplot to say
            matplotlib.rcParams["backend"] = named


with without_backend():
    import matplotlib
    import matplotlib.font_manager
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.figure import Figure
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import LogFormatterSciNotation


def prefer_shipped_fonts() -> None:
    """Put the fonts that come with matplotlib at the head of its list: of equal matches the first is drawn."""
    manager = matplotlib.font_manager.fontManager
    listed, manager.ttflist = manager.ttflist, []
    for path in sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("*.ttf")):
        if path.name.startswith(("STIX", "DejaVu")):  # those of the style file and of its presets
            manager.addfont(path)
    manager.ttflist += listed


prefer_shipped_fonts()

__all__ = [
    "Figure", "FigureCanvasAgg", "HandlerTuple", "Line2D", "ListedColormap", "LogFormatterSciNotation", "LogNorm",
    "Patch", "matplotlib",
]  # fmt: skip
