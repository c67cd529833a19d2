"""The doctor's front door: a model is measured by a plan of its own, looked into, and judged.

What is wrong is told by its first cause: where the network is used in another way than it was trained, or a part of it
is broken, what else is out of order follows from that.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints.load import inspect
from ..checkpoints.probe import MISREAD, PASSES
from ..checkpoints.reading import SILENT, Reading
from ..design.plan import Plan, refuse_planned
from ..design.points import ends
from ..errors import CheckpointError, UsageError
from ..quantities.point import Point
from ..results.run import read
from ..store.notes import NOT_TRIED
from ..store.store import open_run
from ..study.measure import carry_out, prepared
from ..study.network import worded
from ..study.resolve import resolve_model
from ..study.state import Study
from . import embedding, network, samples
from .conventions import conventions
from .diagnosis import Diagnosis
from .fault import EMBEDDED, Fault
from .judge import LEVEL, judge, limited
from .scan import DRAWS, EVEN, scan, scanned, seen
from .shift import FIRST, FRESH, shift

QUANTITIES = (
    "time_difference", "stein", "loss", "trace", "one_sided_lipschitz", "asymmetry", "fokker_planck", "swap",
)  # fmt: skip
PLAN = Plan(timesteps="pairs:10", draws=32, quantities=QUANTITIES, krylov_steps=8, certified_width=1.0, probes=1)
"""What the doctor measures: less than half the price of `measure` with its defaults."""

LOOKED = 8
"""Timesteps, and draws of each, at which the network is looked into."""

DEGRADED = {
    "wrong_size", "untrained_band", "miscalibrated_time", "excess_loss", "expanding", "asymmetric", "too_fast",
    "untrained", "inconsistent_times",
}  # fmt: skip
"""Faults that weights of another model in one layer cause too."""

UNCERTAIN = {"no_denoiser", "shared_timesteps"}
"""What the conventions tell that they cause too."""

INTERNAL = {"expansion", "symmetry", "speed", "jump"}
"""Checks that a sound model passes on whatever data."""

STRANGE = (
    "the model finds the noise in samples of its own and not in these data: they are not what it was trained on, or "
    "not in its range; give its own by --data"
)


def doctor(
    model: Any,
    data: Any = None,
    *,
    plan: Plan = PLAN,
    thresholds: Mapping[str, float] | None = None,
    level: float = LEVEL,
    out: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    **words: Any,
) -> Diagnosis:
    """What is wrong with a model, where, and how sure that is.

    A run is judged as it is. A model is measured first, with its conventions tried on the data, and its network looked
    into; faults are named by their causes. All tests over draws are judged together by Holm at `level`.

    Args:
        model: A path (checkpoint, embedded name, or a run, `.zarr`), a `Predictor`, a network with the words that
            `measure` takes for it, or what `measure` returned.
        data: x0, in any of the forms that `measure` takes.
        plan: What is measured of a model; by default `PLAN`.
        thresholds: In the place of those in `health.checks.CHECKS`, by name.
        level: False-alarm rate of all tests together.
        out: Where the run is kept; None keeps it in memory.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        progress: Whether to show a bar.
        words: How the model is read, in the words of `measure`.

    Raises:
        LipdiagError: In one sentence, when the model, the data or the run cannot be used.

    Example:
        >>> found = lipdiag.doctor("digits-ddpm.zarr")
        >>> found.verdict in ("healthy", "faults", "undecided")
        True
    """
    refuse_planned(words)
    model, reading = worded(model, data, words)
    return examine(model, data, plan, thresholds, level, out, device, progress, reading=reading)


def examine(
    model: Any,
    data: Any = None,
    plan: Plan = PLAN,
    thresholds: Mapping[str, float] | None = None,
    level: float = LEVEL,
    out: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    priced: Callable[[Study], bool] = lambda ready: True,
    reading: Reading = SILENT,
) -> Diagnosis:
    """What `doctor` finds; `priced` is called with the study when its price is known, and returns whether to go on."""
    limits = limited(thresholds or {}, level)
    dataset = as_run(model)
    if dataset is not None:
        if data is not None or reading.words:
            raise UsageError("a run is judged as it is: leave data and options of reading out, or give the checkpoint")
        return judge(dataset, limits, level)
    if reading.function == "raw":
        raise UsageError("what the doctor checks holds for predicted noise: leave the raw function out")
    with prepared(model, data, plan, out, True, device, priced=priced, probe=False, reading=reading) as ready:
        point = looked_at(ready)
        faults, undecided, notes = before(ready, point, model, reading)
        carry_out(ready, quiet=not progress)
        drawn, told = samples.drawn(ready.predictor), embedding.embedded(ready.predictor)
        further = [*samples.copies(drawn, ready.source, limits["copies"]), *samples.size(drawn, ready.source, limits)]
        further += [] if told is None else embedding.embedding_tests(told, limits)
        if ready.source.fingerprint != "model":
            further += (scans := list(scan(scanned(ready), limits)))
            if not faults and all(test.p * len(scans) > level for test in scans):  # else it is no shift alone
                further += shift(ready, limits["shift"])
        found = judge(ready.store.dataset(), limits, level, further=further)
        found = replace(found, chain=tuple(embedding.chain(point)))
        names = {fault.name for fault in faults}
        lost = names <= UNCERTAIN and bool(names or undecided)
        sound = not any(line.check in INTERNAL and line.p_value <= level for line in found.lines)
        if lost and sound and samples.are_data(ready.predictor, drawn, ready.source):
            faults, undecided = [], [STRANGE]
        elif undecided != [MISREAD] and (lost or (not names and degraded(found.faults))):
            faults = network.foreign(looked_at(ready, 2 * LOOKED)) or faults
            undecided = [] if faults else undecided
        if not faults and not found.faults:
            faults = samples.samples(ready.predictor, drawn, ready.source)
        return merged(found, faults, undecided, [*notes, *(n for n in ready.notes if n != NOT_TRIED)])


def degraded(faults: Iterable[Fault]) -> bool:
    """Whether faults may be those of one layer's weights; what is seen in the embedding of time alone is its own."""
    names = {fault.name for fault in faults}
    return bool(names & DEGRADED) and not names & set(EMBEDDED.values())


