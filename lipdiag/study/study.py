"""The experiment: a plan carried out on a model, unit by unit, into a store.

A study is prepared (times, layout and frozen description resolved, the store made or found), priced by a forward pass,
checked on a few points, then run as a generator that yields after each unit; the caller draws bars and may stop at any
time. Units that are done are skipped, so that running again is resuming.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import statistics
from ..diffusion.predictor import Predictor
from ..errors import IncompleteError, LipdiagError, RunError, StorageError
from ..linalg.linearize import out_of_memory
from ..quantities.catalogue import QUANTITIES, measure_point, recorded
from ..quantities.point import Point
from ..store import store
from ..store.creation import create
from ..store.layout import Layout, WorkUnit, units
from ..store.notes import sorted_out
from ..store.suspicion import PRICED, Suspicion
from . import checks
from .description import Source, columns, coordinates, edges, frozen, second_times
from .microbatch import in_batches, memory, pair_seconds, pass_bytes
from .plan import Plan, gone_on, resolve_timesteps
from .points import ends, points
from .products import settled

LOOKED_AT = 64
"""Units among which one that is done is looked for, to time a launch by."""

MOST_FAILURES = 2
"""Units on which a model may fail before it has succeeded on one."""


@dataclass
class Study:
    """A plan, ready to run on a model.

    Attributes:
        timesteps: In the model's own unit.
        layout: How pairs are cut into units.
        krylov_steps: Taken so far, the mean of all pairs.
        batch: (draw, timestep) pairs at once; shrinks when memory runs out, where `halving` allows it.
        suspicion: Units in which launches died or the model failed.
        forward_seconds: Of one forward pass of one unit.
        pass_bytes: That one forward pass of one pair makes.
        findings: Of the checks before the start.
    """

    predictor: Predictor
    source: Source
    plan: Plan
    timesteps: np.ndarray
    layout: Layout
    store: store.Store
    shard: tuple[int, int] = (0, 1)
    batch: int = 0
    findings: checks.Findings = field(default_factory=checks.Findings)
    forward_seconds: float = 0.0
    pass_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    krylov_steps: float = 0.0
    seconds: float = 0.0
    pairs: int = 0
    suspicion: Suspicion = field(default_factory=Suspicion)
    halving: bool = True

    @property
    def floor(self) -> int:
        """Forward passes a pair needs at least, at the Krylov steps taken (12 before any)."""
        return self.plan.passes(int(self.krylov_steps or 12))

    @property
    def memory(self) -> int:
        """Bytes that a micro-batch will take at its peak, to a factor of about 2."""
        return memory(self.predictor, self.pass_bytes, self.batch, recorded(self.plan.quantities))

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


def prepare(
    predictor: Predictor,
    source: Source,
    plan: Plan,
    out: Path | None = None,
    resume: bool = True,
    attributes: dict[str, Any] | None = None,
    shard: tuple[int, int] = (0, 1),
    retry: bool = False,
) -> Study:
    """Resolve a plan on a model and find or make its run.

    Args:
        predictor: The model; see `arithmetic.evaluating`.
        source: Where x0 comes from.
        plan: What to measure.
        out: The run's folder; None keeps it in memory.
        resume: Whether an existing run may be gone on with.
        attributes: More to record in a new run.
        shard: (i, N): measure every N-th unit from the i-th.
        retry: Whether units that were given up, or would be now, are tried again.

    Raises:
        RunError: If `out` holds something else, or a run of another plan, model or data.
        UsageError: If the plan's timesteps do not fit the model.
    """
    timesteps, run = resolve_timesteps(plan.timesteps, predictor.clock, predictor.schedule), None
    if out is not None and out.exists():
        if not resume:
            raise RunError(f"{out} exists; give another --out, or go on with it (leave --no-resume out)")
        run = store.open_store(out)
        timesteps = gone_on(timesteps, plan, predictor.clock, run.attributes.get("frozen", {}))
    plan = plan.replace(products=settled(predictor, source, plan, timesteps, run))
    layout = Layout.of(plan.batch, len(timesteps), int(np.prod(predictor.shape)))
    plan = plan.replace(max_draws=min(plan.max_draws, layout.room(len(timesteps), plan.draws)), timesteps=(*timesteps,))
    if plan.tolerance is not None:
        plan = plan.replace(draws=next(statistics.looks(plan.draws, plan.max_draws, layout.draws)))
    description = frozen(predictor, source, plan, timesteps)
    if run is None:
        run = create(
            out,
            layout,
            plan.draws,
            coordinates(predictor, timesteps) | second_times(predictor.clock, timesteps, plan.step),
            columns(plan, predictor, timesteps),
            {"frozen": description, "launches": [], "edges": edges(predictor.clock), **(attributes or {})},
        )
    changed = store.differences(run.attributes.get("frozen", {}), description)
    if changed:
        raise RunError(f"{out} is another run: {'; '.join(changed[:5])}; give another --out, or what it was made with")
    layout = run.layout
    run.grow(plan.draws)
    every = units(layout, len(timesteps), range(run.draws))
    for unit in (unit for unit in every if retry and run.given_up(unit)):
        run.retry(unit)
    suspicion = Suspicion.of(run.attempts(), every, lenient=retry)
    notes = [suspicion.note] if suspicion.note else []
    return Study(predictor, source, plan, timesteps, layout, run, shard, layout.pairs, notes=notes, suspicion=suspicion)


def price(study: Study) -> None:
    """Time one forward pass of a unit, and take its memory.

    A unit that is done is known to kill nobody. Where there is none it is one in which no launch died, marked so that
    the next launch takes another should this one end here, and a single pair where there is none of these either.
    """
    every = units(study.layout, len(study.timesteps), range(study.plan.draws))[study.shard[0] :: study.shard[1]]
    trusted = [unit for unit in every if not study.suspicion.died(unit) and not study.store.given_up(unit)]
    done = next((unit for unit in trusted[:LOOKED_AT] if study.store.marked(unit)), None)
    new = trusted[0] if trusted and done is None else None
    if new is not None:
        study.store.begin(new, PRICED)
    try:
        with suppress(Exception):  # a model that fails here fails in its unit, where it is dealt with
            time_unit(study, done or new or WorkUnit(slice(0, 1), slice(0, 1)))
    finally:
        if new is not None:
            study.store.begin(new, 0)


def check(study: Study) -> None:
    """Check the model at a few pairs, and measure no more at once than it answers rightly.

    Raises:
        CheckpointError: If it cannot be measured; see `checks`.
    """
    few = ends(study.timesteps)
    # two draws, or three where a batch of two would fit a sample's last dimension by mistake
    study.findings = checked(study, few, range(3 if study.predictor.shape[-1:] == (2,) else 2))
    study.notes += study.findings.notes
    if most := study.findings.company.most(study.layout.draws):
        study.batch = min(study.batch, most)


def checked(study: Study, timesteps: list[float], draws: range) -> checks.Findings:
    """What the checks find at these timesteps and draws, or on two pairs where memory ran out."""
    x0 = study.source.stand_in or study.source.sample

    def make(timesteps: Sequence[float], draws: range) -> Point:
        return points(study.predictor, study.plan, x0, timesteps, draws, record=False)

    try:
        return checks.check(make, timesteps, draws)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if len(timesteps) * len(draws) <= 2:
            raise LipdiagError(
                "out of memory while the model was checked on two samples; use a machine with more memory"
            ) from None
    return checked(study, [timesteps[0], timesteps[-1]], range(1))


def time_unit(study: Study, unit: WorkUnit) -> None:
    """Seconds of one forward pass of a unit, the least of all times, and the bytes that one pair makes in it."""
    timesteps, draws = study.timesteps[unit.times].tolist(), range(unit.draws.start, unit.draws.stop)
    x0 = study.source.stand_in or study.source.sample
    point = points(study.predictor, study.plan, x0, timesteps, draws, record=False)
    study.pass_bytes = pass_bytes(study.predictor, point.x[:1], point.t[:1])
    seconds = pair_seconds(study.predictor, point.x, point.t, len(draws)) * study.layout.pairs
    study.forward_seconds = min(seconds, study.forward_seconds or seconds)


def run(study: Study) -> Iterator[Progress]:
    """Measure every unit that is not done, and yield after each.

    Under a tolerance, draws grow until every mean is known that well, or the plan's limit is reached.

    Raises:
        StorageError: If the run cannot be written.
    """
    times = len(study.timesteps)
    headlines = [QUANTITIES[name].headline for name in study.plan.quantities]
    moments = {name: statistics.Moments.empty(times) for name in headlines}
    looks = statistics.looks(study.plan.draws, study.plan.max_draws, study.layout.draws)
    targets = [study.plan.draws] if study.plan.tolerance is None else list(looks)
    seen, done = 0, 0
    message = ""
    for target in targets:
        study.store.grow(target)
        todo = units(study.layout, times, range(seen, target))[study.shard[0] :: study.shard[1]]
        todo.sort(key=study.suspicion.rank)  # what may have killed a launch comes last
        for unit in todo:
            if not study.store.complete(unit) and not attempt(study, unit):
                todo.append(unit)
                continue
            if study.plan.tolerance is not None and not study.store.given_up(unit):
                for name in headlines:
                    values = study.store.read(name, unit)
                    moments[name].add(unit.times, values if values.ndim == 2 else values[..., 0])
            done += (unit.times.stop - unit.times.start) * (unit.draws.stop - unit.draws.start)
            yield Progress(done, times * target, message)
        # the next look starts at a whole block, so that no unit is measured twice
        seen = target
        if study.plan.tolerance is not None:
            widths = {name: m.relative_half_width() for name, m in moments.items()}
            name = max(widths, key=lambda key: np.nan_to_num(widths[key], nan=np.inf).max())
            worst = float(np.nan_to_num(widths[name], nan=np.inf).max())
            where = study.timesteps[int(np.nan_to_num(widths[name], nan=np.inf).argmax())]
            message = f"{name} +-{worst:.1%} at timestep {where:g}"
            if worst <= study.plan.tolerance:
                study.notes.append(f"tolerance {study.plan.tolerance:.2%} met after {target} draws (widest: {message})")
                break
    else:
        if study.plan.tolerance is not None:
            study.notes.append(
                f"tolerance {study.plan.tolerance:.2%} not met at the limit of {study.plan.max_draws} draws "
                f"(widest: {message})"
            )


def attempt(study: Study, unit: WorkUnit) -> bool:
    """Measure a unit and store it, or give it up where launches have died in it or it has failed.

    Returns:
        Whether that settles it; False if the model raised an error and the unit is to be tried again after the rest.

    Raises:
        IncompleteError: If the model raised an error on the first units, and on all of them.
    """
    where = (
        f"timesteps {study.timesteps[unit.times][0]:g} to {study.timesteps[unit.times][-1]:g}, "
        f"draws {unit.draws.start} to {unit.draws.stop - 1}"
    )
    if verdict := study.suspicion.verdict(unit):
        study.store.give_up(unit)
        study.notes.append(f"{verdict}: {where}")
        return True
    if study.store.marked(unit):
        study.notes.append(f"damaged on disk, measured again: {where}")
    study.store.begin(unit, study.suspicion.mark(unit, others=study.pairs > 0))
    try:
        study.store.write(unit, measure_unit(study, unit))
    except (Exception, KeyboardInterrupt) as error:  # whatever a model may raise
        with suppress(StorageError):
            study.store.begin(unit, study.suspicion.died(unit))  # an end that can be told of is no death
        if isinstance(error, LipdiagError | KeyboardInterrupt):
            raise
        words = str(error).splitlines()[0][:200] if str(error) else ""
        failure = f"the model failed with {type(error).__name__} ({words}) at {where}"
        study.notes.append(failure)
        study.suspicion.fail(unit)
        if not study.pairs and len(study.suspicion.failures) > MOST_FAILURES:
            raise IncompleteError(f"{failure}, as on every unit before; nothing could be measured") from error
        return False
    return True


def measure_unit(study: Study, unit: WorkUnit) -> dict[str, np.ndarray]:
    """All variables of a unit, each (times, draws) or (times, draws, ranks).

    Raises:
        LipdiagError: If not even one pair fits in memory.
    """
    timesteps, draws = study.timesteps[unit.times].tolist(), range(unit.draws.start, unit.draws.stop)
    if study.source.passes:
        for i in draws:
            study.source.sample(i)  # made before the clock starts, which is that of the measuring alone
        study.notes += [note for note in study.source.notes if note not in study.notes]
    began = time.perf_counter()
    values, batch = in_batches(
        lambda some, these: _measure(study, some, these),
        timesteps,
        draws,
        study.batch,
        study.halving,
        1 if study.findings.company.of else None,
    )
    if batch < study.batch:
        study.notes.append(f"out of memory: the micro-batch was halved to {batch} pairs")
        study.batch = batch
    study.seconds += time.perf_counter() - began
    study.pairs += len(timesteps) * len(draws)
    if "spectral_norm_steps" in values:
        steps = values["spectral_norm_steps"]
        study.krylov_steps += (float(steps.mean()) - study.krylov_steps) * steps.size / study.pairs
    return values


def _measure(study: Study, timesteps: list[float], draws: range) -> dict[str, np.ndarray]:
    source, record = study.source, recorded(study.plan.quantities)
    point = points(study.predictor, study.plan, source.sample, timesteps, draws, record, source.told)
    shape, values = (len(timesteps), len(draws)), measure_point(point)
    return {name: value.reshape(*shape, *value.shape[1:]).cpu().numpy() for name, value in values.items()}


def finish(study: Study, launch: dict[str, Any]) -> None:
    """Record a launch and what it found in the run."""
    facts = {**launch, **sorted_out(study.notes), "method": study.findings.method}
    study.store.record([facts], plan=asdict(study.plan))
