"""matplotlib, brought in without the backend that the environment names: figures here have a canvas of their own.

A notebook hands its MPLBACKEND on to every program started from it, and matplotlib refuses even to be imported where
that names a backend of another environment.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


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
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

__all__ = ["Figure", "FigureCanvasAgg", "matplotlib"]
