"""From a checkpoint, data and a plan to a dataset: what the command line and Jupyter both call."""

import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import provenance
from ..breakdown import of_the_device
from ..checkpoints.reading import SILENT, Reading
from ..data.ranged import USUAL
from ..design.arithmetic import arithmetic, compiled, differentiable, evaluating
from ..design.description import Source
from ..design.plan import Plan, refuse_planned
from ..design.points import informed
from ..dialect import in_python
from ..diffusion.predictor import Predictor, RawOutput, device_of
from ..errors import Caution, LipdiagWarning, UsageError
from ..files import shown
from ..hub import spelled
from ..linalg.half_precision import in_half_precision
from ..linalg.products import PRODUCTS
from ..progress import bar
from ..quantities.catalogue import QUANTITIES
from ..readiness.answer import answered, in_a_sentence, verify_weights
from ..readiness.tensor_cores import tensor_cores
from ..shared_network import lifted
from ..store.notes import NOT_TRIED, TRIED, lacking, recalled
from . import preparation, study
from .device import placed, resolve_device
from .memory import recompute
from .network import worded
from .preparation import estimate
from .resolve import remarks, resolve_model, resolve_source

if TYPE_CHECKING:
    import xarray as xr

PROBE_SECONDS, PROBE_SHARE = 60.0, 0.1
"""What the probe of conventions may take: so long, or that much of a longer run."""

BY_HAND = "there are no tensor cores here: products are rounded by hand, in several times the time that is told"
SET_ASIDE = "torch.compile is set aside: the network is measured as it is written"


@contextmanager
def prepared(
    model: Any,
    data: Any = None,
    plan: Plan | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    device: str = "auto",
    shard: tuple[int, int] = (0, 1),
    retry: bool = False,
    deterministic: bool = False,
    encode: bool = False,
    resize: bool = False,
    range: tuple[float, float] = USUAL,
    priced: Callable[[study.Study], bool] = lambda ready: True,
    probe: bool = True,
    reading: Reading = SILENT,
) -> Iterator[study.Study]:
    """A study ready to run: model loaded, timed and checked, run made or found.

    Args:
        model: A path (checkpoint or embedded name), a `Predictor`, or any eps(x, t) with `schedule` and `shape`.
        data: x0, in any of the forms that `measure` takes; None for the checkpoint's own record of its data, else for
            samples of the model itself.
        plan: What to measure, how well; by default `Plan()`.
        out: The run's folder; None keeps the run in memory.
        resume: Whether an existing run at `out` may be gone on with.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        shard: (i, N): every N-th unit from the i-th.
        retry: Whether units that were given up are tried again.
        deterministic: Whether only kernels that give the same bits every time may run, at a fixed micro-batch.
        encode: Whether latents are made of pictures, by the vae in the model's folder.
        resize: Whether the pictures of a folder are made as large as the model's and cut to their centre.
        range: Where the black and the white of pictures of 8 bits lie.
        priced: Called with the study when its price is known and before the model is checked, which takes some hundred
            forward passes, and with data two thousand; returns whether to go on with that.
        probe: Whether the conventions that the model is used by are tried on the data, by the first of several workers.
        reading: What the user tells of the model, in the place of what its files tell.
    """
    plan = plan or Plan()
    if plan.tolerance is not None and shard != (0, 1):
        raise UsageError("a tolerance needs all draws in one process; give --draws instead, or leave --shard out")
    with torch.inference_mode(False):
        predictor = resolve_model(model, reading)
    if predictor.function == "raw":
        plan = of_raw_output(plan)
    place = resolve_device(device, deterministic)
    verify_weights(predictor)
    with (
        differentiable(predictor),
        evaluating(predictor, plan),
        arithmetic(deterministic),
        narrow(predictor, plan),
        placed(predictor, place),
        ExitStack() as changed,
    ):
        source = resolve_source(predictor, data, plan.seed, encode, resize, range)
        asked = informed(predictor, source.told if source.conditions else None, (0,), plan.torch_dtype)
        plan, said = answered(asked, plan)
        said += changed.enter_context(lifted(asked, plan.torch_dtype))
        attributes = named(predictor.path if isinstance(model, str | Path) else model, asked, source)
        ready = preparation.prepare(asked, source, plan, Path(out) if out else None, resume, attributes, shard, retry)
        changed.enter_context(narrow(asked, ready.plan))  # of those that `auto` took
        ready.halving = not deterministic
        changed.callback(lambda: ready.sparing == 2 and recompute(predictor, on=False))
        ready.notes += [*remarks(asked, source), *said, *([SET_ASIDE] if compiled(asked) else [])]
        ready.notes += [BY_HAND] if ready.plan.products in PRODUCTS[1:] and tensor_cores(place) is None else []
        preparation.price(ready)
        if priced(ready):
            check_model(ready, probe)
        yield ready


