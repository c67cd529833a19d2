"""The experiment: a plan carried out on a model, unit by unit, into a store.

A study that is prepared (see `preparation`) is run as a generator that yields after each unit; the caller draws bars
and may stop at any time. Units that are done are skipped, so that running again is resuming. Several may be measured at
once, and one is written while the next are computed.
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from .. import statistics
from ..breakdown import MethodError, curable, described, device_failed
from ..design.points import joined
from ..diffusion.predictor import device_of
from ..errors import Caution, IncompleteError, LipdiagError, StorageError
from ..linalg.linearize import METHODS
from ..printing import counted
from ..quantities.catalogue import QUANTITIES, measure_point
from ..store.layout import WorkUnit, units
from ..store.notes import sorted_out
from .ahead import Ahead
from .behind import Behind
from .memory import released
from .microbatch import Block, in_batches
from .state import Progress, Study

MOST_FAILURES = 2
"""Units on which a model may fail before it has succeeded on one."""


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
        for unit in carried_out(study, units(study.layout, times, range(seen, target))):
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


def carried_out(study: Study, every: Sequence[WorkUnit]) -> Iterator[WorkUnit]:
    """Measure those units of this shard that are not done, and give each one when it is settled and on disk.

    The first is measured alone and waited for, so that there is a number before a device was filled for seconds.
    """
    todo, alone = in_turn(study, every), () if study.source.stored else ("x0",)
    with Behind(study.store) as behind, Ahead(device_of(study.predictor), alone) as ahead:
        study.rows = ahead
        while todo:
            first, some = not study.pairs, together(study, todo, not study.pairs) or todo[:1]
            del todo[: len(some)]
            if study.store.complete(some[0]):
                behind.put(some[0])
            else:
                ahead.turn(draws_of(some), draws_of(together(study, todo)))
                if study.suspicion.died(some[0]):
                    yield from behind.written()  # it may end this process, and what is not written with it
                todo.extend(attempt(study, some, behind))
            yield from behind.written(but=0 if first else len(some))
        yield from behind.written()


def in_turn(study: Study, every: Sequence[WorkUnit]) -> list[WorkUnit]:
    """This shard's units, those that may have killed a launch last.

    Where several are measured at once, as many of neighbouring timesteps as of draws stand together: pairs that are
    alike take as many Krylov steps, and an interrupted run still has every timestep.
    """
    side = math.isqrt(max(study.batch // study.layout.pairs, 1))

    def place(unit: WorkUnit) -> tuple[int, ...]:
        draw, timestep = unit.draws.start // study.layout.draws, unit.times.start // study.layout.times
        return study.suspicion.rank(unit), draw // side, timestep // side, draw, timestep

    return sorted(every[study.shard[0] :: study.shard[1]], key=place)


def together(study: Study, todo: Iterable[WorkUnit], first: bool = False) -> list[WorkUnit]:
    """The next units that are measured at once; none where the first is done, or goes by itself.

    One does if something is held against it, or the network mixes timesteps.
    """
    most = 1 if first else study.batch // study.layout.pairs

    def joins(unit: WorkUnit) -> bool:
        return study.suspicion.clear(unit) and not study.findings.company.of and not study.store.marked(unit)

    return list(itertools.takewhile(joins, itertools.islice(todo, max(most, 1))))


def draws_of(some: Sequence[WorkUnit]) -> list[int]:
    """The draws of units."""
    return sorted({i for unit in some for i in range(unit.draws.start, unit.draws.stop)})


def attempt(study: Study, some: Sequence[WorkUnit], behind: Behind) -> list[WorkUnit]:
    """Measure units at once and have them written, or give one up where launches have died in it or it has failed.

    Returns:
        Those that are to be tried again after the rest, since the model raised an error.

    Raises:
        IncompleteError: If the device failed, or the model raised an error on the first units, and on all of them.
    """
    first = some[0]
    if verdict := study.suspicion.verdict(first):
        study.store.give_up(first)
        study.notes.append(f"{verdict}: {where(study, first)}")
        behind.put(first)
        return []
    if study.store.marked(first):
        study.notes.append(f"damaged on disk, measured again: {where(study, first)}")
    for unit in some:
        study.store.begin(unit, study.suspicion.mark(unit, others=study.pairs > 0))
    try:
        found = measure_units(study, some) if len(some) > 1 else [measure_unit(study, first)]
    except (Exception, KeyboardInterrupt) as error:  # whatever a model may raise
        if device_failed(error):
            raise IncompleteError(
                f"the device failed with {described(error)} at {where(study, *some)}; what was measured is kept, and "
                "the same command goes on from there"
            ) from error
        with suppress(StorageError):
            for unit in some:
                study.store.begin(unit, study.suspicion.died(unit))  # an end that can be told of is no death
        if isinstance(error, LipdiagError | KeyboardInterrupt):
            raise
        if len(some) == 1:
            study.notes.append(f"the model failed with {described(error)} at {where(study, first)}")
            study.suspicion.fail(first)
            if not study.pairs and len(study.suspicion.failures) > MOST_FAILURES:
                raise IncompleteError(
                    f"{study.notes[-1]}, as on every unit before; nothing could be measured"
                ) from error
            return [first]
        if curable(error):
            study.batch = max(len(some) // 2, 1) * study.layout.pairs
            study.notes.append(f"{described(error)}: the micro-batch was halved to {counted(study.batch, 'pair')}")
    else:
        for unit, values in zip(some, found, strict=True):
            behind.put(unit, values)
        return []
    released()  # outside of the handler, whose traceback keeps tensors alive
    half = len(some) // 2
    return [*attempt(study, some[:half], behind), *attempt(study, some[half:], behind)]


def where(study: Study, *some: WorkUnit) -> str:
    """The timesteps and draws of units, in words."""
    times = [k for unit in some for k in study.timesteps[unit.times][[0, -1]].tolist()]
    draws = [i for unit in some for i in (unit.draws.start, unit.draws.stop - 1)]
    return f"timesteps {min(times):g} to {max(times):g}, draws {min(draws)} to {max(draws)}"


def measure_unit(study: Study, unit: WorkUnit, methods: Sequence[str] = ()) -> Block:
    """All variables of a unit, each (times, draws) or (times, draws, ranks).

    Derivatives come from the method that was checked. Where that alone fails on this unit, they come from those that
    are left, and a caution says so.

    Raises:
        IncompleteError: If not even one pair fits in memory.
    """
    timesteps, draws = study.block(unit)
    began = started(study, draws)
    one = 1 if study.findings.company.of else None
    try:
        values, batch, why = in_batches(
            lambda some, these: _measure(study, [(some, these)], methods)[0],
            timesteps, draws, study.batch, study.halving, one,
        )  # fmt: skip
    except MethodError as error:
        values = measure_unit(study, unit, METHODS)
        said = f"some derivatives are not by {study.findings.method}, which failed"
        if not any(note.startswith(said) for note in study.notes):
            study.notes.append(Caution(f"{said} with {described(error)}, at {where(study, unit)} first"))
        return values
    except IncompleteError:
        if not study.spare():
            raise
        study.batch = 1
        return measure_unit(study, unit, methods)
    if batch < study.batch:
        study.notes.append(f"{why}: the micro-batch was halved to {counted(batch, 'pair')}")
        study.batch = batch
    ended(study, began, values)
    return values


def measure_units(study: Study, some: Sequence[WorkUnit]) -> list[Block]:
    """All variables of several units, measured as one micro-batch."""
    began = started(study, draws_of(some))
    found = _measure(study, [study.block(unit) for unit in some])
    for values in found:
        ended(study, began, values)
        began = time.perf_counter()
    return found


def started(study: Study, draws: Sequence[int]) -> float:
    """The time at which measuring starts, after x0 that have to be made."""
    if study.source.passes:
        study.rows(lambda _, i: study.source.sample(i).double(), "x0", draws, device_of(study.predictor))
        study.notes += [note for note in study.source.notes if note not in study.notes]
    return time.perf_counter()


def ended(study: Study, began: float, values: Block) -> None:
    """Count what was measured and how long it took."""
    study.seconds += time.perf_counter() - began
    study.pairs += math.prod(next(iter(values.values())).shape[:2])
    if "spectral_norm_steps" in values:
        steps = values["spectral_norm_steps"]
        study.krylov_steps += (float(steps.mean()) - study.krylov_steps) * steps.size / study.pairs


def _measure(study: Study, blocks: Sequence[tuple[list[float], range]], methods: Sequence[str] = ()) -> list[Block]:
    """The variables of blocks that are measured at once, each (times, draws, ...), by methods or the one checked."""
    source, record = study.source, study.record
    point = joined(study.predictor, study.plan, source.sample, blocks, record, source.told, study.rows)
    point.methods = tuple(methods) or tuple(name for name in METHODS if name == study.findings.method) or METHODS
    with study.sparingly():
        values = measure_point(point)
    shapes = [(len(timesteps), len(draws)) for timesteps, draws in blocks]
    ends = np.cumsum([times * draws for times, draws in shapes])[:-1]
    parts = {name: np.split(value.cpu().numpy(), ends) for name, value in values.items()}
    return [
        {name: part[b].reshape(*shape, *part[b].shape[1:]) for name, part in parts.items()}
        for b, shape in enumerate(shapes)
    ]


def finish(study: Study, launch: dict[str, Any]) -> None:
    """Record a launch and what it found in the run."""
    facts = {**launch, **sorted_out(study.notes), "method": study.findings.method, "batch": study.batch}
    study.store.record([facts], plan=asdict(study.plan))
