"""What the doctor says: a verdict, faults with their evidence, and every check beside its threshold."""

import html
import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..printing import WIDTH, Column, Row, lines, plain
from ..statistics import Estimate
from ..view import View
from .fault import Fault

HEADINGS = ("check", "allowed", "found", "at timestep", "p")
TITLE = "each check where it is nearest to its threshold, or farthest beyond it:"
LINKS = ("timestep", "input", "x embedding", "x network", "= output")
CHAIN = "change per timestep of the embedding's input, its growth, and what comes of it:"


@dataclass(frozen=True)
class Line:
    """A check where it came nearest to its threshold, or farthest beyond it.

    Attributes:
        check: Its name.
        threshold: Allowed.
        estimate: Found.
        timestep: Where; None where it is over several.
        p_value: Among all tests (Holm).
        tests: How many of them are this check's.
        looks: What is compared.
    """

    check: str
    threshold: float
    estimate: Estimate
    timestep: float | None
    p_value: float
    tests: int
    looks: str


class Link(NamedTuple):
    """How the change of the network's output from a timestep to the next comes about: a product of three.

    Attributes:
        timestep: The first of both.
        given: Change of what the embedding of time is given.
        embedding: By how much the embedding enlarges it.
        network: By how much the rest of the network enlarges the change of the embedding.
        output: Change of the output, the product.
    """

    timestep: float
    given: float
    embedding: float
    network: float
    output: float


@dataclass(frozen=True, repr=False)
class Diagnosis(View):
    """What is wrong with a model, where, and how sure that is.

    Attributes:
        label: The model.
        about: What was looked at.
        level: False-alarm rate of all tests together.
        faults: What is wrong, causes first.
        lines: Every check that was tried.
        missing: What could not be judged, and the command that measures it.
        undecided: Why nothing certain can be said.
        notes: What else has to be known.
        chain: How the change of the output with the timestep comes about, where the embedding of time is known.
    """

    label: str
    about: str
    level: float
    faults: tuple[Fault, ...]
    lines: tuple[Line, ...] = ()
    missing: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    chain: tuple[Link, ...] = ()

    @property
    def verdict(self) -> str:
        """`healthy`, `faults` or `undecided`."""
        if self.undecided:
            return "undecided"
        return "faults" if self.faults else "undecided" if self.missing else "healthy"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        checks = [
            {"name": c.check, "threshold": c.threshold, "estimate": c.estimate.to_dict(), "timestep": c.timestep}
            | {"p_value": c.p_value, "tests": c.tests}
            for c in self.lines
        ]
        return {
            "verdict": self.verdict,
            "faults": [fault.to_dict() for fault in self.faults],
            "model": self.label,
            "about": self.about,
            "level": self.level,
            "checks": checks,
            "missing": list(self.missing),
            "undecided": list(self.undecided),
            "notes": list(self.notes),
            "chain": [link._asdict() for link in self.chain],
        }

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        tests = sum(line.tests for line in self.lines)
        said = {
            "healthy": "no fault was found",
            "faults": " and ".join(fault.name for fault in self.faults),
            "undecided": "undecided",
        }[self.verdict]
        judged = f"{len(self.lines)} checks, {tests} tests judged together at a false-alarm rate of {self.level:.3g}"
        return f"{self.label}: {said}. {self.about}; {judged}."

    def rows(self) -> list[Row]:
        """A row a check."""
        return [
            {
                "check": line.check,
                "threshold": line.threshold,
                "estimate": line.estimate.value,
                "low": line.estimate.low,
                "high": line.estimate.high,
                "timestep": math.nan if line.timestep is None else line.timestep,
                "p_value": line.p_value,
                "tests": line.tests,
            }
            for line in self.lines
        ]

    @property
    def cells(self) -> list[tuple[str, ...]]:
        """The table of checks, as it is printed."""
        return [
            (
                line.check,
                f"{line.threshold:g}",
                str(line.estimate).partition(", n")[0],
                "several" if line.timestep is None else f"{line.timestep:.4g}",
                plain(line.p_value, 2),
            )
            for line in self.lines
        ]

    def __str__(self) -> str:
        parts = [wrapped(self.headline), *(wrapped(f"undecided: {reason}") for reason in self.undecided)]
        for fault in self.faults:
            parts.append("\n".join([wrapped(f"{fault.name}{fault.where}"), *(wrapped(t, "  ") for t in fault.told)]))
        if self.lines:
            columns = [Column(name, "", [row[i] for row in self.cells]) for i, name in enumerate(HEADINGS)]
            parts.append(lines(TITLE, columns))
        if self.chain:
            rows = zip(*self.chain, strict=True)
            columns = [Column(name, "", list(map(plain, row))) for name, row in zip(LINKS, rows, strict=True)]
            parts.append(lines(CHAIN, columns))
        return "\n\n".join([*parts, *(wrapped(note) for note in (*self.missing, *self.notes))])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def cells(kind: str, texts: Iterable[str]) -> str:
            return "<tr>" + "".join(f"<{kind}>{html.escape(text)}</{kind}>" for text in texts) + "</tr>"

        faults = "".join(
            f"<li><b>{html.escape(fault.name)}</b>{html.escape(fault.where)}<br>"
            + "<br>".join(html.escape(text) for text in fault.told)
            + "</li>"
            for fault in self.faults
        )
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in (*self.undecided, *self.missing, *self.notes))
        table = cells("th", HEADINGS) + "".join(cells("td", row) for row in self.cells)
        chain = cells("th", LINKS) + "".join(cells("td", map(plain, link)) for link in self.chain)
        chain = f"<p>{CHAIN}</p><table>{chain}</table>" if self.chain else ""
        return f"<p>{html.escape(self.headline)}</p><ul>{faults}</ul><table>{table}</table>{chain}{notes}"


def wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
