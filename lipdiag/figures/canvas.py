"""A figure that carries the data it shows and the words under it, and files that are the same byte for byte.

A file holds no date, no random name and no outside font, and is written under another name and renamed, so that it
exists whole or not at all.
"""

import io
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import StorageError, UsageError
from ..files import replace_file
from ..printing import Row, rows_as_csv
from .backend import Figure, FigureCanvasAgg, matplotlib
from .style import Style, applied

UNDATED: dict[str, dict[str, None]] = {
    ".pdf": {"CreationDate": None, "ModDate": None},
    ".svg": {"Date": None},
    ".png": {},
}
"""The formats, and what to leave out of their metadata."""


class Picture(Figure):
    """A matplotlib figure with its data and its caption; files of it are reproducible.

    It is drawn in its own style too: matplotlib makes ticks, and looks many settings up, only then.

    Attributes:
        style: The preset.
        rows: What is drawn, one row a point.
        caption: What the figure shows, for the paper.
    """

    def __init__(self, style: Style, **options: Any):
        super().__init__(**options)
        FigureCanvasAgg(self)
        self.style = style
        self.rows: list[Row] = []
        self.caption = ""

    def draw(self, renderer: Any) -> None:
        with applied(self.style):
            super().draw(renderer)

    def get_tightbbox(self, *args: Any, **options: Any) -> Any:
        with applied(self.style):
            return super().get_tightbbox(*args, **options)

    def savefig(self, fname: Any, **options: Any) -> None:
        """Write the figure as matplotlib does, but with TrueType fonts in PDF, and without dates."""
        suffix = f".{options['format']}" if options.get("format") else Path(str(getattr(fname, "name", fname))).suffix
        metadata = {**UNDATED.get(suffix.lower(), {}), **(options.pop("metadata", None) or {})}
        with applied(self.style):
            super().savefig(fname, metadata=metadata or None, **options)

    def settle(self) -> "Picture":
        """Lay the figure out once and for all, rather than again for every file."""
        self.draw_without_rendering()
        self.set_layout_engine("none")
        return self

    def contents(self, suffix: str, **options: Any) -> bytes:
        """The file of this figure, `.pdf`, `.svg` or `.png`."""
        buffer = io.BytesIO()
        self.savefig(buffer, format=suffix.lstrip("."), **options)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        """Shown in a notebook where no plotting backend is set up."""
        return self.contents(".png", dpi=150)


def blank(style: Style, panels: int) -> tuple[Picture, list[Any]]:
    """An empty picture of the preset's exact width, with its panels; inside `applied`.

    Args:
        style: The preset.
        panels: How many.
    """
    columns = min(style.columns, panels)
    rows = math.ceil(panels / columns)
    picture = Picture(style, figsize=(style.width, rows * style.panel), layout="constrained")
    axes = list(picture.subplots(rows, columns, squeeze=False).flat)
    for empty in axes[panels:]:
        empty.remove()
    return picture, axes[:panels]


def save(
    figure: Figure,
    path: str | os.PathLike[str],
    data: Iterable[Mapping[str, Any]] | None = None,
    dpi: float | None = None,
) -> list[Path]:
    """Write a figure, and the data it shows as CSV beside it.

    Args:
        figure: Any figure; one of `plot` brings its data.
        path: Ends in `.pdf`, `.svg` or `.png`.
        data: Rows of the CSV file, where the figure does not bring its own.
        dpi: Of a `.png`; by default 300.

    Returns:
        The files written.

    Raises:
        UsageError: For another suffix.
        StorageError: If a file cannot be written; what was there before is untouched.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in UNDATED:
        raise UsageError(f"cannot write a figure to {path}: its name must end in {', '.join(UNDATED)}")
    rows = list(figure.rows if data is None and isinstance(figure, Picture) else data or [])
    resolution = {} if dpi is None else {"dpi": dpi}
    content = figure.contents(suffix, **resolution) if isinstance(figure, Picture) else _plain(figure, suffix)
    written = [write(path, content)]
    if rows:
        written.append(write(path.with_suffix(".csv"), rows_as_csv(rows).encode()))
    return written


def _plain(figure: Figure, suffix: str) -> bytes:
    """The file of a figure that another library made."""
    buffer = io.BytesIO()
    saving = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "lipdiag"}
    with matplotlib.rc_context(saving):
        figure.savefig(buffer, format=suffix[1:], metadata=UNDATED[suffix] or None)
    return buffer.getvalue()


def write(path: Path, content: bytes) -> Path:
    """Write a file whole, in the place of the old one if there is one.

    Raises:
        StorageError: If that cannot be done; what was there before is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return path
