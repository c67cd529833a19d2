"""Which units are suspected to end or to fail whoever measures them, and on what evidence.

A launch marks the unit that it begins. A mark that the next launch finds tells of one that died there: killed by the
unit, perhaps, or with its machine, or by a person who lost patience. No mark tells which it was, and so one death costs
a unit nothing but its place: it comes last, after all that is not suspected.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .layout import WorkUnit

PATIENCE = 7
"""Evidence at which a unit is given up."""

EARLY, LATE = 1, 3
"""Evidence of a death in the first unit of a launch, which its start explains as well, and of one after others.

A machine that is taken away costs no unit by two deaths of the one kind, nor by six of the other. A unit that kills
whoever measures it is given up after three to seven.
"""

PRICED = -1
"""The mark of a unit by which a launch was timed that then died: it comes late, and is no evidence."""

FAILURES = 2
"""Errors of the model in one unit at which it is given up, the second one after all others."""


@dataclass
class Suspicion:
    """What is held against the units of a run.

    Attributes:
        deaths: First timestep and draw of a unit -> evidence that it kills, or `PRICED`.
        failures: The same -> errors in this launch.
    """

    deaths: dict[tuple[int, int], int] = field(default_factory=dict)
    failures: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def of(cls, attempts: np.ndarray, units: Iterable[WorkUnit], lenient: bool) -> "Suspicion":
        """What a run's marks hold against its units; where it is lenient, each is tried once more at least."""
        deaths = {}
        for unit in units:
            marks = attempts[unit.times, unit.draws]
            if marks.any():
                deaths[name(unit)] = min(int(marks.max()) or PRICED, PATIENCE - 1 if lenient else PATIENCE)
        return cls(deaths)

    def died(self, unit: WorkUnit) -> int:
        """The mark that earlier launches left in a unit, 0 where they left none."""
        return self.deaths.get(name(unit), 0)

    def clear(self, unit: WorkUnit) -> bool:
        """Whether nothing is held against a unit, so that it may be measured along with others."""
        return not self.died(unit) and name(unit) not in self.failures

    def rank(self, unit: WorkUnit) -> int:
        """By which units are measured in turn, those that may kill last."""
        return abs(self.died(unit))

    def mark(self, unit: WorkUnit, others: bool) -> int:
        """What the next launch finds if this one dies in the unit, its first or one after others."""
        return max(self.died(unit), 0) + (LATE if others else EARLY)

    def fail(self, unit: WorkUnit) -> None:
        """Note that the model raised an error in a unit."""
        self.failures[name(unit)] = self.failures.get(name(unit), 0) + 1

    @property
    def note(self) -> str:
        """What a person should know of the deaths, empty if there were none."""
        count = sum(mark > 0 for mark in self.deaths.values())
        words = "unit, in which a launch died, comes" if count == 1 else "units, in which launches died, come"
        hint = "if it was for lack of memory, another run with a smaller --batch takes less"
        return f"{count} {words} last; {hint}" if count else ""

    def verdict(self, unit: WorkUnit) -> str:
        """Why a unit is to be given up, empty if it is not."""
        if self.failures.get(name(unit), 0) >= FAILURES:
            return f"given up after {FAILURES} attempts that failed"
        return "given up, as launch after launch died in it" if self.died(unit) >= PATIENCE else ""


def name(unit: WorkUnit) -> tuple[int, int]:
    """The first timestep and draw of a unit, by which it is known."""
    return unit.times.start, unit.draws.start
