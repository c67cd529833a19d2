"""Datasets -> figures that carry their data and their caption; no model is ever loaded."""

from typing import TYPE_CHECKING

from ..lazy import lazy

__all__ = ["FIGURES", "STYLES", "FigureSpec", "Picture", "explore", "plot", "save"]

if TYPE_CHECKING:
    from .canvas import Picture, save
    from .explorer import explore
    from .gallery import FIGURES, FigureSpec, plot
    from .style import STYLES

__getattr__, __dir__ = lazy(
    __name__,
    {
        "FIGURES": "gallery",
        "FigureSpec": "gallery",
        "plot": "gallery",
        "Picture": "canvas",
        "save": "canvas",
        "STYLES": "style",
        "explore": "explorer",
    },
)
