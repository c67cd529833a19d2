"""Datasets -> figures, tables and pages; no model is ever loaded.

Every public name is imported when it is first used, so that a table costs no plotting library. The package is also the
function that writes a page, `lipdiag.report(runs, "report.html")`.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
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
    "advise": "advice",
    "explore": "explorer",
    "over_logsnr": "axis",
}

__all__ = [
    "FIGURES",
    "STYLES",
    "FigureSpec",
    "Picture",
    "advise",
    "caption",
    "explore",
    "open_source",
    "over_logsnr",
    "plot",
    "report",
    "save",
]

if TYPE_CHECKING:
    import xarray as xr

    from ..advice.sharing import advise
    from ..figures.canvas import Picture, save
    from ..figures.explorer import explore
    from ..figures.gallery import FIGURES, FigureSpec, caption, plot
    from ..figures.style import STYLES
    from ..results.axis import over_logsnr
    from ..results.source import open_source


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lipdiag.report' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class Report(ModuleType):
    """This package, which can be called."""

    def __call__(
        self,
        runs: "xr.Dataset | Sequence[xr.Dataset]",
        path: str | os.PathLike[str] = "report.html",
        labels: Sequence[str] | None = None,
    ) -> Path:
        """Write a page about one or several runs; see `page.report`."""
        from .page import report

        return report(runs, path, labels)


report = sys.modules[__name__]
report.__class__ = Report
