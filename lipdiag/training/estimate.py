"""What a recipe costs, before anything is trained: counted on tensors without contents, and tried for two seconds.

Memory is what the weights, their gradients, Adam's two moments and the averaged weights take, plus the tensors that a
forward pass keeps for the backward one. What a backward pass, the allocator and convolution kernels need besides is
not counted: the sum is a lower estimate, and a trial on a card tells what was really taken. Operations are those of
convolutions and matrix products; a step is three forward passes of them, since the backward pass multiplies twice. What
the device could do is measured too, by products of large matrices as the convolutions multiply: their rate is called
its peak.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..linalg.precision import tensor_cores
from ..watching.difference import looks
from ..watching.panel import Panel
from .batch import Batch
from .card import affordable_draws
from .loop import build
from .manner import manner, repeatable
from .objective import loss
from .recipe import Recipe

COPIES = 5  # of the weights: themselves, gradients, two moments, average
BYTES = 4
PASSES = 3  # forward ones that a step is worth
SECONDS = 2.0
"""How long a trial goes on."""

LAPS = 8  # of a trial, at least, before more samples are taken at a time
SIDE = 1024, 8192  # on a processor and on any other device, of the matrices whose product tells the peak
DEAR = 1e11  # operations of a step on one sample that take a core seconds


def parameters(recipe: Recipe) -> int:
    """How many weights the recipe's network has, without making them."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in build(recipe).network.parameters())


