"""Numbers and tables as text: as many digits as they deserve, columns that fit a terminal, rows as CSV."""

import csv
import hashlib
import io
import itertools
import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, SupportsInt

Row = dict[str, str | float | int]
"""What a figure or a table shows, a point or a line of it: column -> value."""

WIDTH = 80
"""Characters of a terminal's line."""


def plain(value: float, digits: int = 3) -> str:
    """A number with that many digits."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if not -3 <= size < 5:
        return _short(f"{value:.{digits - 1}e}")
    return f"{value:.{max(0, digits - 1 - size)}f}"


def with_half_width(mean: float, half: float) -> str:
    """A mean with the half-width of its interval, to two digits of the latter; exact zeros are said to be so."""
    if not math.isfinite(mean):
        return "-"
    if mean == 0 and half == 0:
        return "exactly 0"
    if not math.isfinite(half) or half <= 0:
        return plain(mean)
    size = math.floor(math.log10(half))
    largest = math.floor(math.log10(max(abs(mean), half)))
    if size < -4 or largest >= 5:
        return f"{_short(f'{mean:.{min(4, max(1, largest - size))}e}')} +- {_short(f'{half:.0e}')}"
    decimals = max(0, 1 - size)
    return f"{mean:.{decimals}f} +- {half:.{decimals}f}"


def counted(number: SupportsInt, noun: str) -> str:
    """So many of something: 1 pair, 2 pairs."""
    return f"{int(number)} {noun}{'' if int(number) == 1 else 's'}"


def _short(text: str) -> str:
    """1.0e-05 as 1.0e-5."""
    return text.replace("e-0", "e-").replace("e+0", "e+")


LISTED = 12
"""Numbers of a list that are written out."""

NUMBER = re.compile(r"[-+.\deE]+")
LIST = re.compile(r"[(\[]([^()\[\]]*)[)\]]")


def shortened(text: str) -> str:
    """A text in which each long list of numbers is told by their count, its ends and the start of its SHA-256."""

    def told(match: re.Match[str]) -> str:
        entries = [entry.strip() for entry in match[1].split(",") if entry.strip()]
        if len(entries) <= LISTED or not all(map(NUMBER.fullmatch, entries)):
            return match[0]
        digest = hashlib.sha256(", ".join(entries).encode()).hexdigest()
        inside = f"{len(entries)} numbers from {entries[0]} to {entries[-1]}, SHA-256 {digest[:12]}"
        return f"{match[0][0]}{inside}{match[0][-1]}"

    return LIST.sub(told, text)


class Column(NamedTuple):
    """A title in two lines, a cell for each row of the table, and a footnote."""

    title: str
    subtitle: str
    cells: list[str]
    note: str = ""

    @property
    def width(self) -> int:
        return max(map(len, (self.title, self.subtitle, *self.cells)))


def abbreviated(labels: Sequence[str]) -> list[str]:
    """Labels without the words they all begin with: digits-ddpm and digits-etsdm are ddpm and etsdm."""
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*labels, strict=False))
    common = "".join(letters[0] for letters in same)
    cut = max(common.rfind(mark) for mark in "-_/ ") + 1
    return [label[cut:] or label for label in labels]


def cut(label: str, most: int) -> str:
    """The start of a label, so many letters of it; a number behind that tells it from another stays."""
    name, mark, number = label.rpartition(" (")
    return f"{name[: most - 2]}{mark}{number}" if re.fullmatch(r"\d\)", number) else label[:most]


def aligned(rows: Sequence[Sequence[str]], sides: Sequence[str] = (), gap: int = 2) -> list[str]:
    """Rows of cells as lines of text, each column as wide as its longest cell.

    Args:
        rows: As many cells in each.
        sides: Where each column's cells stand, "<" or ">"; all to the left by default.
        gap: Spaces between two columns.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    places = list(zip(sides or "<" * len(widths), widths, strict=True))
    cells = ([f"{cell:{side}{width}}" for cell, (side, width) in zip(row, places, strict=True)] for row in rows)
    return [(" " * gap).join(row).rstrip() for row in cells]


def lines(heading: str, columns: Sequence[Column]) -> str:
    """The columns, right-aligned under their titles, with their footnotes."""
    rows = [[column.title for column in columns], [column.subtitle for column in columns]]
    rows += [[column.cells[i] for column in columns] for i in range(len(columns[0].cells))]
    gap = 3 if sum(column.width + 3 for column in columns) <= WIDTH else 2
    notes = [column.note for column in columns if column.note]
    return "\n".join([heading, "", *filter(None, aligned(rows, ">" * len(columns), gap)), *notes])


def as_text(value: Any) -> str:
    """A value of JSON as a person reads it; of long lists of numbers the count, the ends and a digest."""
    parts = value if isinstance(value, list) and all(isinstance(part, str) for part in value) else [value]
    return shortened("; ".join(part if isinstance(part, str) else json.dumps(part) for part in parts))


SPELLED = {"sha256": "sha256 of files"}
"""Facts that a person is told more of than a program: pages tell a sha256 of tensors too."""


def describe_facts(facts: dict[str, Any]) -> str:
    """Names and values in two columns that fit a terminal; empty values are left out, long ones wrapped or told."""
    lines = []
    for name, value in facts.items():
        if value in (None, [], {}, ""):
            continue
        first = f"{SPELLED.get(name, name) + ':':<18}"
        lines += textwrap.wrap(as_text(value), WIDTH, initial_indent=first, subsequent_indent=" " * 18)
    return "\n".join(lines)


QUOTED = re.compile(r'`[^`]*`|"[^"]*"')


def folded(text: str, width: int) -> str:
    """A text with its long lines folded at words; what they quote is not torn, so that it can be copied."""
    kept = QUOTED.sub(lambda quoted: quoted[0].replace(" ", "\0"), text).splitlines()
    parts = [
        textwrap.wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        if len(line) > width
        else [line]
        for line in kept
    ]
    return "\n".join(line for part in parts for line in part).replace("\0", " ")


def rows_as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; numbers in full precision, empty where a row lacks a column."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: written(value) for name, value in row.items()})
    return out.getvalue()


def written(value: Any) -> str:
    if isinstance(value, float):  # numpy's too
        return "" if math.isnan(value) else repr(float(value))
    return str(value)
