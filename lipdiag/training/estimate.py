"""What a recipe costs, before anything is trained: counted on tensors without contents, and timed on a few samples.

Memory is what the weights, their gradients, Adam's two moments and the averaged weights take, plus the tensors that a
forward pass keeps for the backward one. What a backward pass, the allocator and convolution kernels need besides is
not counted: the sum is a lower estimate. Operations are those of convolutions and matrix products; a step is three
forward passes of them, since the backward pass multiplies twice.
"""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .loop import build
from .objective import Batch, loss
from .recipe import Recipe

COPIES = 5  # of the weights: themselves, gradients, two moments, average
BYTES = 4
TIMED_OPERATIONS = 1e11  # of the steps that are timed, seconds on one core


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
        predictor.network(batch.x0, batch.t.float(), **told)
    total = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)
    return total, counter.get_total_flops()


def blank(recipe: Recipe, samples: int, device: str = "cpu") -> Batch:
    """A batch of nothing in particular."""
    x = torch.zeros(samples, *recipe.shape, device=device)
    labels = (
        torch.zeros(samples, dtype=torch.long, device=device) if recipe.network_config.get("num_class_embeds") else None
    )
    return Batch(x, x, torch.full((samples,), 0.5, dtype=torch.float64, device=device), labels)


def seconds_per_step(recipe: Recipe, operations: int, device: torch.device | str) -> float | None:
    """Seconds of forward and backward passes over a batch, from timing some of its samples; None if even one is dear.

    Args:
        recipe: To be timed.
        operations: Of a forward pass of one sample.
        device: Where it is to be trained.
    """
    samples = min(recipe.batch, int(TIMED_OPERATIONS / 9 / operations))  # three passes a step, three steps
    if not samples:
        return None
    predictor, batch = build(recipe).to(device).train(), blank(recipe, samples)
    laps = []
    with torch.random.fork_rng():
        for _ in range(3):
            began = time.perf_counter()
            value = loss(predictor, batch, recipe.penalty, recipe.precision)
            value.backward()
            value.item()
            laps.append(time.perf_counter() - began)
    return min(laps) * recipe.batch / samples


def estimate(recipe: Recipe, device: torch.device | str = "cpu", processes: int = 1) -> dict[str, Any]:
    """Facts for a person who decides whether to train by a recipe."""
    count = parameters(recipe)
    kept, operations = kept_for_backward(recipe)
    share = recipe.batch // (processes * recipe.accumulate) or 1
    activations = kept * share // (2 if recipe.precision == "bfloat16" else 1)
    seconds = seconds_per_step(replace(recipe, compile=False), operations, device)
    if seconds is not None:
        seconds /= processes
    weights = COPIES * BYTES * count
    hours = None if seconds is None else seconds * recipe.steps / 3600
    return {
        "parameters": count,
        "memory_gib": rounded((weights + activations) / 2**30),
        "weights_gib": rounded(weights / 2**30),
        "activations_gib": rounded(activations / 2**30),
        "samples_seen": recipe.steps * recipe.batch,
        "step_operations": rounded(3 * operations * recipe.batch),
        "step_seconds": seconds and rounded(seconds),
        "hours": hours and rounded(hours),
    }


def rounded(value: float) -> float:
    """The value with the two digits that an estimate has."""
    return float(f"{value:.2g}")
