"""What the doctor says: a verdict, faults with their evidence, and every check beside its threshold."""

import html
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..printing import WIDTH, Column, lines, plain
from ..statistics import Estimate
from .fault import Fault


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


@dataclass(frozen=True)
class Diagnosis:
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
    """

    label: str
    about: str
    level: float
    faults: tuple[Fault, ...]
    lines: tuple[Line, ...] = ()
    missing: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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

    def __str__(self) -> str:
        parts = [wrapped(self.headline)]
        parts += [wrapped(f"undecided: {reason}") for reason in self.undecided]
        for fault in self.faults:
            parts.append("\n".join([wrapped(f"{fault.name}{where(fault)}"), *(indented(t) for t in told(fault))]))
        if self.lines:
            parts.append(table(self.lines))
        parts += [wrapped(note) for note in (*self.missing, *self.notes)]
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        def cells(kind: str, texts: Iterable[str]) -> str:
            return "<tr>" + "".join(f"<{kind}>{html.escape(text)}</{kind}>" for text in texts) + "</tr>"

        faults = "".join(
            f"<li><b>{html.escape(fault.name)}</b>{html.escape(where(fault))}<br>"
            + "<br>".join(html.escape(text) for text in told(fault))
            + "</li>"
            for fault in self.faults
        )
        rows = "".join(cells("td", row) for row in cells_of(self.lines))
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in (*self.undecided, *self.missing, *self.notes))
        return (
            f"<p>{html.escape(self.headline)}</p><ul>{faults}</ul><table>{cells('th', HEADINGS)}{rows}</table>{notes}"
        )


HEADINGS = ("check", "allowed", "found", "at timestep", "p")


def cells_of(found: Iterable[Line]) -> list[tuple[str, ...]]:
    """Rows of the table of checks."""
    return [
        (
            line.check,
            f"{line.threshold:g}",
            str(line.estimate).partition(", n")[0],
            "several" if line.timestep is None else f"{line.timestep:.4g}",
            plain(line.p_value, 2),
        )
        for line in found
    ]


def table(found: Iterable[Line]) -> str:
    """The table of checks, for a terminal."""
    rows = cells_of(found)
    columns = [Column(name, "", [row[i] for row in rows]) for i, name in enumerate(HEADINGS)]
    return lines("each check where it is nearest to its threshold, or farthest beyond it:", columns)


def where(fault: Fault) -> str:
    """At which timesteps, in a few words."""
    if not fault.timesteps:
        return ""
    if len(fault.timesteps) == 1:
        return f" at timestep {fault.timesteps[0]:.4g}"
    first, last = min(fault.timesteps), max(fault.timesteps)
    return f" at {len(fault.timesteps)} timesteps from {first:.4g} to {last:.4g}"


def told(fault: Fault) -> list[str]:
    """Evidence, what else is seen with it, and what to do."""
    also = f"with it go: {', '.join(fault.also)}" if fault.also else ""
    return [text for text in (fault.evidence, also, f"to do: {fault.remedy}") if text]


def wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def indented(text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
