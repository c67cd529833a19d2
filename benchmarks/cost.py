"""What a quantity costs at a batch of pairs, in forward passes of that batch.

Work is timed between two forward passes and divided by their mean; the median over rounds is kept. What is timed is
what a study does for each of its units: noise, linearization, products, estimates.

On a heavy network, quantities made of the same products as the full report are not run again. They are priced by the
laps of the full report: its first forward and its first reverse product, the median of the later ones, and all else.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean, median

import torch

from benchmarks.networks import Subject
from lipdiag.design.plan import Plan, resolve_timesteps
from lipdiag.design.points import points
from lipdiag.diffusion.predictor import device_of
from lipdiag.quantities.catalogue import QUANTITIES, measure_point, needs, recorded
from lipdiag.quantities.point import Point

FULL = ("spectral_norm", "time_derivative", "squared_frobenius_norm", "trace")
DEFAULTS = Plan().quantities
UNPRICED = ("pairs", "swap", "vectors", "embedding", "modules", "modules_x", "normal_bundle", "log_density")
"""Quantities of single figures, which have prices of their own: a forward pass a column, the Krylov steps of
`singular_values`, two forward passes, one forward-mode product that is listened to, a forward pass a number, a flow."""
CASES: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in QUANTITIES if name not in UNPRICED},
    "the defaults": DEFAULTS,
    "the full report": FULL,
}
TIMES = 4
SHORTEST = 0.05
"""Seconds that a forward pass, or work, is timed for, by repeating it where it takes less."""


@dataclass(frozen=True)
class Cost:
    """The price of a case at a batch of pairs.

    Attributes:
        case: A key of `CASES`.
        pairs: (draw, timestep) pairs in the batch.
        krylov_steps: Taken.
        forward_products: Batched products J v.
        reverse_products: Batched products J' u.
        floor: Forward passes that it needs at least.
        passes: Forward passes that it took, by the clock.
        rounds: How many times it was run; none if it was priced by laps.
    """

    case: str
    pairs: int
    krylov_steps: int
    forward_products: int
    reverse_products: int
    floor: int
    passes: float
    rounds: int

    @property
    def ratio(self) -> float:
        return self.passes / self.floor


@dataclass
class Laps:
    """Seconds of the products of one run and of the whole of it, and the steps it took."""

    forward: list[float] = field(default_factory=list)
    reverse: list[float] = field(default_factory=list)
    krylov_steps: int = 0
    total: float = 0.0

    def price(self, forward: int, reverse: int) -> float:
        """Seconds of a run of so many products, all else being equal."""
        rest = self.total - sum(self.forward) - sum(self.reverse)
        return rest + sum(first_and_later(laps, n) for laps, n in ((self.forward, forward), (self.reverse, reverse)))


def first_and_later(laps: list[float], number: int) -> float:
    """Seconds of `number` products: the first builds what the later ones use."""
    return laps[0] + (number - 1) * median(laps[1:]) if number else 0.0


def now() -> float:
    """Seconds, once the current graphics processor has done what it was given to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """How long a piece of work takes, the mean of so many runs."""
    began = now()
    for _ in range(repeats):
        work()
    return (now() - began) / repeats


def repeated(work: Callable[[], object]) -> Callable[[], float]:
    """A clock of one run of a short piece of work, the mean of as many as take `SHORTEST` together."""
    work()
    repeats = times(seconds(work))
    return lambda: seconds(work, repeats)


def times(spent: float) -> int:
    """How many runs of so many seconds take `SHORTEST` together."""
    return max(1, min(64, round(SHORTEST / spent)))


