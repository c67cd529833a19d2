"""An advice in words, with one table and what is to be pasted elsewhere: for a terminal, and for a notebook."""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from ..printing import WIDTH, aligned
from ..view import as_html


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
        code = [f"{name}:\n{filled(line)}" for name, line in self.code]
        wrapped = [
            [textwrap.fill(s, WIDTH) for s in said] for said in (self.said, self.notes, filter(None, [self.caution]))
        ]
        parts = [wrapped[0], [*aligned(self.rows), *wrapped[1]], code, wrapped[2]]
        return "\n\n".join("\n".join(part) for part in parts if part)

    def page(self) -> str:
        """For a notebook: the same as HTML."""
        titles, *rows = self.rows or [()]
        code = html.escape("\n".join(f"{name}:\n{line}" for name, line in self.code))
        return (
            as_html((), self.said)
            + as_html([dict(zip(titles, row, strict=True)) for row in rows], self.notes)
            + (f"<pre>{code}</pre>" if code else "")
            + as_html((), filter(None, [self.caution]))
        )


def filled(line: str) -> str:
    """What is to be pasted: a command with its lines joined as a shell joins them, a list broken after commas."""
    if line.startswith("--"):
        return line
    lines = textwrap.wrap(line, WIDTH - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return (" \\\n" if line.startswith("lipdiag ") else "\n").join(lines)
