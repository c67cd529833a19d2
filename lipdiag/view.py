"""A result as its reader meets it: a table in a terminal and in Jupyter, rows for pandas, and JSON."""

import html
import json
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import atomic_write
from .printing import WIDTH, Row, aligned, plain
from .text import printable


class View(ABC):
    """A result that can be read: a class of results says its rows, its JSON, and what to print.

    A dataclass among them is made with `repr=False`, so that the table is what an interpreter shows.
    """

    @abstractmethod
    def rows(self) -> list[Row]:
        """The numbers in tidy form, a row an observation, in full precision."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All that was found, as strict JSON allows it."""

    def shown(self) -> Sequence[Mapping[str, Any]]:
        """The rows of the table that a person reads; those of `rows` unless a class knows better."""
        return self.rows()

    def said(self) -> Sequence[str]:
        """What has to be known of the numbers, in sentences."""
        return ()

    def __str__(self) -> str:
        sentences = [textwrap.fill(printable(line), WIDTH, subsequent_indent="  ") for line in self.said()]
        return "\n\n".join("\n".join(lines) for lines in (as_lines(self.shown()), sentences) if lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        return as_html(self.shown(), self.said())

    def to_dataframe(self) -> Any:
        """The rows as a pandas table."""
        import pandas as pd  # type: ignore[import-untyped]

        return pd.DataFrame(self.rows())

    def to_json(self, path: str | Path | None = None) -> str:
        """One line of strict JSON, also written to `path` where one is given.

        Raises:
            StorageError: If the file cannot be written.
        """
        text = json.dumps(self.to_dict(), allow_nan=False)
        if path is not None:
            atomic_write(Path(path), (text + "\n").encode())
        return text


def as_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows as lines of text under their names, numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = [names, *([cell(row.get(name, "")) for name in names] for row in rows)]
    sides = [">" if all(isinstance(row.get(name, 0), int | float) for row in rows) else "<" for name in names]
    return aligned(table, sides) if rows else []


def as_html(rows: Sequence[Mapping[str, Any]], sentences: Iterable[str] = ()) -> str:
    """Rows as a table and sentences as paragraphs, every text escaped."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def line(tag: str, cells: Sequence[object]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escaped(value)}</{tag}>" for value in cells) + "</tr>"

    body = "".join(line("td", [row.get(name, "") for name in names]) for row in rows)
    table = f"<table><thead>{line('th', names)}</thead><tbody>{body}</tbody></table>" if rows else ""
    return table + "".join(f"<p>{escaped(sentence)}</p>" for sentence in sentences)


def escaped(value: object) -> str:
    return html.escape(cell(value))


def cell(value: object) -> str:
    """A value as a table has it: a number with three digits, a text made harmless."""
    if isinstance(value, float):  # numpy's too
        return plain(float(value))
    return printable(str(value))
