"""How a run is cut into units; known to the store, which reads runs where there is no torch."""

from dataclasses import dataclass

from ..errors import UsageError
from .format import MOST_CHUNKS

MOST_PAIRS = 256
MOST_DRAWS = 8
"""Draws of one timestep in a micro-batch: enough to pool a variance, few enough to mix timesteps."""

PAIR_BUDGET = 32 * 3 * 32 * 32
"""Numbers of x in a micro-batch: 32 pairs at 3x32x32, where a batch fills a processor (see `make bench`)."""


@dataclass(frozen=True)
class Layout:
    """How (timestep, draw) pairs are cut into units, each one chunk of the store and one micro-batch.

    It follows from the shapes and the plan alone, never from the machine, so that a run's numbers do too.

    Attributes:
        times: Timesteps of a unit.
        draws: Draws of a unit.
    """

    times: int
    draws: int

    @classmethod
    def of(cls, batch: int | None, times: int, numbers: int) -> "Layout":
        """Layout for `times` timesteps of samples that hold `numbers` numbers each, `batch` pairs at most if given."""
        pairs = batch or max(1, min(MOST_PAIRS, PAIR_BUDGET // numbers))
        draws = min(MOST_DRAWS, pairs)
        return cls(times=max(1, min(times, pairs // draws)), draws=draws)

    def room(self, times: int, draws: int) -> int:
        """Draws of so many timesteps up to which a run has no more units, and files, than are read back.

        Raises:
            UsageError: If these are more.
        """
        most = MOST_CHUNKS // -(-times // self.times) * self.draws
        if draws > most:
            raise UsageError(
                f"{times} timesteps x {draws} draws, {self.pairs} pairs at a time, are too many units for one run; "
                f"give at most {most} draws, fewer timesteps, or a larger batch"
            )
        return most

    @property
    def pairs(self) -> int:
        return self.times * self.draws


@dataclass(frozen=True)
class WorkUnit:
    """A block of timesteps by a block of draws: what is measured, written and marked done together."""

    times: slice
    draws: slice


def units(layout: Layout, times: int, draws: range) -> list[WorkUnit]:
    """Units that cover the given draws at all times: draws outside, times inside.

    An interrupted run then has every timestep, with fewer draws.
    """
    return [
        WorkUnit(slice(i, min(i + layout.times, times)), slice(j, min(j + layout.draws, draws.stop)))
        for j in range(draws.start, draws.stop, layout.draws)
        for i in range(0, times, layout.times)
    ]
