"""A training into a folder: gone on with where it stopped, saved when it ends.

The folder holds `recipe.json` and, while the training runs, `snapshot.safetensors` with everything the next step
needs. All that is random follows from (seed, step), so a stopped and resumed training equals one that was not.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lipdiag.diffusion.clock import CLOCKS, Shared
from lipdiag.diffusion.spelling import parse, spell
from lipdiag.errors import RunError, UsageError
from lipdiag.training.card import model_card
from lipdiag.training.checkpoint import json_text, save
from lipdiag.training.data import dataset
from lipdiag.training.files import atomic_write, make_folder, read_json
from lipdiag.training.loop import State, build, train
from lipdiag.training.recipe import Recipe
from lipdiag.training.tensors import read_tensors

SNAPSHOT = "snapshot.safetensors"
RECIPE = "recipe.json"
SECONDS_BETWEEN_SNAPSHOTS = 60.0


def session(
    recipe: Recipe,
    out: Path,
    device: torch.device | str = "cpu",
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[State]:
    """Train by a recipe into a folder, one state a step; leaves a checkpoint that `load` reads.

    Args:
        recipe: What to train.
        out: The folder; one that holds an unfinished training of the same recipe is gone on with.
        device: Where to train.
        stop: Asked after each step; when it says so, a snapshot is kept and the training ends early.

    Raises:
        RunError: If the folder holds a training by another recipe, or a finished one.
        StorageError: If the folder cannot be written.
    """
    snapshot = resume(recipe, out)
    make_folder(out)
    atomic_write(out / RECIPE, json_text(recipe.to_dict()).encode())
    kept = began = time.monotonic()
    losses: list[float] = []
    for state in train(recipe, device=device, snapshot=snapshot):
        losses = [*losses[-499:], state.loss]
        yield state
        last = state.step == recipe.steps
        if last:
            facts = {"recipe": recipe.to_dict(), "loss": sum(losses) / len(losses), "seconds": time.monotonic() - began}
            save(out, state.ema, weights="ema", data=recipe.data, training=facts)
            card = model_card(recipe, state.ema, facts, dataset(recipe.data, recipe.shape))
            atomic_write(out / "README.md", card.encode())
            (out / SNAPSHOT).unlink(missing_ok=True)
        elif stop() or time.monotonic() - kept > SECONDS_BETWEEN_SNAPSHOTS:
            keep(state, out)
            kept = time.monotonic()
            if stop():
                return


def keep(state: State, out: Path) -> None:
    """Write all that is needed to go on from a state."""
    from safetensors.torch import save as serialize

    atomic_write(out / SNAPSHOT, serialize(state.snapshot()))


def resume(recipe: Recipe, out: Path) -> dict[str, Any] | None:
    """The snapshot of an unfinished training by this recipe in `out`, if there is one."""
    if not (out / RECIPE).exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"{out} exists and is no training; give another --out")
        return None
    stored, asked = read_json(out / RECIPE), recipe.to_dict()
    changed = [
        f"{key} is {stored.get(key)!r} there and {asked[key]!r} here" for key in asked if stored.get(key) != asked[key]
    ]
    if changed:
        raise RunError(f"{out} holds a training by another recipe ({'; '.join(changed[:3])}); give another --out")
    if not (out / SNAPSHOT).exists():
        if (out / "config.json").exists():
            raise RunError(f"{out} holds this training, finished; give another --out to train again")
        return None
    return read_tensors(out / SNAPSHOT)


def shared(recipe: Recipe, spelling: str) -> Recipe:
    """The recipe's E-TSDM twin, from `END,BLOCKS` or `edges:0,5,15,40,100`: another clock, nothing else.

    Raises:
        UsageError: If the spelling is neither.
    """
    base = parse(recipe.clock, CLOCKS)
    try:
        if spelling.startswith("edges:"):
            edges = tuple(float(edge) for edge in spelling[6:].split(","))
            clock = Shared(base, edges[-1], edges=edges)
        else:
            end, blocks = spelling.split(",")
            clock = Shared(base, float(end), int(blocks))
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"--etsdm {spelling!r} is neither END,BLOCKS such as 100,5 nor edges:0,5,15,40,100") from error
    return dataclasses.replace(recipe, clock=spell(clock))


def parameters(recipe: Recipe) -> int:
    """How many weights the recipe's network has."""
    return sum(parameter.numel() for parameter in build(recipe).network.parameters())
