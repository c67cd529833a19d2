"""A study: a plan, ready to run on a model, and how far it is."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np

from ..design.description import Source
from ..design.plan import Plan
from ..design.points import Rows, rows
from ..diffusion.predictor import Predictor
from ..linalg.attention import keeping
from ..linalg.half_precision import bytes_of
from ..quantities.catalogue import recorded
from ..readiness import derivatives
from ..store import store
from ..store.layout import Layout, WorkUnit, units
from ..store.suspicion import Suspicion
from .memory import SPARED, UNKNOWN, Need, recompute


@dataclass
class Study:
    """A plan, ready to run on a model.

    Attributes:
        timesteps: In the model's own unit.
        layout: How pairs are cut into units.
        krylov_steps: Taken so far, the mean of all pairs.
        batch: (draw, timestep) pairs at once: those of a unit, of several, or a part of one's; shrinks when memory runs
            out, where `halving` allows it.
        suspicion: Units in which launches died or the model failed.
        forward_seconds: Of one forward pass of one unit.
        need: Of memory.
        findings: Of the checks before the start.
        sparing: How much of `memory.SPARED` is not kept, since memory did not suffice.
        rows: Has what is random made.
    """

    predictor: Predictor
    source: Source
    plan: Plan
    timesteps: np.ndarray
    layout: Layout
    store: store.Store
    shard: tuple[int, int] = (0, 1)
    batch: int = 0
    findings: derivatives.Findings = field(default_factory=derivatives.Findings)
    forward_seconds: float = 0.0
    need: Need = UNKNOWN
    notes: list[str] = field(default_factory=list)
    krylov_steps: float = 0.0
    seconds: float = 0.0
    pairs: int = 0
    suspicion: Suspicion = field(default_factory=Suspicion)
    halving: bool = True
    sparing: int = 0
    rows: Rows = rows

    def block(self, unit: WorkUnit) -> tuple[list[float], range]:
        """The timesteps and the draws of a unit."""
        return self.timesteps[unit.times].tolist(), range(unit.draws.start, unit.draws.stop)

    def share(self) -> tuple[int, int]:
        """Pairs that are this process's, of the first look under a tolerance, and how many of them are to come."""
        every = units(self.layout, len(self.timesteps), range(self.plan.draws))[self.shard[0] :: self.shard[1]]
        held = self.store.held()
        parts = [held[unit.times, unit.draws] for unit in every]
        return sum(part.size for part in parts), sum(int((~part).sum()) for part in parts)

    @property
    def record(self) -> bool:
        """Whether products are recorded, which keeps activations."""
        return recorded(self.plan.quantities) and self.sparing < len(SPARED)

    def spare(self) -> bool:
        """Keep less of a pair from now on, if there is more that can be computed again; whether there was."""
        level = self.sparing if self.record else max(self.sparing, 1)  # what is not recorded keeps no probabilities
        if not self.halving or level == len(SPARED) or (level == 1 and not recompute(self.predictor)):
            return False
        self.notes = [*(note for note in self.notes if note not in SPARED), SPARED[level]]
        self.sparing = level + 1
        return True

    def sparingly(self) -> AbstractContextManager[None]:
        """A context in which products keep no more than they may."""
        return keeping(0) if self.sparing else nullcontext()

    @property
    def floor(self) -> int:
        """Forward passes a pair needs at least, at the Krylov steps taken (12 before any)."""
        return self.plan.passes(int(self.krylov_steps or 12), self.predictor.shape)

    @property
    def memory(self) -> int:
        """Bytes that weights and a micro-batch will hold at its peak."""
        return bytes_of(self.predictor) + self.need.of(self.batch)

    @property
    def passes(self) -> float:
        """Forward passes a pair took, by the clock."""
        pair_seconds = self.forward_seconds / self.layout.pairs
        return self.seconds / max(self.pairs, 1) / pair_seconds if pair_seconds else float("nan")


@dataclass(frozen=True)
class Progress:
    """Where a running study stands, in (draw, timestep) pairs."""

    done: int
    total: int
    message: str = ""