def beside(plan: Plan) -> tuple[int, int]:
    """Forward passes of one sample beside those of the run, and how many more it takes to decide about a shift of time.

    They are for conventions, scan, samples, the shift, and looks into the network.
    """
    fixed = PASSES + 2 * EVEN * DRAWS + samples.COUNT * samples.STEPS + 5 * LOOKED**2
    first, fresh = (3 * draws * plan.draws for draws in (FIRST, FRESH))
    return fixed + first, fresh


def as_run(model: Any) -> Any:
    """The run that a model's place is taken by, opened; None for a model."""
    if isinstance(model, str | Path) and (Path(model).suffix == ".zarr" or (Path(model) / "zarr.json").exists()):
        return open_run(model)
    if type(model).__module__.startswith("xarray"):
        read([model])
        return model
    return None


def before(ready: Study, point: Point, model: Any, reading: Reading) -> tuple[list[Fault], list[str], list[str]]:
    """What is found without the run: faults, reasons to be undecided, and notes."""
    broken = network.untouched(ready.predictor) or network.dead(point)
    broken += [*network.rounding(point), *other_weights(ready, point, model, reading)]
    faults, undecided, notes = conventions(ready.predictor, ready.source)
    if any(fault.name == "no_denoiser" for fault in faults):  # which is never told the time
        broken = [fault for fault in broken if fault.name != "ignored_time"]
    return [*broken, *faults], [] if broken or faults else undecided, notes


def looked_at(ready: Study, draws: int = LOOKED) -> Point:
    """A few timesteps by a few draws, timestep-major."""
    return seen(ready, ends(ready.timesteps, LOOKED), range(draws))


def other_weights(ready: Study, point: Point, model: Any, reading: Reading) -> list[Fault]:
    """Whether the file's other weights, averaged or raw, are better."""
    if not isinstance(model, str | Path):
        return []
    try:
        if not {"ema", "raw"} <= set(inspect(model).available):
            return []
        other = resolve_model(model, replace(reading, weights="raw" if reading.weights == "ema" else "ema"))
    except (CheckpointError, UsageError):
        return []
    other = other.to(point.x.device).eval().requires_grad_(False)
    return network.averages(point, other, reading.weights, LOOKED)


def merged(found: Diagnosis, faults: list[Fault], undecided: list[str], notes: list[str]) -> Diagnosis:
    """One diagnosis: causes first; what a run shows of a cause is told with it."""
    judged = found.faults
    if faults:
        names = {fault.name for fault in faults}
        same = tuple(fault for fault in judged if fault.name in names)
        seen = dict.fromkeys(name for fault in judged for name in (fault.name, *fault.also) if name not in names)
        faults[0] = replace(
            faults[0],
            also=tuple(seen),
            timesteps=faults[0].timesteps or next((f.timesteps for f in same if f.name == faults[0].name), ()),
        )
        judged = ()
    if undecided:
        notes = [*notes, *(f"seen, but perhaps for that reason: {fault.name}: {fault.evidence}" for fault in judged)]
        judged = ()
    return replace(
        found,
        faults=(*faults, *judged),
        undecided=(*found.undecided, *undecided),
        notes=(*found.notes, *dict.fromkeys(notes)),
    )
