"""How fast the training loop is next to bare ones: `python -m benchmarks.training --recipe cifar10 --device cuda`.

A bare loop has the same network, batch size and optimizer, and nothing else: its batch is ready, and it has no averaged
weights, no clipping, no checks and no log. Ours and a bare one take turns in one process; the ratio of their rates is
the median over rounds. The pictures are noise: what is learned of them does not matter here.
"""

import gc
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from statistics import median
from typing import NamedTuple

import click
import numpy as np
import torch
from torch import nn

from benchmarks.cost import seconds
from benchmarks.goals import Goal
from benchmarks.table import hardware
from lipdiag.data.dataset import Data, array
from lipdiag.diffusion.continuous import along
from lipdiag.study.device import current
from lipdiag.training.batch import draw
from lipdiag.training.loop import State, build, train
from lipdiag.training.recipe import RECIPES, Recipe, set_fields

STEPS = 4
"""How many steps each of the two trains in a round, at least."""

SAMPLES = 2048
ENDLESS = 10**9


class Bare(NamedTuple):
    """How a bare loop computes."""

    name: str
    bfloat16: bool = False
    compiled: bool = False
    channels_last: bool = False
    captured: bool = False


PROCESSOR = (Bare("float32"),)
CARD = (
    Bare("TF32"),
    Bare("bfloat16", True),
    Bare("bfloat16, compiled", True, True),
    Bare("bfloat16, compiled, channels last", True, True, True),
    Bare("bfloat16, compiled and captured", True, True, False, True),
)
LEAST = {"cpu": 0.95, "cuda": 1.0}
"""Times the fastest bare loop that ours is to be, at least."""


class Rate(NamedTuple):
    """What was found beside one bare loop: samples a second of both, and the median of their ratio over rounds."""

    name: str
    ours: float
    bare: float
    ratio: float


def pictures(recipe: Recipe) -> Data:
    """Noise in the place of the recipe's data, which need not be at hand."""
    shape = SAMPLES, *recipe.shape
    return array("noise", np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), recipe.shape)


def bare(recipe: Recipe, how: Bare, device: torch.device) -> Callable[[], float]:
    """One step of the loop that one would write first."""
    predictor = build(recipe).train().to(device)
    layout = torch.channels_last if how.channels_last else torch.contiguous_format
    network = predictor.network.to(memory_format=layout)
    pieces = []
    for piece in draw(recipe, pictures(recipe), predictor.clock.base, 0, device=device).pieces(recipe.accumulate):
        alpha, sigma = (along(c.float().to(device), piece.x0) for c in predictor.schedule(piece.t))
        x = (alpha * piece.x0 + sigma * piece.noise).to(memory_format=layout)
        pieces.append((x, predictor.clock(piece.t).float().to(device), piece.noise))
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=0.0, fused=True)
    mode = "reduce-overhead" if how.captured else "default"
    called = torch.compile(network, mode=mode) if how.compiled else network

    def step() -> float:
        optimizer.zero_grad()
        total = 0.0
        for x, timestep, noise in pieces:
            with torch.autocast(device.type, torch.bfloat16) if how.bfloat16 else nullcontext():
                y = called(x, timestep).sample
            value = nn.functional.mse_loss(y.float(), noise) / len(pieces)
            value.backward()
            total += value.item()
        optimizer.step()
        return total

    return step


def some(states: Iterator[State]) -> int:
    """Train on for so many steps at least; how many they were."""
    done = 0
    while done < STEPS:
        done += len(next(states).rows)
    return done


def beside(recipe: Recipe, how: Bare, device: torch.device, states: Iterator[State], rounds: int) -> Rate:
    """A bare loop and ours in turns."""
    theirs = bare(recipe, how, device)
    for _ in range(2):  # what is set up once in a process belongs to neither
        theirs()
    pairs = []
    for _ in range(rounds):
        began = time.perf_counter()
        mine = some(states) * recipe.batch / (time.perf_counter() - began)
        pairs.append((mine, STEPS * recipe.batch / seconds(lambda: [theirs() for _ in range(STEPS)])))
    ours, others, ratios = zip(*((a, b, a / b) for a, b in pairs), strict=True)
    return Rate(how.name, median(ours), median(others), median(ratios))


def settled(recipe: Recipe, device: torch.device) -> tuple[Iterator[State], State, float]:
    """A training at its pace: its states to come, the last one, and the seconds until it knew how it goes on."""
    began = time.perf_counter()
    states = train(replace(recipe, steps=ENDLESS), pictures(recipe), device)
    state = next(state for state in states if state.compiled is not None and state.step > 1)
    return states, state, time.perf_counter() - began


def rates(recipe: Recipe, device: torch.device, rounds: int) -> Iterator[Rate]:
    """Our loop beside each bare one; first how it computes, as a rate without a rival."""
    states, state, ready = settled(recipe, device)
    how = f"{state.precision}{', compiled' if state.compiled else ''}, at this pace after {ready:.0f} s"
    yield Rate(how, math.nan, math.nan, math.nan)
    for rival in PROCESSOR if device.type == "cpu" else CARD:
        yield beside(recipe, rival, device, states, rounds)
        gc.collect()  # of the bare loop, whose memory the next one needs


def relative_rate(name: str) -> float:
    """Steps a second of `train` over those of the bare loop on a processor."""
    *_, bare = rates(RECIPES[name], torch.device("cpu"), 9)
    return bare.ratio


def text(recipe: Recipe, device: torch.device, measured: list[Rate]) -> Iterator[str]:
    """What was found, in words."""
    first, *others = measured
    yield torch.cuda.get_device_name(device) if device.type == "cuda" else hardware()
    yield f"{recipe.name}, batch {recipe.batch} in {recipe.accumulate} pieces; ours: {first.name}"
    yield f"{'bare loop':<36}{'its images/s':>14}{'ours':>10}{'ratio':>8}"
    for rate in others:
        yield f"{rate.name:<36}{rate.bare:>14.0f}{rate.ours:>10.0f}{rate.ratio:>8.2f}"
    goal = Goal("ours over the fastest", LEAST[device.type], min(rate.ratio for rate in others), most=False)
    verdict = "" if goal.reached else "MISSED"
    yield f"{goal.promise}: {goal.found:.2f} (goal: {goal.limit:g}) {verdict}".rstrip()


@click.command()
@click.option("--recipe", "name", type=click.Choice(list(RECIPES)), default="digits", show_default=True)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a field of it, such as batch=512.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N.")
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of a processor.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of words.")
def main(name: str, changes: tuple[str, ...], device: str, rounds: int, threads: int, as_json: bool) -> None:
    """Images a second of the training loop, next to bare loops."""
    from tqdm import tqdm

    torch.set_num_threads(threads)
    recipe, place = set_fields(RECIPES[name], changes), torch.device(device)
    with current(place):
        measured = list(tqdm(rates(recipe, place, rounds), file=sys.stderr, unit="loop", dynamic_ncols=True))
    click.echo(
        json.dumps([rate._asdict() for rate in measured]) if as_json else "\n".join(text(recipe, place, measured))
    )


if __name__ == "__main__":
    main()
