"""From a checkpoint, data and a plan to a dataset: what the command line and Jupyter both call."""

import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .diffusion.predictor import Predictor, RawOutput
from .errors import CheckpointError, LipdiagError, UsageError
from .files import shown
from .linalg.linearize import out_of_memory
from .resolve import MODEL_BATCH, remarks, resolve_device, resolve_model, resolve_source
from .study import measure as study
from .study.arithmetic import Autocast, arithmetic, compiled, differentiable, evaluating
from .study.description import Source
from .study.plan import Plan
from .study.quantity import QUANTITIES

if TYPE_CHECKING:
    import xarray as xr

PROBE_SECONDS, PROBE_SHARE = 60.0, 0.1
"""What the probe of conventions may take: so long, or that much of a longer run."""


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
        encode: As for `measure`.
        priced: Called with the study when its price is known and before the model is checked, which takes some hundred
            forward passes, and with data two thousand; returns whether to go on with that.
        overrides: As for `measure`.
    """
    plan = plan or Plan()
    if plan.tolerance is not None and shard != (0, 1):
        raise UsageError("a tolerance needs all draws in one process; give --draws instead, or leave --shard out")
    with torch.inference_mode(False):
        found = resolve_model(model, **overrides)
    predictor = found.predictor
    if predictor.function == "raw":
        plan = of_raw_output(plan)
    place = resolve_device(device)
    home = next((p.device for p in predictor.parameters()), torch.device("cpu"))
    with differentiable(predictor), evaluating(predictor, plan), arithmetic(deterministic):
        predictor.to(place)
        try:
            answers(predictor, plan)
            source = resolve_source(found, data, plan.seed, encode)
            attributes = {
                "data": source.name,
                "function": predictor.function,
                "checkpoint": str(model) if isinstance(model, str | Path) else "in memory",
            }
            ready = study.prepare(
                predictor, source, plan, None if out is None else Path(out), resume, attributes, shard, retry
            )
            ready.halving = not deterministic
            ready.notes += remarks(found, source)
            if compiled(predictor):
                ready.notes.append("torch.compile is set aside: the network is measured as it is written")
            study.price(ready)
            if priced(ready):
                study.check(ready)
                ready.notes += tried_conventions(ready)
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
    autocast, failure = Autocast(home), None
    for samples in (2, 1):  # some networks are written for one at a time
        try:
            with torch.no_grad(), autocast:
                predictor(x[:samples], t[:samples])
        except LipdiagError:
            raise
        except Exception as error:  # a stranger's network may raise anything
            if out_of_memory(error):
                raise LipdiagError("out of memory with two samples; use a machine with more memory") from None
            failure = failure or error
        else:
            break
    else:
        raise CheckpointError(
            f"the network fails on a batch of shape {tuple(x.shape)} in {plan.dtype} with {type(failure).__name__}: "
            f"{shown(failure)}; check --shape, --dtype and its conditioning, or see where with --debug"
        ) from failure
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
    if ready.findings.company.of:
        return ["whether prediction, time, schedule and range are told right was not tried, which mixes timesteps"]
    from .zoo.probe import PASSES

    cost = estimate(ready)
    seconds = PASSES * cost["pass_seconds"]
    if seconds > max(PROBE_SECONDS, PROBE_SHARE * cost["seconds"]):
        return [
            f"whether prediction, time, schedule and range are told right was not tried, which would take "
            f"{seconds / 60:.0f} min: `lipdiag inspect --data` tries them"
        ]
    try:
        return calibration(ready.predictor, ready.source)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        if out_of_memory(error):
            raise
        # the model answers what is measured: a single timestep, or smaller batches
        return [f"whether prediction, time, schedule and range are told right was not tried: {shown(error)}"]


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
        overrides: `weights`, `schedule`, `parameterization`, `clock` of a checkpoint, as on the command line; `encode`
            to make latents of pictures by the vae in a latent model's folder.

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
        pass  # what is done is kept, and the same plan goes on from here
    finally:
        shown.close()
        study.finish(ready, {**facts, "seconds": time.perf_counter() - began, "ended": ended, "pairs": ready.pairs})
    return ended == "finished"
