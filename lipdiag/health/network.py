"""What a run cannot show: parts of a network that say nothing, times that it does not tell apart, foreign weights."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.clock import Shared
from ..diffusion.predictor import NetworkPredictor, Predictor
from ..printing import plain
from ..quantities.point import Point
from ..statistics import ratio
from .fault import Fault
from .laws import above

NEIGHBOURS = 16
"""Timesteps next to each other that are told, at each of several places."""

PLACES = (0.25, 0.5, 0.75, 1.0)
"""Where, in t."""

FINE = 2.0**-11
"""Relative distance of neighbours where time is continuous, an eighth or a fourth of what bfloat16 tells apart."""

STILL = 0.5
"""Share of neighbours that are answered the same, of a network that tells times apart at most."""

WORSE = 1.02
"""Times the loss of the other weights: what is worse by less is as good."""

CANDIDATES, STEPS, RATE = 12, 16, 0.05
"""Layers of which the weights are tried, steps of descent on each, and their length relative to the weights."""

REPAIRED = 0.9
"""The loss after descent on one layer of weights that are not its own, over that before, on other points."""

FRESH, SLACK = 0.8, 0.02
"""Share of layers with the weights that torch begins with, and how near to these their size is."""

MOST_WEIGHTS = 50_000_000
"""The largest network whose layers are tried."""


@contextmanager
def heard(network: nn.Module) -> Iterator[dict[str, tuple[bool, bool]]]:
    """Whether the input, and whether the output, of each module with weights differs between samples, by its name."""
    found: dict[str, tuple[bool, bool]] = {}
    handles = []

    def differs(value: Any) -> bool:
        if isinstance(value, tuple | list):
            return any(map(differs, value))
        if not isinstance(value, Tensor) or value.ndim < 2 or not value.is_floating_point() or len(value) < 2:
            return False
        spread = (value - value[:1]).abs().amax()
        return bool(spread > 1e-6 * value.abs().amax())

    for name, module in network.named_modules():
        if any(True for _ in module.parameters(recurse=False)):

            def hear(_: nn.Module, given: Any, said: Any, name: str = name) -> None:
                before = found.get(name, (False, False))
                found[name] = before[0] or differs(given), before[1] or differs(said)

            handles.append(module.register_forward_hook(hear))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def dead(point: Point) -> list[Fault]:
    """Layers that say the same of whatever they are told; one pass."""
    network = getattr(point.predictor, "network", None)
    if not isinstance(network, nn.Module):
        return []
    with heard(network) as found:
        point.predictor(point.x, point.t)
    names = [name or "the whole network" for name, (told, said) in found.items() if told and not said]
    if not names:
        return []
    listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    evidence = f"the output of {listed} is the same for {len(point.x)} samples and timesteps, though the input differs"
    return [Fault("dead_block", (), evidence, "check that the weights of this layer are loaded, and not 0")]


@torch.no_grad()
def rounding(point: Point) -> list[Fault]:
    """Whether neighbouring timesteps are told apart, to the last bit of an answer; 64 passes of one sample."""
    predictor, clock = point.predictor, point.predictor.clock
    if not isinstance(predictor, NetworkPredictor):
        return []
    steps = torch.arange(NEIGHBOURS, dtype=torch.float64, device="cpu")
    same: dict[float, int] = {}
    for place in PLACES:
        first = clock.base(torch.tensor([place], dtype=torch.float64, device="cpu"))
        if clock.discrete:
            told = first.round() - steps.flip(0) * (1 if clock.ends[0] <= clock.ends[1] else -1)
        else:
            told = first * (1 - FINE * steps)
        if isinstance(clock, Shared) and bool((clock.block(told) < clock.blocks).any()):
            continue
        x = point.x[-1:].expand(NEIGHBOURS, *point.x.shape[1:])
        answers = predictor.output(x, told.to(point.t.device)).flatten(1)
        same[float(told[-1] if clock.discrete else first)] = int((answers[1:] == answers[:-1]).all(1).sum())
    most, count = NEIGHBOURS - 1, sum(same.values())
    every = most * len(same)
    coarse = [timestep for timestep, alike in same.items() if STILL * most <= alike < most]  # all: a band of one answer
    if not coarse and count < every:
        return []
    evidence = f"{count} of {every} pairs of neighbouring timesteps are answered the same, to the last bit"
    if count == every:
        return [Fault("ignored_time", (), evidence, "check that the network gets its timestep")]
    return [
        Fault(
            "rounded_time", tuple(coarse), evidence, "embed timesteps in float32: cast after the embedding, not before"
        )
    ]


@torch.no_grad()
def losses(predictor: Predictor, point: Point, draws: int) -> np.ndarray:
    """Mean over times of each draw's loss, relative to that of the time."""
    error = (predictor(point.x, point.t).double() - point.noise.double()).flatten(1).square().mean(1)
    return error.view(-1, draws).cpu().numpy()


