"""Datasets -> figures and tables; no model is ever loaded.

Every public name is imported when it is first used, so that a table costs no plotting library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "FIGURES": "gallery",
    "FigureSpec": "gallery",
    "plot": "gallery",
    "caption": "gallery",
    "save": "picture",
    "Picture": "picture",
    "STYLES": "style",
    "open_source": "source",
}

__all__ = ["FIGURES", "STYLES", "FigureSpec", "Picture", "caption", "open_source", "plot", "save"]

if TYPE_CHECKING:
    from .gallery import FIGURES, FigureSpec, caption, plot
    from .picture import Picture, save
    from .source import open_source
    from .style import STYLES


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lipdiag.report' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
