"""The order of work: every network in turn, dear ones last and within the time that is left."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.cost import CASES, FULL, Batch
from benchmarks.goals import Goal, goals_of
from benchmarks.networks import SUBJECTS, Subject
from benchmarks.rivals import rivals
from benchmarks.table import Result
from benchmarks.training import relative_rate
from lipdiag.design.plan import Plan
from lipdiag.quantities.catalogue import QUANTITIES

ROUND_SECONDS = 1.0
"""More rounds of a case are run until it has taken this long."""

ROUND_SECONDS_OF_FULL = 8.0
"""The same for the full report, on which goals are set."""

BATCHES = (8, 32)
LARGER_BATCHES = {"digits": (256,)}
"""(draw, timestep) pairs at once. A study takes 32 at 3x32x32, and 256 at 1x8x8."""

RIVAL_PASSES = 150
"""Forward passes that comparing with rivals takes, about."""

USUAL_STEPS = 14
"""Krylov steps that a case is expected to take before it was run."""

OVERHEAD = 1.4
"""Times the floor that a case is expected to take."""


@dataclass
class Job:
    """A piece of the benchmark."""

    label: str
    run: Callable[[], None]


@dataclass
class Bench:
    """A network under way: its result fills as its jobs run, its weights go when they are done."""

    name: str
    deadline: float
    rounds: int
    result: Result = field(default_factory=lambda: Result(""))
    subject: Subject | None = None
    batches: dict[int, Batch] = field(default_factory=dict)

    def prepare(self) -> None:
        self.subject = SUBJECTS[self.name]()
        self.result.title = self.subject.title

    def batch(self, pairs: int) -> Batch:
        assert self.subject is not None
        if pairs not in self.batches:
            self.batches[pairs] = Batch(self.subject, pairs)
            self.result.forward[pairs] = self.batches[pairs].forward()
        return self.batches[pairs]

    def fits(self, batch: Batch, forward_passes: float) -> bool:
        """Whether so much work ends before the deadline."""
        return time.monotonic() + OVERHEAD * forward_passes * batch.forward() < self.deadline

    def measure(self, pairs: int) -> Callable[[str], None]:
        def cost(case: str) -> None:
            batch = self.batch(pairs)
            if batch.subject.heavy and pairs > min(BATCHES) and case == "one_sided_lipschitz":
                return
            if not self.fits(batch, 2 + Plan(quantities=CASES[case]).passes(USUAL_STEPS)):
                return
            needs = frozenset[str]().union(*(QUANTITIES[name].needs for name in CASES[case]))
            full = [c for c in self.result.costs if (c.case, c.pairs) == ("the full report", pairs)]
            if batch.subject.heavy and "krylov" in needs and CASES[case] != FULL:
                self.result.costs += [batch.counted(case, c) for c in full]
            else:
                limit = ROUND_SECONDS_OF_FULL if CASES[case] == FULL else ROUND_SECONDS
                self.result.costs.append(batch.cost(case, self.rounds, limit))

        return cost

    def compare(self) -> None:
        assert self.subject is not None
        pairs = self.subject.rival_pairs
        if not self.fits(self.batch(pairs), RIVAL_PASSES):
            return
        self.result.rivals, reference = rivals(self.batch(pairs), self.rounds, 4 * ROUND_SECONDS)
        self.result.rival_pairs = pairs
        steps = reference.alpha.shape[1]
        self.result.reference = f"the reference: {steps} Krylov steps, certified to {100 * reference.width:.2g} %"

    def finish(self) -> None:
        """Sort what was found, judge it, and let the network go."""
        assert self.subject is not None
        order = list(CASES)
        self.result.costs.sort(key=lambda cost: (-cost.pairs, order.index(cost.case)))
        self.result.goals = list(goals_of(self.subject, self.result.costs, self.result.rivals))
        self.subject, self.batches = None, {}
        gc.collect()

    def train(self) -> None:
        """Compare the rate of training with a bare loop's."""
        goal = Goal(
            f"{self.name}: training, steps a second / a bare loop's", 0.95, relative_rate(self.name), most=False
        )
        self.result.goals.append(goal)


TRAINED = ("digits",)
"""Recipes of which a processor takes a step in a moment; those of larger networks are for `benchmarks.training`."""


def programme(
    names: Sequence[str], deadline: float, rounds: int, quick: bool = False
) -> tuple[list[Result], list[Job]]:
    """The results, empty yet, and the jobs that fill them."""
    results, jobs = [], []
    for name in names:
        bench = Bench(name, deadline, rounds)
        results.append(bench.result)
        jobs.append(Job(name, bench.prepare))
        jobs.append(Job(f"{name}: rivals", bench.compare))
        for pairs in BATCHES + (() if quick else LARGER_BATCHES.get(name, ())):
            measure = bench.measure(pairs)
            jobs += [Job(f"{name}, {pairs} pairs: {case}", partial(measure, case)) for case in reversed(CASES)]
        jobs.append(Job(f"{name}: goals", bench.finish))
        if name in TRAINED and not quick:
            jobs.append(Job(f"{name}: training", bench.train))
    return results, jobs