def averages(point: Point, other: Predictor, chosen: str, draws: int) -> list[Fault]:
    """Whether the other weights of a file, averaged or raw, are better for certain; one pass with each."""
    mine, theirs = losses(point.predictor, point, draws), losses(other, point, draws)
    scale = theirs.mean(1, keepdims=True)
    own, best = (mine / scale).mean(0), (theirs / scale).mean(0)
    _, p = above(own - WORSE * best)
    if p > 0.001:
        return []
    name = "ema_not_loaded" if chosen == "raw" else "stale_ema"
    use = "ema" if chosen == "raw" else "raw"
    evidence = f"the {use} weights in the file err {ratio(best, own)} times as much (p = {plain(p, 2)})"
    remedy = "--weights ema" if use == "ema" else "--weights raw, and check the decay of the average, and when it began"
    return [Fault(name, (), evidence, f"use {remedy}", p)]


def foreign(point: Point) -> list[Fault]:
    """The layer whose weights hold the loss up alone, if there is one: descent on it gains more than on any other.

    A trained network, and one that was trained too little, has no layer that gains much alone in a few steps. The
    layers with the steepest loss are tried, each alone, on half of the points, and judged on the others.

    Cost: 200 passes of half of the points, with their gradients.
    """
    network = getattr(point.predictor, "network", None)
    count = sum(p.numel() for p in network.parameters()) if isinstance(network, nn.Module) else 0
    if not 0 < count <= MOST_WEIGHTS:
        return []
    predictor: Any = copy.deepcopy(point.predictor).requires_grad_(True)
    half = torch.arange(len(point.x), device="cpu") % 2 == 0
    scale = (predictor(point.x, point.t) - point.noise).detach().flatten(1).square().mean(1)
    weight = 1 / scale.clamp_min(1e-6)

    def loss(rows: Tensor) -> Tensor:
        error = (predictor(point.x[rows], point.t[rows]) - point.noise[rows]).flatten(1).square().mean(1)
        return (error * weight[rows]).mean()

    layers = {n: list(m.parameters(recurse=False)) for n, m in predictor.network.named_modules()}
    layers = {n: p for n, p in layers.items() if p}
    first = loss(half)
    if not first.requires_grad:  # a network that is called around its own weights
        return []
    first.backward()
    steep = {
        name: sum(float(w.grad.norm() * w.detach().norm()) for w in weights if w.grad is not None)
        for name, weights in layers.items()
    }
    with torch.no_grad():
        before = loss(~half).item()
    tried = sorted(steep, key=lambda name: -steep[name])[:CANDIDATES]
    gains = {name: descended(loss, layers[name], half) / before for name in tried}
    best, *rest = sorted(gains, key=lambda name: gains[name])
    if gains[best] > REPAIRED:
        return []
    evidence = f"{STEPS} steps of descent on {best} alone bring the loss of other points to {plain(gains[best])} of it"
    evidence += f", on {rest[0]} to {plain(gains[rest[0]])}, and on others to no less" if rest else ""
    remedy = f"load the weights of {best} again, or of a layer beside it: they may be another model's"
    return [Fault("foreign_weights", (), evidence, remedy)]


def untouched(predictor: Predictor) -> list[Fault]:
    """Whether the weights are those that torch's layers begin with: uniform up to one over the root of the fan-in."""
    network = getattr(predictor, "network", None)
    layers = (
        [m for m in network.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
        if isinstance(network, nn.Module)
        else []
    )
    fresh = 0
    for layer in layers:
        weight = layer.weight.detach().double()
        bound = weight[0].numel() ** -0.5
        fresh += bool(weight.abs().max() <= bound * (1 + 1e-6)) and bool(
            (weight.std() * 3**0.5 / bound - 1).abs() < max(SLACK, 2 * weight.numel() ** -0.5)
        )
    if len(layers) < 2 or fresh < FRESH * len(layers):
        return []
    evidence = (
        f"the weights of {fresh} of {len(layers)} layers are as torch begins with: uniform, up to 1 / sqrt(inputs)"
    )
    return [Fault("untrained", (), evidence, "load the trained weights, averages too: names in the file may not fit")]


def descended(loss: Callable[[Tensor], Tensor], weights: list[Tensor], half: Tensor) -> float:
    """The loss of the other points after some steps of descent on one layer's weights, which are then put back."""
    kept = [w.detach().clone() for w in weights]
    length = float(torch.cat([w.detach().flatten() for w in weights]).square().mean().sqrt())
    optimizer = torch.optim.Adam(weights, lr=RATE * length)
    for _ in range(STEPS):
        gradients = torch.autograd.grad(loss(half), weights)
        for w, g in zip(weights, gradients, strict=True):
            w.grad = g
        optimizer.step()
    with torch.no_grad():
        found = loss(~half).item()
        for w, before in zip(weights, kept, strict=True):
            w.copy_(before)
    return found
