"""How figures look: exact widths and sizes for each venue, one style file, colours that survive a grey printer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import unknown
from .backend import matplotlib

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
"""Okabe and Ito's, the first ones apart in grey. Not C0..C5, which are looked up in the user's settings when drawn."""

MARKERS = ("o", "D", "s", "^", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
THEORY = "0.25"
SHADES = ("0.915", "0.96")
"""Greys of neighbouring blocks."""

CYCLE = 6
"""Colours, markers and dashes, so many of each."""

INTERVAL_OPACITY = 0.38
QUANTILE_OPACITY = 0.16


def appearance(number: int) -> tuple[str, Any, str]:
    """Colour, dashes and marker of a line: 36 differ in grey, and six times as many in colour.

    Each further round of six gives the colours other dashes and markers than the rounds before it.
    """
    rounds, place = divmod(number, CYCLE)
    return colour(number), DASHES[(place + rounds) % CYCLE], MARKERS[(place + 2 * rounds) % CYCLE]


def colour(number: int) -> str:
    """The colour of a line and of what belongs to it."""
    return COLOURS[(number + number // CYCLE**2) % CYCLE]


@dataclass(frozen=True)
class Style:
    """A preset.

    Attributes:
        width: Of the figure in inches: the venue's text or column width, so that it is included unscaled.
        panel: Height of a row of panels, in inches.
        columns: Panels beside each other; in a narrow column they are stacked.
        text: Size of labels in points; ticks and legend are one point smaller, never below 7.
        legend: Columns of the legend.
        family: Of fonts, where the style file's does not suit.
        scale: Of lines and markers.
    """

    width: float
    panel: float
    columns: int
    text: float
    legend: int
    family: str | None = None
    scale: float = 1.0

    @property
    def small(self) -> float:
        return max(7.0, self.text - 1)

    @property
    def rc(self) -> dict[str, float | str]:
        """What differs from the style file."""
        sizes: dict[str, float | str] = {
            "font.size": self.text,
            "axes.labelsize": self.text,
            "axes.titlesize": self.text,
            **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), self.small),
        }
        if self.family is not None:
            sizes |= {"font.family": self.family, "mathtext.fontset": "dejavusans"}
        return sizes


STYLES = {
    "iclr": Style(width=5.5, panel=2.05, columns=2, text=8, legend=3),
    "neurips": Style(width=5.5, panel=2.05, columns=2, text=8, legend=3),
    "icml": Style(width=3.25, panel=1.7, columns=1, text=8, legend=2),
    "icml-wide": Style(width=6.75, panel=2.2, columns=2, text=8, legend=4),
    "cvpr": Style(width=3.25, panel=1.7, columns=1, text=8, legend=2),
    "cvpr-wide": Style(width=6.875, panel=2.2, columns=2, text=8, legend=4),
    "slides": Style(width=10.0, panel=3.9, columns=2, text=15, legend=3, family="DejaVu Sans", scale=1.8),
}

FILE = "lipdiag.figures.lipdiag"


def preset(name: str) -> Style:
    """The preset of that name.

    Raises:
        UsageError: If there is none.
    """
    if name not in STYLES:
        raise unknown("style", name, STYLES)
    return STYLES[name]


@contextmanager
def applied(style: Style) -> Iterator[None]:
    """matplotlib as the preset wants it; whatever the user set holds again afterwards."""
    with matplotlib.style.context(["default", FILE, _scaled(style), style.rc]):
        yield


def _scaled(style: Style) -> dict[str, float]:
    if style.scale == 1.0:
        return {}
    names = ("axes.linewidth", "lines.linewidth", "lines.markersize", "lines.markeredgewidth", "grid.linewidth")
    ticks = [f"{a}tick.{level}.{what}" for a in "xy" for level in ("major", "minor") for what in ("width", "size")]
    with matplotlib.style.context(["default", FILE]):
        return {name: style.scale * matplotlib.rcParams[name] for name in (*names, *ticks)}