def kept_for_backward(recipe: Recipe, device: str = "meta", samples: int = 1) -> tuple[int, int]:
    """Bytes that a forward pass of so many samples keeps, and its multiplications and additions."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device(device):
        predictor = build(recipe).train()
    weights = {weight.untyped_storage()._cdata for weight in predictor.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # held, so that no other storage gets its address
        return tensor

    batch = blank(recipe, samples, device)
    told = {} if batch.labels is None else {"class_labels": batch.labels}
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter, hooks, torch.device(device):
        predictor.network(batch.x0, batch.t.float().to(device), **told)
    total = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)
    return total, counter.get_total_flops()


def blank(recipe: Recipe, samples: int, device: torch.device | str = "cpu") -> Batch:
    """A batch of nothing in particular, on a device."""
    x = torch.zeros(samples, *recipe.shape, device=device)
    labels = (
        torch.zeros(samples, dtype=torch.long, device=device) if recipe.network_config.get("num_class_embeds") else None
    )
    return Batch(x, x, torch.full((samples,), 0.5, dtype=torch.float64, device="cpu"), labels)


class Trial(NamedTuple):
    """What a few steps took.

    Attributes:
        step: Seconds of a step on the whole batch, in one process.
        samples: How many were trained on at a time; 0 where none were, and the step is what it would take at the peak.
        device: Where, by its name.
        peak: Operations a second of a product of large matrices there, in the precision of the network's convolutions,
            which in float32 a card may take on tensor cores.
        memory: Bytes that were taken at most, with the averaged weights; None on a processor, which counts none.
    """

    step: float
    samples: int
    device: str
    peak: float
    memory: int | None


def looked_at(recipe: Recipe, draws: int) -> int:
    """Samples that pass through the network while K is measured on so many draws."""
    with torch.device("meta"):
        predictor = build(recipe)
    return 2 * draws * len(looks(predictor))


def trial(recipe: Recipe, operations: int, device: torch.device | str, seconds: float = SECONDS) -> Trial | None:
    """Forward and backward passes over as many samples as a piece of the batch has, or as the time is enough for.

    Args:
        recipe: To be tried.
        operations: Of a forward pass of one sample.
        device: Where it is to be trained.
        seconds: How long to go on; the first passes, which warm up, come on top.

    Returns:
        What it took; on a processor where one sample alone takes too long, what it would at the peak. None for no time.
    """
    device = torch.device(device)
    if not seconds:
        return None
    precision = manner(recipe, device).precision

    def lap(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    def peak() -> float:
        side = SIDE[device.type != "cpu"]
        a = torch.ones(side, side, dtype=getattr(torch, precision), device=device)
        told = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
        with tensor_cores() if told == "tf32" else nullcontext():
            return 2 * side**3 / max(min(lap(partial(torch.mm, a, a)) for _ in range(3)), 1e-9)

    if device.type == "cpu" and PASSES * operations > DEAR:
        rate = peak()
        return Trial(PASSES * operations * recipe.batch / rate, 0, "cpu", rate, None)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    predictor = build(recipe).to(device).train()
    optimizer = torch.optim.AdamW(predictor.parameters(), fused=True)

    def passes(batch: Batch) -> None:
        loss(predictor, batch, recipe.penalty, precision).backward()

    piece = max(1, recipe.batch // recipe.accumulate)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), repeatable(device):
        samples, spent, laps = 1, 0.0, [lap(partial(passes, blank(recipe, 1, device)))]
        while spent < seconds:
            batch = blank(recipe, samples, device)
            laps.append(lap(partial(passes, batch)))
            spent += laps[-1]
            if samples < piece and laps[-1] < seconds / LAPS:
                samples, laps = min(2 * samples, piece), []
        laps = laps or [lap(partial(passes, blank(recipe, samples, device)))]
        update = min(lap(optimizer.step) for _ in range(2))
    name, memory = "cpu", None
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        memory = torch.cuda.max_memory_allocated(device) + BYTES * sum(w.numel() for w in predictor.parameters())
    return Trial(min(laps) * recipe.batch / samples + update, samples, name, peak(), memory)


def estimate(
    recipe: Recipe, device: torch.device | str = "cpu", processes: int = 1, seconds: float = SECONDS
) -> dict[str, Any]:
    """Facts for a person who decides whether to train by a recipe, after a trial of so many seconds.

    Measuring K on the way, and for the card of the finished model, is told by the samples that have to pass for it.
    """
    count = parameters(recipe)
    kept, operations = kept_for_backward(recipe)
    share = recipe.batch // (processes * recipe.accumulate) or 1
    precision, tried = manner(recipe, torch.device(device)).precision, trial(recipe, operations, device, seconds)
    activations = kept * share // (2 if precision == "bfloat16" else 1)
    step = None if tried is None else tried.step / processes
    weights, work = COPIES * BYTES * count, PASSES * operations * recipe.batch
    passed = looked_at(recipe, Panel().draws), looked_at(recipe, affordable_draws(recipe))
    panel, card = (step and step * samples / PASSES / recipe.batch for samples in passed)
    return {
        "precision": precision,
        "parameters": count,
        "memory_gib": rounded((weights + activations) / 2**30),
        "weights_gib": rounded(weights / 2**30),
        "activations_gib": rounded(activations / 2**30),
        "samples_seen": recipe.steps * recipe.batch,
        "step_flop": rounded(work),
        "flop": rounded(work * recipe.steps),
        "step_seconds": step and rounded(step),
        "images_per_s": step and rounded(recipe.batch / step),
        "flop_per_s": step and rounded(work / step),
        "share_of_peak": rounded(work / step / (tried.peak * processes)) if step and tried and tried.samples else None,
        "hours": step and rounded(step * recipe.steps / 3600),
        "panel_seconds": panel and rounded(panel),
        "card_seconds": card and rounded(card),
        "measured_gib": tried and tried.memory and rounded(tried.memory / 2**30),
        "trial": tried and described(tried, seconds),
    }


def described(tried: Trial, seconds: float) -> str:
    """What was tried, in words."""
    if tried.samples:
        return f"{seconds:g} s on {tried.device}, {tried.samples} samples at a time, not compiled"
    return "none, since one sample takes a processor long: at best, at the rate of its matrix products"


def rounded(value: float) -> float:
    """The value with the two digits that an estimate has."""
    number = float(f"{value:.2g}")
    return int(number) if number >= 100 else number