def narrow(predictor: Predictor, plan: Plan) -> AbstractContextManager[object]:
    """Weights in half precision kept so where products are fast ones, which take their ten bits as they are."""
    return in_half_precision(predictor) if plan.products in PRODUCTS[1:] else nullcontext()


def named(model: Any, predictor: Predictor, source: Source) -> dict[str, str]:
    """What was measured, in the words of the user: attributes of the run."""
    return {
        "data": source.name,
        "function": predictor.function,
        "checkpoint": spelled(model) if isinstance(model, str | Path) else "in memory",
    }


def check_model(ready: study.Study, probe: bool) -> None:
    """Check the model of a study before it is measured, its conventions too where `probe` asks for that."""
    with in_a_sentence(ready.predictor, ready.plan):
        preparation.check(ready)
        told = recalled(ready.store.attributes, TRIED)
        ready.notes += told or (tried_conventions(ready) if probe else [NOT_TRIED])


def of_raw_output(plan: Plan) -> Plan:
    """The plan without what only a prediction of the noise has; asked for by name it is refused."""
    lost = [name for name in plan.quantities if QUANTITIES[name].of_noise]
    if lost and plan.quantities != Plan().quantities:
        raise UsageError(
            f"the network's own output has no {' and no '.join(lost)}, which a noise prediction has: leave out either "
            "that or the raw function"
        )
    return plan.replace(quantities=tuple(name for name in plan.quantities if name not in lost))


def tried_conventions(ready: study.Study) -> list[str]:
    """What the probe says, or that it is left out where it would take minutes and much of the run.

    Of several workers, of which each would say the same, the first one tries.
    """
    if ready.source.fingerprint == "model" or ready.shard[0]:
        return []
    if ready.findings.company.of:
        return ["whether prediction, time, schedule and range are told right was not tried, which mixes timesteps"]
    from ..checkpoints.probe import PASSES, UnfiniteError

    cost = estimate(ready)
    seconds = PASSES * cost["pass_seconds"]
    if not cost["left"]:
        return []
    if seconds > max(PROBE_SECONDS, PROBE_SHARE * cost["seconds"]):
        said = Caution(f"{NOT_TRIED}, which would take {seconds / 60:.0f} min: `lipdiag inspect --data` tries them")
        return recalled(ready.store.attributes, NOT_TRIED) or [said]
    try:
        return calibration(ready.predictor, ready.source)
    except (UnfiniteError, RuntimeError, ValueError, IndexError, AssertionError) as error:
        if of_the_device(error):
            raise
        # the model answers what is measured: a single timestep, smaller batches, other draws
        return [Caution(f"{NOT_TRIED}: {shown(error)}")]


def calibrated(
    model: Any,
    data: Any,
    device: str = "auto",
    reading: Reading = SILENT,
    resize: bool = False,
    range: tuple[float, float] = USUAL,
) -> list[str]:
    """What the probe says of a model as it would be measured on these data."""
    predictor = resolve_model(model, reading).to(resolve_device(device))
    with evaluating(predictor, Plan()), arithmetic():
        return calibration(predictor, resolve_source(predictor, data, 0, resize=resize, range=range))


def calibration(predictor: Predictor, source: Source) -> list[str]:
    """What the probe says of the way the model is used, on the first draws of x0."""
    from ..checkpoints.probe import DRAWS, probe

    if source.conditions:
        return [Caution(f"{NOT_TRIED}: each x0 is told something of its own")]
    network = predictor.predictor if isinstance(predictor, RawOutput) else predictor
    tried = probe(network, torch.stack([source.sample(i) for i in range(DRAWS)]))
    if tried is None:
        return []
    sound = tried.right and (tried.trained or tried.indistinct)
    return tried.notes if sound else [Caution(note) for note in tried.notes]


def launch(ready: study.Study) -> dict[str, Any]:
    """Provenance of this launch."""
    device = device_of(ready.predictor)
    processor = platform.processor() or platform.machine()
    return provenance.launch(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        device_type=device.type,
        threads=torch.get_num_threads(),
        deterministic=torch.get_deterministic_debug_mode() == 2,  # not where torch only warns of other kernels
    )


