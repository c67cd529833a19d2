"""What a full report costs on a device, by its parts, by other products, and next to what one would write instead.

The clock waits for the device, and each piece of work has run once before it is timed. The peaks of the arithmetic are
those of a product of two large matrices.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cost import FULL, Batch, repeated, seconds
from benchmarks.networks import Subject
from benchmarks.rivals import batched, kept_graph, on_kept_graph, problem
from benchmarks.table import hardware
from lipdiag.breakdown import out_of_memory
from lipdiag.design.plan import Plan
from lipdiag.linalg.precision import tensor_cores
from lipdiag.quantities.catalogue import measure_point
from lipdiag.study.memory import peak, released
from lipdiag.study.preparation import needed

CASE = "the full report"
GIB = 2**30
ITERATIONS = 4
"""Of deepinv's power method, of which the mean is told."""


@dataclass(frozen=True)
class Row:
    """A full report at a batch of pairs: seconds of one forward pass and of all of it, and its parts in forward passes.

    Attributes:
        flop: Of the forward pass, as torch counts them.
        rest: Of the Krylov method, the bounds and the estimates, and what is made anew for every batch.
        peak: Bytes held at the most.
        told: Bytes told beforehand, from one pair or two.
    """

    pairs: int
    forward: float
    report: float
    floor: int
    first_jvp: float
    jvp: float
    first_vjp: float
    vjp: float
    rest: float
    flop: int
    peak: int
    told: int

    @property
    def passes(self) -> float:
        return self.report / self.forward


@dataclass(frozen=True)
class Rounded:
    """A full report by other products, next to the one in float32.

    Attributes:
        forward: Seconds of a forward pass in that arithmetic, NaN where the device has none of its own.
        width: Of the certified interval of the spectral norm, the widest.
        difference: The largest relative one of the spectral norm from that of float32.
    """

    products: str
    forward: float
    report: float
    width: float
    difference: float


@dataclass
class Network:
    """All that was found about one network."""

    title: str
    rows: list[Row | str] = field(default_factory=list)
    products: list[Rounded] = field(default_factory=list)
    rivals: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)


def named(device: torch.device) -> str:
    """The device, its driver and the versions."""
    if device.type != "cuda":
        return hardware()
    about = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", f"--id={device.index or 0}"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        driver = "unknown"
    return f"{about.name}, {about.total_memory / GIB:.0f} GiB, driver {driver}, {hardware()}"


def peaks(device: torch.device, size: int) -> dict[str, float]:
    """FLOP a second of a product of two square matrices, in float32 and where there are any on tensor cores."""
    a, b = torch.randn(2, size, size, device=device)
    kinds: dict[str, Any] = {"ieee": nullcontext(), **({"tf32": tensor_cores()} if device.type == "cuda" else {})}
    rates = {}
    for kind, context in kinds.items():
        with context:
            rates[kind] = 2 * size**3 / repeated(lambda: a @ b)()
    return rates


def row(batch: Batch, rounds: int) -> Row:
    """The price of a full report."""
    plan = Plan(quantities=FULL)
    weights = sum(z.nbytes for z in batch.subject.predictor.parameters())
    told = needed(batch.point, plan, batch.subject.predictor)
    batch.run(CASE, plan)
    held = peak(lambda: batch.run(CASE, plan), batch.device)
    batch.run(CASE, plan)
    laps, whole, forward = batch.laps[CASE], [], []
    for _ in range(rounds):
        forward.append(batch.forward())
        whole.append(seconds(lambda: measure_point(batch.point(plan))))  # without the waits around each product
    f = min(forward)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        point = batch.point(Plan(quantities=("loss",)))
        point.predictor(point.x, point.t)
    return Row(
        pairs=batch.pairs,
        forward=f,
        report=min(whole),
        floor=plan.passes(laps.krylov_steps),
        first_jvp=laps.forward[0] / f,
        jvp=median(laps.forward[1:]) / f,
        first_vjp=laps.reverse[0] / f,
        vjp=median(laps.reverse[1:]) / f,
        rest=(laps.total - sum(laps.forward) - sum(laps.reverse)) / f,
        flop=counted.get_total_flops(),
        peak=weights + held,
        told=weights + told.of(batch.pairs),
    )


def by_products(batch: Batch, kinds: Sequence[str]) -> Iterator[Rounded]:
    """The full report by each kind of products, float32 first."""
    exact: Any = None
    for kind in kinds:
        plan = Plan(quantities=FULL, products=kind)
        measure_point(batch.point(plan))
        values: list[Any] = []
        spent = seconds(lambda plan=plan, values=values: values.append(measure_point(batch.point(plan))))
        norm = values[0]["spectral_norm"]
        exact = norm if exact is None else exact
        with tensor_cores() if kind == "tf32" else nullcontext():
            forward = batch.forward() if kind == "ieee" or (kind == "tf32" and batch.device.type == "cuda") else np.nan
        width = (values[0]["spectral_norm_upper"] / norm - 1).max().item()
        yield Rounded(kind, forward, spent, width, (norm / exact - 1).abs().max().item())


def rivals_of(batch: Batch) -> dict[str, float]:
    """What others take, in forward passes: single products, and iterations of the power method."""
    point = batch.point(Plan(quantities=("spectral_norm",)))
    p = problem(point)
    prices = {}

    def price(name: str, work: Callable[[], object], runs: int = 1) -> None:
        try:
            work()
            prices[name] = seconds(work) / runs / batch.forward()
        except (RuntimeError, ImportError) as error:
            if not out_of_memory(error) and not isinstance(error, ImportError):
                raise
            prices[name] = np.nan
        released()

    def deepinv() -> None:
        from deepinv.loss import JacobianSpectralNorm

        x = p.x.clone().requires_grad_()
        JacobianSpectralNorm(max_iter=ITERATIONS, tol=0.0, eval_mode=True, reduction=None)(p.f(x, p.t), x)

    with sdpa_kernel(SDPBackend.MATH):  # attention's other kernels have no second derivative and no forward mode
        price("torch.func.jvp", lambda: torch.func.jvp(lambda x: p.f(x, p.t), (p.x,), (p.v,)))
        price("torch.func.vjp", lambda: torch.func.vjp(lambda x: p.f(x, p.t), p.x)[1](p.v))
        price("batched power, autograd.functional, an iteration", lambda: batched(p))
        price("batched power, double backward, an iteration", lambda: on_kept_graph(kept_graph(p), p.v))
        price(f"deepinv, an iteration of {ITERATIONS}", deepinv, ITERATIONS)
    return prices


def wall_clock(subject: Subject, device: torch.device, timesteps: str, draws: int) -> float:
    """Seconds of `lipdiag measure` as a command, data given, imports and checks included."""
    import diffusers

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = "digits-ddpm"
        if not subject.trained:
            model = str(folder / "model")
            diffusers.DDPMPipeline(subject.predictor.network, diffusers.DDPMScheduler()).save_pretrained(model)
        data, out = str(folder / "x0.npy"), str(folder / "run.zarr")
        np.save(data, torch.stack([subject.sample(i) for i in range(draws)]).float().numpy())
        command = [sys.executable, "-m", "lipdiag", "measure", model, "--data", data, "--out", out, "--quiet"]
        command += ["--timesteps", timesteps, "--draws", str(draws), "--device", str(device)]
        began = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"{' '.join(command[2:])} ended with {ended.returncode}: {ended.stderr.strip()[-300:]}")
        return time.perf_counter() - began
