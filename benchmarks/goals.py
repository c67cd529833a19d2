"""What the package promises about its cost, and whether a benchmark found it kept."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks.cost import Cost
from benchmarks.networks import Subject
from benchmarks.rivals import Rival

CONVOLUTIONAL = {32: 1.25, 8: 1.5}
"""Times the floor that the full report may take without attention, by pairs."""

ATTENTION = 1.8
"""The same with attention."""

MOST_STEPS = 14
TIME_DERIVATIVE = 2.5
BATCHED_POWER = 10.0
LOOPED_POWER = 20.0


@dataclass(frozen=True)
class Goal:
    """A promise and what was found.

    Attributes:
        promise: In words.
        limit: The number promised.
        found: The number measured.
        most: Whether `limit` is the most allowed; else the least.
    """

    promise: str
    limit: float
    found: float
    most: bool = True

    @property
    def reached(self) -> bool:
        return self.found <= self.limit if self.most else self.found >= self.limit


def goals_of(subject: Subject, costs: Iterable[Cost], rivals: list[Rival]) -> Iterator[Goal]:
    """The promises that concern one network; those against rivals only if it is trained.

    Random weights give Jacobians with few large singular values, which every method finds soon.
    """
    for cost in costs:
        where = f"{subject.name}, {cost.pairs} pairs"
        limit = ATTENTION if subject.attention else CONVOLUTIONAL.get(cost.pairs)
        if cost.case == "the full report" and limit is not None:
            yield Goal(f"{where}: full report / (2k + 4)", limit, cost.ratio)
            if cost.pairs == 32:
                yield Goal(f"{where}: Krylov steps k", MOST_STEPS, cost.krylov_steps)
        if cost.case == "time_derivative":
            yield Goal(f"{where}: time derivative alone, F", TIME_DERIVATIVE, cost.passes)
    if not subject.trained:
        return
    price = {rival.method: rival.passes / rivals[0].passes for rival in rivals}
    for method, ratio in price.items():
        if method == "batched power, double backward":
            yield Goal(f"{subject.name}: times fewer F than {method}", BATCHED_POWER, ratio, most=False)
        if method.startswith("loop of autograd"):
            yield Goal(f"{subject.name}: times fewer F than a per-sample loop", LOOPED_POWER, ratio, most=False)