def measure(
    predictor: Any,
    data: Any = None,
    plan: Plan | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    *,
    device: str = "auto",
    progress: bool = True,
    probe: bool = True,
    shard: tuple[int, int] = (0, 1),
    retry: bool = False,
    deterministic: bool = False,
    encode: bool = False,
    resize: bool = False,
    range: tuple[float, float] = USUAL,
    **words: Any,
) -> "xr.Dataset":
    """Measure a model: every quantity of the plan, at every timestep, on every draw.

    Args:
        predictor: A path (checkpoint or embedded name), a `Predictor`, a network or a pipeline of diffusers, or any
            eps(x, t) with `schedule` and `shape`.
        data: x0: a folder of images, `.npy`, `.npz`, an embedded set, an array, or a torch `DataLoader`; by default the
            checkpoint's own record of its data, else samples of the model itself.
        plan: What to measure, how well.
        out: The run's folder (`.zarr`), which can be interrupted and gone on with; None keeps it in memory.
        resume: Whether an existing run at `out` may be gone on with.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        progress: Whether to show a bar.
        probe: Whether other conventions are first tried on the data, in some two thousand forward passes.
        shard: (i, N): every N-th unit from the i-th.
        retry: Whether units that were given up are tried again.
        deterministic: Whether only kernels that give the same bits every time may run.
        encode: Whether latents are made of pictures, by the vae in the model's folder.
        resize: Whether the pictures of a folder are made as large as the model's and cut to their centre.
        range: Where the black and the white of pictures of 8 bits lie.
        words: `weights`, `schedule`, `parameterization`, `clock` and the others of a checkpoint's `Reading`, as on the
            command line. Of a network in memory: `schedule`, `parameterization` and `clock` (one of diffusers'
            schedulers as `schedule` tells all three), `shape`, `conditioning`, `label` and `function`.

    Returns:
        The dataset of `design`: dims (`time`, `draw`), one variable a quantity, `done` marking what was measured.
        Interrupting returns what was measured so far. Its attributes `warnings` and `notes` say what has to be known
        of its numbers; each of the warnings is a `LipdiagWarning` too.

    Raises:
        LipdiagError: In one sentence, when the model, the data, the plan or the disk cannot be used.

    Example:
        >>> plan = lipdiag.Plan(timesteps="0,10,500", draws=4, quantities=("time_difference",))
        >>> run = lipdiag.measure("digits-ddpm", plan=plan, progress=False, probe=False)
        >>> dict(run.sizes)
        {'time': 3, 'draw': 4}
    """
    how: dict[str, Any] = {"shard": shard, "retry": retry, "deterministic": deterministic}
    how |= {"encode": encode, "resize": resize, "range": range}
    refuse_planned(words)
    model, reading = worded(predictor, data, words)
    with prepared(model, data, plan, out, resume, device, probe=probe, reading=reading, **how) as ready:
        before = len(ready.notes)
        warn(ready.notes, level=2)
        whole = carry_out(ready, quiet=not progress, asked=in_words(data=data, encode=encode, **words))
    found = ready.store.dataset()
    warn([*ready.notes[before:], *([] if whole else map(Caution, lacking(found["done"].values)))], level=2)
    return found


def in_words(**told: Any) -> dict[str, Any]:
    """What a caller told besides the plan, as far as the command line could be told it too, for the record."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in told.items()}
    plain |= {name: list(value) for name, value in plain.items() if isinstance(value, tuple)}
    return {name: value for name, value in plain.items() if isinstance(value, str | int | list) and value is not False}


def warn(notes: Sequence[str], level: int) -> None:
    """Give each caution among notes as a warning of Python's, from the caller so many levels above."""
    for note in notes:
        if isinstance(note, Caution):
            # from the caller of a function that the package hands out, which is wrapped once
            warnings.warn(in_python(note), LipdiagWarning, stacklevel=level + 2)


def carry_out(ready: study.Study, quiet: bool = False, asked: dict[str, Any] | None = None) -> bool:
    """Run a prepared study under a progress bar, shown unless `quiet`, and record the launch.

    Args:
        ready: The study.
        quiet: Whether to show no bar.
        asked: What was told besides the plan, where it does not stand in the process's command.

    Returns:
        Whether it ran to its end; False after Ctrl-C.
    """
    facts = launch(ready) | ({"asked": asked} if asked else {})
    began, ended = time.perf_counter(), "interrupted"
    pairs, left = ready.share()
    progress = bar(pairs, "pair", "measuring", quiet or not left)
    done = 0
    try:
        for state in study.run(ready):
            progress.total = pairs if ready.plan.tolerance is None else state.total
            progress.update(state.done - done)
            done = state.done
            if state.message:
                progress.set_postfix_str(state.message)
        ended = "finished"
        if ready.passes < ready.floor:
            preparation.price(ready)  # the forward pass was timed while the machine was slow
    except KeyboardInterrupt:
        pass  # what is done is kept, and the same plan goes on from here
    finally:
        progress.close()
        study.finish(ready, {**facts, "seconds": time.perf_counter() - began, "ended": ended, "pairs": ready.pairs})
    return ended == "finished"
