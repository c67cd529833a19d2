"""A comparison as text for a terminal: K and its ratio at a dozen timesteps, then every statement with its verdict."""

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from ..printing import WIDTH, Column, abbreviated, aligned, cut, lines, plain
from ..results.places import pick, time_column
from .effect import Effect, Interval
from .statements import SPEED

if TYPE_CHECKING:
    from .comparison import Comparison

NARROW = 1e-3
"""An interval that is less of its value wide has ends that look like it."""

OPTIONAL = ("loss", "sensitivity", "spectral_norm")
"""Columns in the order in which they are shown, as far as they fit."""


def table(comparison: "Comparison") -> str:
    """Text of at most 80 columns.

    Args:
        comparison: What `compare` found.
    """
    heading = headline(comparison)
    said = remarks(comparison)
    parts = [curves(comparison, heading) if comparison.effects else textwrap.fill(heading, WIDTH)]
    parts += [verdicts(comparison)] if comparison.statements else []
    parts.append("\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in said))
    return "\n\n".join(parts)


def headline(comparison: "Comparison") -> str:
    """What is compared with what, and over what."""
    a, b = comparison.labels
    about = comparison.pairs[0][0]
    return f"{b} against {a}: {comparison.replicates}, x0: {about.data}. [..] are 95 % intervals"


def remarks(comparison: "Comparison") -> list[str]:
    """How the numbers were made, what they are not, and what is missing."""
    said = [f"Intervals: {comparison.method}. Each is at 95 % by itself, none is corrected for their number."]
    if comparison.quality is not None:
        floors = ", ".join(f"{name.upper()} {plain(value)}" for name, value in comparison.quality.floors.items())
        said.append(f"Samples: {comparison.quality.extractor}; real data against real data: {floors or 'unknown'}.")
    said += [f"Note: {note}." for note in comparison.notes]
    said += [f"Missing: {sentence}." for sentence in comparison.missing]
    return said


def curves(comparison: "Comparison", heading: str) -> str:
    """Each variable at some timesteps, as far as columns fit."""
    runs = list(comparison.pairs[0])
    times = pick(runs)
    places = [int(np.flatnonzero(comparison.timesteps == k)[0]) for k in times]
    short = [cut(label, 12) for label in abbreviated(comparison.labels)]
    columns = [time_column(next((run for run in runs if run.shared), runs[0]), times)]
    if SPEED in comparison.effects:
        columns += ratio_columns(comparison.effects[SPEED], "K", short, places)
    for name in OPTIONAL:
        if name not in comparison.effects:
            continue
        extra = change_column(comparison.effects[name], name, places)
        if sum(column.width + 2 for column in [*columns, extra]) <= WIDTH:
            columns.append(extra)
    return lines(textwrap.fill(heading, WIDTH), columns)


def ratio_columns(effect: Effect, name: str, short: list[str], places: list[int]) -> list[Column]:
    """Both means and their ratio."""
    return [
        Column(f"{name} {short[0]}", "", [number(effect.a[i]) for i in places]),
        Column(f"{name} {short[1]}", "", [number(effect.b[i]) for i in places]),
        Column("ratio", "", [bounded(at(effect.ratio, i)) for i in places]),
    ]


def change_column(effect: Effect, name: str, places: list[int]) -> Column:
    """The difference for a loss, the ratio for all else."""
    if name == "loss":
        return Column("loss difference", "", [bounded(at(effect.difference, i), sign=True) for i in places])
    return Column(f"{name} ratio".replace("_", " "), "", [bounded(at(effect.ratio, i)) for i in places])


def verdicts(comparison: "Comparison") -> str:
    """A line a statement: both numbers, their ratio or difference, and the verdict."""
    short = [cut(label, 6) for label in abbreviated(comparison.labels)]
    rows = [("", *short, "ratio x or difference", "the second is"), *judged(comparison)]
    text = aligned(rows, "<>><<")
    return "\n".join(text if max(map(len, text)) <= WIDTH else aligned(rows, "<>><<", gap=1))


def judged(comparison: "Comparison") -> list[tuple[str, str, str, str, str]]:
    """The cells of each statement: its name, both numbers, their ratio or difference, and the verdict."""
    rows = []
    for s in comparison.statements:
        e = s.effect
        change = "x " + bounded(e.ratio) if s.by_ratio else bounded(e.difference, sign=True)
        rows.append((s.name, number(e.a), number(e.b), change, s.verdict))
    return rows


def at(interval: Interval, i: int) -> Interval:
    return Interval(*(values[i] for values in interval))


def number(value: np.ndarray | float) -> str:
    return plain(float(value)) if math.isfinite(value) else "-"


def bounded(interval: Interval, sign: bool = False) -> str:
    """A value with its interval, to as many digits as the interval deserves."""
    value, low, high = (float(part) for part in interval)
    if not math.isfinite(value):
        return "-"
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{value:+.3g}" if sign else plain(value)
    size = max(abs(value), abs(low), abs(high))
    if high == low or size == 0:
        text = f"{value:+.3g}" if sign else plain(value)
        return f"{text} exactly"
    mark = "+" if sign else ""
    digits = max(0, math.ceil(math.log10(6 / (high - low))))  # the interval is 6 to 60 units of the last digit wide
    if digits > 4 and high - low < NARROW * abs(value):
        return f"{'+' if sign and value > 0 else ''}{plain(value, 5)} +- {(high - low) / 2:.0e}".replace("e-0", "e-")
    if digits > 4 or size >= 1e5:
        return f"{value:{mark}.1e} [{low:.0e}, {high:.0e}]".replace("e-0", "e-").replace("e+0", "e+")
    return f"{value:{mark}z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]"