def interleaved(forward: Callable[[], float], work: Callable[[], object], rounds: int, limit: float) -> list[float]:
    """Work in units of the forward passes around it, for so many rounds, or fewer once `limit` seconds are over.

    Short work is repeated from the second round on, as forward passes are: run once, it waits for memory that they have
    in the cache.
    """
    began = time.perf_counter()
    ratios: list[float] = []
    before, repeats = forward(), 1
    while not ratios or (len(ratios) < rounds and time.perf_counter() - began < limit):
        gc.collect()
        spent = seconds(work, repeats)
        after = forward()
        ratios.append(spent / mean((before, after)))
        before, repeats = after, times(spent)
    return ratios


@dataclass
class Batch:
    """A subject at a batch of pairs: its timed forward pass, and the laps of its last run.

    Attributes:
        forward: Seconds of a forward pass now.
        laps: By case.
    """

    subject: Subject
    pairs: int
    forward: Callable[[], float] = field(init=False)
    laps: dict[str, Laps] = field(default_factory=dict)

    def __post_init__(self) -> None:
        few = self.point(Plan(quantities=("loss",)))

        def forward() -> None:
            with torch.no_grad():
                few.predictor(few.x, few.t)

        self.forward = repeated(forward)

    @property
    def device(self) -> torch.device:
        return device_of(self.subject.predictor)

    def point(self, plan: Plan, pairs: int | None = None) -> Point:
        """Pairs of `TIMES` timesteps, evenly spaced in log t; fewer than that are of the first ones."""
        pairs = pairs or self.pairs
        timesteps = resolve_timesteps(f"log:{TIMES}", self.subject.predictor.clock).tolist()[:pairs]
        draws = range(max(1, pairs // TIMES))
        record = recorded(plan.quantities)
        return points(self.subject.predictor, plan, self.subject.sample, timesteps, draws, record=record)

    def run(self, case: str, plan: Plan) -> None:
        """What a study does for a unit, its products timed."""
        laps = Laps()
        began = now()
        point = self.point(plan)
        line = point.linearization
        line.jvp = timed(line.jvp, laps.forward)  # type: ignore[method-assign]
        line.vjp = timed(line.vjp, laps.reverse)  # type: ignore[method-assign]
        measure_point(point)
        laps.total = now() - began
        laps.krylov_steps = steps_of(point)
        self.laps[case] = laps

    def cost(self, case: str, rounds: int, limit: float) -> Cost:
        """The price of a case, run `rounds` times or for `limit` seconds."""
        plan = Plan(quantities=CASES[case])
        if not self.laps and not self.subject.heavy:
            self.run(case, plan)  # what torch sets up once in a process is no part of the price
        ratios = interleaved(self.forward, lambda: self.run(case, plan), rounds, limit)
        laps = self.laps[case]
        products = len(laps.forward), len(laps.reverse)
        floor = plan.passes(laps.krylov_steps)
        return Cost(case, self.pairs, laps.krylov_steps, *products, floor, median(ratios), len(ratios))

    def counted(self, case: str, full: Cost) -> Cost:
        """The price of a case by the laps of the full report, whose Krylov steps it shares."""
        plan, laps = Plan(quantities=CASES[case]), self.laps[full.case]
        k = full.krylov_steps
        shared = needs(plan.quantities)
        both = plan.probes + 1 if case == "asymmetry" else 0
        reverse = k + both
        evaluations = 1 if "time_difference" in plan.quantities else 0
        floor = plan.passes(k)
        forward = floor - 1 - reverse - evaluations
        assert "krylov" in shared
        once = laps.total / full.passes
        return Cost(case, self.pairs, k, forward, reverse, floor, laps.price(forward, reverse) / once + evaluations, 0)


def timed(product: Callable, laps: list[float]) -> Callable:
    """A product that notes how long it takes."""

    def wrapped(*args, **kwargs):
        began = now()
        result = product(*args, **kwargs)
        laps.append(now() - began)
        return result

    return wrapped


def steps_of(point: Point) -> int:
    """Krylov steps that a point's quantities took."""
    if "singular_values" in vars(point):
        return point.singular_values.steps
    return point.linearization.reverse_products
