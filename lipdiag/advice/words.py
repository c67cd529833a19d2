"""An advice in words, with one table and what is to be pasted elsewhere: for a terminal, and for a notebook."""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from ..printing import WIDTH


@dataclass(frozen=True)
class Words:
    """What an advice says.

    Attributes:
        said: Sentences before the table.
        rows: The table, its titles first.
        notes: Sentences after it.
        code: To be pasted, with what it is for; printed as it is.
        caution: What it does not promise.
    """

    said: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    code: Sequence[tuple[str, str]] = ()
    caution: str = ""

    def __str__(self) -> str:
        """For a terminal of 80 columns; what is to be pasted is broken at spaces alone."""
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in self.rows
        ]
        code = [f"{name}:\n{filled(line)}" for name, line in self.code]
        wrapped = [
            [textwrap.fill(s, WIDTH) for s in said] for said in (self.said, self.notes, filter(None, [self.caution]))
        ]
        parts = [wrapped[0], [*table, *wrapped[1]], code, wrapped[2]]
        return "\n\n".join("\n".join(part) for part in parts if part)

    def page(self) -> str:
        """For a notebook: the same as HTML."""

        def paragraphs(said: Sequence[str]) -> str:
            return "".join(f"<p>{html.escape(sentence)}</p>" for sentence in said if sentence)

        def line(row: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

        table = "".join(line(row, "td" if number else "th") for number, row in enumerate(self.rows))
        code = "\n".join(f"{name}:\n{line}" for name, line in self.code)
        return (
            paragraphs(self.said)
            + (f"<table>{table}</table>" if table else "")
            + paragraphs(self.notes)
            + (f"<pre>{html.escape(code)}</pre>" if code else "")
            + paragraphs([self.caution])
        )


def filled(line: str) -> str:
    """What is to be pasted: a command with its lines joined as a shell joins them, a list broken after commas."""
    if line.startswith("--"):
        return line
    lines = textwrap.wrap(line, WIDTH - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return (" \\\n" if line.startswith("lipdiag ") else "\n").join(lines)
