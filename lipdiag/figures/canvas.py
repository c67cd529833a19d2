"""A figure that carries the data it shows and the words under it, and files that are the same byte for byte.

A file holds no date, no random name and no outside font, and is written under another name and renamed, so that it
exists whole or not at all.
"""

import io
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import atomic_write, make_folder
from ..printing import Row, rows_as_csv
from .backend import Figure, FigureCanvasAgg, HandlerTuple, Line2D, LogFormatterSciNotation, matplotlib
from .style import Style, applied, preset

UNDATED: dict[str, dict[str, None]] = {
    ".pdf": {"CreationDate": None, "ModDate": None},
    ".svg": {"Date": None},
    ".png": {},
}
"""The formats, and what to leave out of their metadata."""


LONGEST = 48
"""Characters of a legend's text that fit the narrowest column."""

POINTS = 72
"""In an inch."""

LINE_SPACING = 1.3

PLAIN = 1e-3, 1e4
"""Numbers from the first to below the second are written out at ticks between powers of ten."""


class Picture(Figure):
    """The canvas of a figure: panels with letters, one legend, and beside them the data and the caption.

    It is a matplotlib figure, whose files are reproducible. It is drawn in its own style too: matplotlib makes ticks,
    and looks many settings up, only then.

    Attributes:
        style: The preset.
        rows: What is drawn, one row a point.
        said: The caption's sentences, without full stops; empty ones are left out.
        keys: The legend's entries, what is drawn and what it is called.
    """

    def __init__(self, style: Style):
        super().__init__(figsize=(style.width, style.panel), layout="constrained")
        FigureCanvasAgg(self)
        self.style = style
        self.rows: list[Row] = []
        self.said: list[str] = []
        self.keys: list[tuple[Any, str]] = []
        self.titles = 0

    @property
    def caption(self) -> str:
        """What the figure shows, for the paper."""
        return " ".join(f"{sentence}." for sentence in self.said if sentence)

    def panels(self, count: int) -> list[Any]:
        """So many axes, beside each other as far as the preset has columns."""
        columns = min(self.style.columns, count)
        rows = math.ceil(count / columns)
        self.set_size_inches(self.style.width, rows * self.style.panel)
        axes = list(self.subplots(rows, columns, squeeze=False).flat)
        for empty in axes[count:]:
            empty.remove()
        return axes[:count]

    def title(self, axes: Any, text: str) -> None:
        """Name a panel, after the letter whose turn it is."""
        axes.set_title(f"({letter(self.titles)}) {text}")
        self.titles += 1

    def key(self, text: str, **stroke: Any) -> None:
        """Add a line that is drawn like this to the legend."""
        self.keys.append((Line2D([], [], **stroke), text))

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


class Between(LogFormatterSciNotation):
    """Labels between powers of ten, where there is room for them, as the numbers they are: 0.6 and not 6 x 10^-1."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = super().__call__(x, pos)
        return f"{x:g}" if text and PLAIN[0] <= abs(x) < PLAIN[1] else text


def letter(number: int) -> str:
    """A panel's letter: a to z, then aa, ab and so on, as columns of a sheet."""
    return (letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def drawing(drawer: Callable[..., None], subject: Any, style: str, **options: Any) -> Picture:
    """A picture in a preset's style, with the legend of what its drawer put on it.

    Args:
        drawer: Takes the empty picture, the subject and the options.
        subject: What is to be drawn, such as runs.
        style: A preset's name.
        options: Of that drawer.

    Raises:
        UsageError: If there is no such style.
    """
    look = preset(style)
    with applied(look):
        picture = Picture(look)
        drawer(picture, subject, **options)
        for axis in (axis for axes in picture.axes for axis in (axes.xaxis, axes.yaxis)):
            if axis.get_scale() == "log" and isinstance(axis.get_minor_formatter(), LogFormatterSciNotation):
                axis.set_minor_formatter(Between())
        if picture.keys:
            add_legend(picture)
    return picture


def add_legend(picture: Picture) -> None:
    """One legend above all panels, where it covers nothing, in as many columns as fit; the picture grows by it."""
    look = picture.style
    handles, texts = zip(*picture.keys, strict=True)
    room = picture.get_figwidth() * picture.dpi
    for columns in range(look.legend, 0, -1):
        if columns == 1:
            texts = tuple(text if len(text) <= LONGEST else f"{text[: LONGEST - 1].rstrip(chr(92))}…" for text in texts)
        tuples = {tuple: HandlerTuple(ndivide=None, pad=0)}
        legend = picture.legend(handles, texts, loc="outside upper center", ncols=columns, handler_map=tuples)
        if columns == 1 or legend.get_window_extent().width <= room:
            break
        legend.remove()
    rows = -(-len(texts) // columns)
    picture.set_figheight(picture.get_figheight() + LINE_SPACING * rows * look.small / POINTS)


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
    content = figure.contents(suffix, **resolution) if isinstance(figure, Picture) else _undated(figure, suffix)
    written = [write(path, content)]
    if rows:
        written.append(write(path.with_suffix(".csv"), rows_as_csv(rows).encode()))
    return written


def _undated(figure: Figure, suffix: str) -> bytes:
    """The file of a figure that another library made."""
    buffer = io.BytesIO()
    saving = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "lipdiag"}
    with matplotlib.rc_context(saving):
        figure.savefig(buffer, format=suffix[1:], metadata=UNDATED[suffix] or None)
    return buffer.getvalue()


def write(path: Path, content: bytes) -> Path:
    """Write a file whole, in the place of the old one if there is one, and make the folder it lies in.

    Raises:
        StorageError: If that cannot be done; what was there before is untouched.
    """
    make_folder(path.parent)
    atomic_write(path, content)
    return path
