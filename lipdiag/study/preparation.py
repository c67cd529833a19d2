"""A study made ready: its plan resolved, its run made or found, its price known, its model checked on a few points."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .. import statistics
from ..breakdown import out_of_memory
from ..design.description import Source, columns, coordinates, edges, frozen, second_times
from ..design.plan import Plan, gone_on, resolve_timesteps
from ..design.points import ends, points
from ..diffusion.predictor import Predictor, device_of
from ..errors import IncompleteError, RunError
from ..quantities.catalogue import measure_point, needs
from ..quantities.point import Point
from ..readiness import derivatives
from ..readiness.rounding import MOST
from ..readiness.tensor_cores import settled
from ..store import store
from ..store.creation import create
from ..store.layout import Layout, WorkUnit, units
from ..store.suspicion import PRICED, Suspicion
from .memory import UNKNOWN, Need, at_once, free, need
from .microbatch import pair_seconds
from .resolve import MODEL_BATCH
from .state import Study

LOOKED_AT = 64
"""Units among which one that is done is looked for, to time a launch by."""


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
    fixed = plan.batch if isinstance(plan.batch, int) else None
    layout = Layout.of(fixed, len(timesteps), int(np.prod(predictor.shape)))
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


def estimate(study: Study) -> dict[str, float]:
    """What a study will cost.

    Returns:
        pairs of this process, those left to be measured, forward passes a pair at least, sample_passes that making x0
        takes a draw, seconds at 1.25 times the passes a pair left, bytes of memory, pass_seconds of a forward pass.
    """
    pairs, left = study.share()
    sampling = -(-study.plan.draws // MODEL_BATCH) * MODEL_BATCH * study.source.passes
    pass_seconds = study.forward_seconds / study.layout.pairs
    return {
        "pairs": pairs,
        "left": left,
        "passes": study.floor,
        "sample_passes": study.source.passes,
        "pass_seconds": pass_seconds,
        "seconds": (left * 1.25 * study.floor + sampling * bool(left)) * pass_seconds,
        "memory": study.memory,
    }


def check(study: Study) -> None:
    """Check the model at a few pairs, and measure no more at once than it answers rightly.

    Raises:
        CheckpointError: If it cannot be measured; see `readiness`.
    """
    few = ends(study.timesteps)
    # two draws, or three where a batch of two would fit a sample's last dimension by mistake
    study.findings = checked(study, few, range(3 if study.predictor.shape[-1:] == (2,) else 2))
    study.notes += study.findings.notes
    if most := study.findings.company.most(study.layout.draws):
        study.batch = min(study.batch, most)


def checked(study: Study, timesteps: list[float], draws: range) -> derivatives.Findings:
    """What the checks find at these timesteps and draws, or on two pairs where memory ran out."""
    x0 = study.source.stand_in or study.source.sample

    def make(timesteps: Sequence[float], draws: range) -> Point:
        return points(study.predictor, study.plan, x0, timesteps, draws, record=False)

    try:
        return derivatives.check(make, timesteps, draws, ends(study.timesteps, MOST))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if len(timesteps) * len(draws) <= 2:
            raise IncompleteError(
                "out of memory while the model was checked on two samples; use a machine with more memory"
            ) from None
    return checked(study, [timesteps[0], timesteps[-1]], range(1))


def time_unit(study: Study, unit: WorkUnit) -> None:
    """Seconds of one forward pass of a unit, the least of all times, and the memory that its pairs take."""
    timesteps, draws = study.block(unit)
    x0 = study.source.stand_in or study.source.sample
    point = points(study.predictor, study.plan, x0, timesteps, draws, record=False)
    seconds = pair_seconds(study.predictor, point.x, point.t, len(draws)) * study.layout.pairs
    study.forward_seconds = min(seconds, study.forward_seconds or seconds)
    if study.need == UNKNOWN:

        def make(plan: Plan, pairs: int) -> Point:
            return points(study.predictor, plan, x0, timesteps[:1], range(pairs), study.record)

        device = device_of(study.predictor)

        def told() -> Need:
            with study.sparingly():
                return needed(make, study.plan, study.predictor)

        study.need, room = told(), free(device) or math.inf
        while study.need.of(1) > room and study.spare():
            kept, study.need = study.need, told()
            if kept == study.need:  # there was nothing of this to be spared
                study.notes.pop()
        if study.plan.batch is None and study.halving:
            study.batch = at_once(study.layout.pairs, study.need, device)


def needed(make: Callable[[Plan, int], Point], plan: Plan, predictor: Predictor) -> Need:
    """The memory that a plan's quantities take: those of a pair or two are measured, with few Krylov steps.

    The bases of all steps are added; they are made at once, in float64.

    Args:
        make: The point of so many pairs under a plan.
        plan: What is measured.
        predictor: The model.
    """
    shared, numbers = needs(plan.quantities), int(np.prod(predictor.shape))
    few = plan.replace(krylov_steps=min(plan.krylov_steps, plan.ranks if "ranks" in shared else 2))
    found = need(lambda pairs: measure_point(make(few, pairs)), device_of(predictor))
    bases = min(plan.krylov_steps, numbers) - min(few.krylov_steps, numbers) if "krylov" in shared else 0
    return found._replace(pair=found.pair + 16 * numbers * bases)
