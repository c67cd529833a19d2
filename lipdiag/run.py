"""From a checkpoint, data and a plan to a dataset: what the command line and Jupyter both call."""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .diffusion.clock import Timesteps
from .diffusion.parameterization import eps
from .diffusion.predictor import NetworkPredictor, Predictor, RawOutput
from .diffusion.schedule import Table
from .errors import CheckpointError, LipdiagError, UsageError
from .linalg.linearize import out_of_memory
from .study import measure as study
from .study.arithmetic import Autocast, arithmetic, compiled, evaluating
from .study.description import Source
from .study.layout import MOST_DRAWS
from .study.plan import Plan
from .study.quantity import QUANTITIES
from .training.files import shown

if TYPE_CHECKING:
    import xarray as xr

LARGEST_VALUE = 100.0
"""Of x0: pictures lie in [-1, 1] and latents within a few tens; 255 is a picture that was not scaled."""

MODEL_STEPS = 50
"""Sampler steps for x0 drawn from the model itself, at most."""

PROBE_SECONDS, PROBE_SHARE = 60.0, 0.1
"""What the probe of conventions may take: so long, or that much of a longer run."""

MODEL_BATCH = 4
"""Of them at once, whatever the micro-batch, on which their last digits depend: without derivatives that takes about
the memory of one pair with them."""


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1`: the device of that name.

    Raises:
        UsageError: If it is not at hand, or has no float64, which schedules need near t = 0.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        rank = os.environ.get("LOCAL_RANK", "0")  # torchrun: workers of one machine share its devices
        return torch.device("cuda", int(rank) % torch.cuda.device_count() if rank.isdecimal() else 0)
    try:
        device = torch.device(name)
        if device.type == "mps":
            raise UsageError("device mps has no float64, which times near 0 need; use --device cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} is not at hand; use auto, cpu, cuda or cuda:N") from error
    return device


class Model(NamedTuple):
    """A predictor, and what its checkpoint says beside the weights."""

    predictor: Predictor
    data: str | None = None
    notes: tuple[str, ...] = ()


def resolve_model(
    model: Any, factory: str | None = None, shape: tuple[int, ...] | None = None, **reading: Any
) -> Model:
    """A model from a path, the name of an embedded one, a Predictor, or any eps(x, t) with a schedule and shape.

    Args:
        model: The path, name or object; with a factory a path or None.
        factory: `package.module:function` of the user's own that makes the model.
        shape: Of one sample, for a factory that returns a bare network.
        reading: `weights`, `conditioning`, `label`, `original_config`, `schedule`, `parameterization`, `clock`, in
            place of what the files tell; `function="raw"` for the network's own output in the place of eps.

    Raises:
        CheckpointError: If a checkpoint is refused.
        UsageError: If an object is neither.
    """
    from . import zoo

    if reading.pop("function", "eps") == "raw":
        plain = resolve_model(model, factory, shape, **reading)
        note = "measured: the network's own output in its own input, in the place of eps"
        return plain._replace(predictor=RawOutput(plain.predictor), notes=(*plain.notes, note))
    if factory is not None:
        made = zoo.make(factory, model, shape=shape, **reading)
        return Model(made.predictor, notes=(*made.notes, *made.predictor.notes))
    if isinstance(model, str | Path):
        asked = ("weights", "conditioning", "label", "original_config")
        checkpoint = zoo.read(model, **{name: reading.pop(name) for name in asked if name in reading})
        taken = (
            ()
            if len(checkpoint.available) < 2
            else (f"{checkpoint.weights} weights, of {' and '.join(checkpoint.available)}",)
        )
        return Model(zoo.assemble(checkpoint, shape=shape, **reading), checkpoint.data, (*checkpoint.notes, *taken))
    if isinstance(model, Predictor):
        return Model(model)
    if callable(model) and hasattr(model, "schedule") and hasattr(model, "shape"):
        clock = getattr(model, "clock", Timesteps())
        return Model(NetworkPredictor(model, model.schedule, eps, clock, tuple(model.shape)))
    raise UsageError(
        f"cannot measure a {type(model).__name__}: give a path, a lipdiag.Predictor (NetworkPredictor wraps any "
        "network), or a callable eps(x, t) with attributes schedule and shape"
    )


def resolve_source(model: Model, data: Any, seed: int) -> Source:
    """Where x0 comes from: what is given, else the model's own record of its data, else samples of the model itself."""
    from .training.data import Data, array, dataset

    predictor = model.predictor
    if data is None and model.data is not None:
        try:
            return from_data(dataset(model.data, shape=predictor.shape), seed)
        except UsageError:
            pass  # the record names data that are not on this machine
    if data is None:
        return from_model(predictor, seed)
    if isinstance(data, torch.Tensor | np.ndarray):
        values = data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else data
        data = array("an array", values, predictor.shape)
    return from_data(data if isinstance(data, Data) else dataset(data, shape=predictor.shape), seed)


def from_data(data: Any, seed: int) -> Source:
    """Each draw takes one datum at random.

    Raises:
        UsageError: If the values cannot be in a model's own range.
    """
    from .study.draw import data_index

    largest = max(float(data[i].abs().max()) for i in range(0, len(data), max(1, len(data) // 8)))
    if largest > LARGEST_VALUE:
        raise UsageError(
            f"{data.name} holds values as large as {largest:g}, outside any model's own range (pictures are about -1 "
            "to 1): scale the array; 8-bit pictures are scaled by themselves, floats are taken as they are"
        )
    return Source(lambda i: data[data_index(seed, i, len(data))], data.name, data.fingerprint)


def from_model(predictor: Predictor, seed: int) -> Source:
    """Each draw is one deterministic DDIM sample of the model, made with a few others when it is first asked for."""
    from .quality.sample import sample
    from .study import draw

    table = predictor.schedule.timesteps if isinstance(predictor.schedule, Table) else MODEL_STEPS
    steps = max(k for k in range(1, MODEL_STEPS + 1) if table % k == 0)  # DDIM strides evenly over a table

    def noise(i: int) -> torch.Tensor:
        return torch.from_numpy(draw.generator(seed, "model_sample", i).standard_normal(predictor.shape))

    @lru_cache(maxsize=-(-MOST_DRAWS // MODEL_BATCH) + 1)  # what a unit spans
    def block(first: int) -> torch.Tensor:
        start = torch.stack([noise(i) for i in range(first, first + MODEL_BATCH)])
        return sample(predictor, noise=start, steps=steps).cpu()

    return Source(
        lambda i: block(i // MODEL_BATCH * MODEL_BATCH)[i % MODEL_BATCH],
        f"samples of the model itself (DDIM, {steps} steps)",
        "model",
        passes=steps,
        stand_in=noise,
    )


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
    priced: Callable[[study.Study], bool] = lambda ready: True,
    **overrides: Any,
) -> Iterator[study.Study]:
    """A study ready to run: model loaded, timed and checked, run made or found; see `measure` for the arguments.

    Args:
        model: As `predictor` of `measure`.
        data: As for `measure`.
        plan: As for `measure`.
        out: As for `measure`.
        resume: As for `measure`.
        device: As for `measure`.
        shard: (i, N): every N-th unit from the i-th.
        retry: Whether units that were given up are tried again.
        deterministic: Whether only kernels that give the same bits every time may run, at a fixed micro-batch.
        priced: Called with the study when its price is known and before the model is checked, which takes some hundred
            forward passes, and with data two thousand; returns whether to go on with that.
        overrides: As for `measure`.
    """
    plan = plan or Plan()
    if plan.tolerance is not None and shard != (0, 1):
        raise UsageError("a tolerance needs all draws in one process; give --draws instead, or leave --shard out")
    found = resolve_model(model, **overrides)
    predictor = found.predictor
    if predictor.function == "raw":
        plan = of_raw_output(plan)
    place = resolve_device(device)
    home = next((p.device for p in predictor.parameters()), torch.device("cpu"))
    with evaluating(predictor, plan), arithmetic(deterministic):
        predictor.to(place)
        try:
            answers(predictor, plan)
            source = resolve_source(found, data, plan.seed)
            attributes = {
                "data": source.name,
                "function": predictor.function,
                "checkpoint": str(model) if isinstance(model, str | Path) else "in memory",
            }
            ready = study.prepare(
                predictor, source, plan, None if out is None else Path(out), resume, attributes, shard, retry
            )
            ready.halving = not deterministic
            ready.notes += found.notes
            if compiled(predictor):
                ready.notes.append("torch.compile is set aside: the network is measured as it is written")
            study.price(ready)
            if priced(ready):
                ready.notes += tried_conventions(ready)
                study.check(ready)
            yield ready
        finally:
            predictor.to(home)


def answers(predictor: Predictor, plan: Plan) -> None:
    """Ask the model once, so that one that fails whatever it is asked ends in a sentence, not inside of its own code.

    Raises:
        CheckpointError: With what it raised, or if it rounds by autocast inside itself.
    """
    home = next((p.device for p in predictor.parameters()), torch.device("cpu"))
    x = torch.zeros(2, *predictor.shape, dtype=plan.torch_dtype, device=home)
    t = torch.full((2,), 0.5, dtype=torch.float64, device="cpu" if home.type == "mps" else home)
    autocast = Autocast(home)
    try:
        with torch.no_grad(), autocast:
            predictor(x, t)
    except LipdiagError:
        raise
    except Exception as error:  # a stranger's network may raise anything
        if out_of_memory(error):
            raise LipdiagError("out of memory with two samples; use a machine with more memory") from None
        raise CheckpointError(
            f"the network fails on a batch of shape {tuple(x.shape)} in {plan.dtype} with {type(error).__name__}: "
            f"{shown(error)}; check --shape, --dtype and its conditioning, or see where with --debug"
        ) from error
    if autocast.dtype is not None and plan.dtype != "float64":
        raise CheckpointError(
            f"the network switches autocast to {str(autocast.dtype).removeprefix('torch.')} on inside itself, and what "
            "it rounds has no derivative: measure it in float64, which autocast leaves alone (--dtype float64), or "
            "switch autocast off in it"
        )


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
    """What the probe says, or that it is left out where it would take minutes and much of the run."""
    if ready.source.fingerprint == "model":
        return []
    from .zoo.probe import PASSES

    cost = estimate(ready)
    seconds = PASSES * cost["pass_seconds"]
    if seconds > max(PROBE_SECONDS, PROBE_SHARE * cost["seconds"]):
        return [
            f"whether prediction, time, schedule and range are told right was not tried, which would take "
            f"{seconds / 60:.0f} min: `lipdiag inspect --data` tries them"
        ]
    return calibration(ready.predictor, ready.source)


def calibrated(model: Any, data: Any, device: str = "auto", **overrides: Any) -> list[str]:
    """What the probe says of a model as it would be measured on these data."""
    found = resolve_model(model, **{name: value for name, value in overrides.items() if name != "function"})
    predictor = found.predictor.to(resolve_device(device))
    return calibration(predictor, resolve_source(found, data, 0))


def calibration(predictor: Predictor, source: Source) -> list[str]:
    """What the probe says of the way the model is used, on the first draws of x0."""
    from .zoo.probe import DRAWS, probe

    network = predictor.predictor if isinstance(predictor, RawOutput) else predictor
    found = probe(network, torch.stack([source.sample(i) for i in range(DRAWS)]))
    return [] if found is None else found.notes


def launch(ready: study.Study) -> dict[str, Any]:
    """Provenance of this launch."""
    device = next((p.device for p in ready.predictor.parameters()), torch.device("cpu"))
    names = ("lipdiag", "torch", "numpy", "diffusers", "zarr", "xarray")
    program = Path(sys.argv[0]).name
    return {
        "argv": ["jupyter"] if program.startswith("ipykernel") else [program, *sys.argv[1:]],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
    }


def estimate(ready: study.Study) -> dict[str, float]:
    """What a study will cost.

    Returns:
        pairs, forward passes a pair at least, sample_passes that making x0 takes a draw, seconds at 1.25 times the
        passes a pair, and bytes of memory; pass_seconds of a pair's forward pass.
    """
    pairs = len(ready.timesteps) * ready.plan.draws / ready.shard[1]
    sampling = -(-ready.plan.draws // MODEL_BATCH) * MODEL_BATCH * ready.source.passes
    pass_seconds = ready.forward_seconds / ready.layout.pairs
    return {
        "pairs": pairs,
        "passes": ready.floor,
        "sample_passes": ready.source.passes,
        "pass_seconds": pass_seconds,
        "seconds": (pairs * 1.25 * ready.floor + sampling) * pass_seconds,
        "memory": ready.memory,
    }


def measure(
    predictor: Any,
    data: Any = None,
    plan: Plan | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    *,
    device: str = "auto",
    progress: bool = True,
    **overrides: Any,
) -> "xr.Dataset":
    """Measure a model: every quantity of the plan, at every timestep, on every draw.

    Args:
        predictor: A path (checkpoint or embedded name), a `Predictor`, or any eps(x, t) with `schedule` and `shape`.
        data: x0: a folder of images, `.npy`, `.npz`, an embedded set, or an array; by default the checkpoint's own
            record of its data, else samples of the model itself.
        plan: What to measure, how well.
        out: The run's folder (`.zarr`), which can be interrupted and gone on with; None keeps it in memory.
        resume: Whether an existing run at `out` may be gone on with.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        progress: Whether to show a bar.
        overrides: `weights`, `schedule`, `parameterization`, `clock` of a checkpoint, as on the command line.

    Returns:
        The dataset of `design`: dims (`time`, `draw`), one variable a quantity, `done` marking what was measured.
        Interrupting returns what was measured so far.

    Raises:
        LipdiagError: In one sentence, when the model, the data, the plan or the disk cannot be used.
    """
    with prepared(predictor, data, plan, out, resume, device, **overrides) as ready:
        bar: Callable[..., Any] = quiet_bar
        if progress:
            bar = progress_bar()
        carry_out(ready, bar)
    return ready.store.dataset()


def progress_bar() -> Callable[..., Any]:
    """A bar of widgets in a notebook that can show them, else one of characters."""
    from importlib.util import find_spec

    if find_spec("ipywidgets"):
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    return tqdm


def quiet_bar(**_: Any) -> "Quiet":
    return Quiet()


class Quiet:
    """A progress bar that shows nothing."""

    total: float = 0

    def update(self, n: float) -> None: ...
    def set_postfix_str(self, text: str) -> None: ...
    def close(self) -> None: ...


def carry_out(ready: study.Study, bar: Callable[..., Any]) -> bool:
    """Run a prepared study under a progress bar and record the launch.

    Returns:
        Whether it ran to its end; False after Ctrl-C.
    """
    facts, began, ended = launch(ready), time.perf_counter(), "interrupted"
    shown = bar(total=int(estimate(ready)["pairs"]), unit="pair", desc="measuring")
    done = 0
    try:
        for state in study.run(ready):
            shown.total = state.total // ready.shard[1]
            shown.update(state.done - done)
            done = state.done
            if state.message:
                shown.set_postfix_str(state.message)
        ended = "finished"
    except KeyboardInterrupt:
        ready.notes.append("interrupted; the same plan goes on from here")
    finally:
        shown.close()
        study.finish(ready, {**facts, "seconds": time.perf_counter() - began, "ended": ended, "pairs": ready.pairs})
    return ended == "finished"
