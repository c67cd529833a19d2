"""A training run on disk: interrupted at any moment and started again, it ends as if it had never stopped.

Every so many steps one file, written whole, holds weights, averages and the optimizer's moments together with the
recipe. When the last step is done the averaged weights become the folder's model and that file is removed.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipdiag.errors import RunError, StorageError
from lipdiag.training.card import model_card
from lipdiag.training.checkpoint import CONFIG, MODEL, save
from lipdiag.training.data import Data, dataset
from lipdiag.training.files import atomic_write, make_folder, open_regular, parse_json, read_json, shown
from lipdiag.training.loop import State, train
from lipdiag.training.recipe import Recipe
from lipdiag.training.tensors import read_safetensors

SNAPSHOT, CARD = "training.safetensors", "README.md"
OWN = {CONFIG, MODEL, SNAPSHOT, CARD}
LATELY = 1000  # steps over which the loss on record is averaged


def run(
    recipe: Recipe,
    out: str | Path,
    data: Data | None = None,
    device: torch.device | str = "cpu",
    every: int = 1000,
) -> Iterator[State]:
    """Train into a folder, one state a step; goes on where an earlier run of the same recipe stopped.

    A folder that already holds the finished model of this recipe yields nothing. Closing the generator saves where
    it stands; a crash loses at most `every` steps.

    Args:
        recipe: What to train.
        out: The folder, new, empty, or of an earlier run.
        data: The samples, if not those the recipe names.
        device: Where to train.
        every: Steps between two saves.

    Raises:
        RunError: If the folder belongs to a run of another recipe.
        StorageError: If the folder holds other things, or cannot be written.
    """
    out = Path(out)
    if finished(recipe, out):
        return
    samples = dataset(recipe.data, recipe.shape) if data is None else data
    tensors = begin(recipe, out)
    losses = [] if tensors is None else tensors.pop("losses").tolist()
    state = None
    for state in train(recipe, samples, device, tensors):
        losses = [*losses[1 - LATELY :], state.loss]
        if state.step % every == 0 and state.step < recipe.steps:
            save_snapshot(recipe, out, state, losses)
        try:
            yield state
        except GeneratorExit:
            if state.step < recipe.steps:
                save_snapshot(recipe, out, state, losses)
            else:
                finish(recipe, out, state, losses, samples)
            raise
    assert state is not None
    finish(recipe, out, state, losses, samples)


def finished(recipe: Recipe, out: Path) -> bool:
    """Whether the folder already holds what the recipe makes."""
    if not (out / CONFIG).exists() or (out / SNAPSHOT).exists():
        return False
    return read_json(out / CONFIG).get("training", {}).get("recipe") == recipe.to_dict()


def begin(recipe: Recipe, out: Path) -> dict[str, Tensor] | None:
    """The snapshot to go on from, if any, in a folder that may be written."""
    make_folder(out)
    try:
        found = {file.name for file in out.iterdir()}
    except OSError as error:
        raise StorageError(f"Cannot read the folder {shown(out)}: {error.strerror}.") from error
    if SNAPSHOT in found:
        with open_regular(out / SNAPSHOT) as file:
            tensors, metadata = read_safetensors(file, out / SNAPSHOT)
        if parse_json(metadata.get("recipe", "{}"), str(out / SNAPSHOT)) != recipe.to_dict():
            raise RunError(f"{shown(out)} holds a training by another recipe: give the same one, or another --out.")
        return tensors
    if CONFIG in found:
        raise RunError(f"{shown(out)} holds a finished model by another recipe: give another --out.")
    foreign = sorted(name for name in found - OWN if not (name.startswith(".") and name.endswith(".tmp")))
    if foreign:
        raise StorageError(f"{shown(out)} is not empty (it holds {shown(foreign[0])}): give another --out.")
    return None


def save_snapshot(recipe: Recipe, out: Path, state: State, losses: list[float]) -> None:
    """Write where the run stands as one file."""
    from safetensors.torch import save as serialize

    tensors = state.snapshot() | {"losses": torch.tensor(losses, dtype=torch.float64)}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    atomic_write(out / SNAPSHOT, serialize(contiguous, {"recipe": json.dumps(recipe.to_dict())}))


def finish(recipe: Recipe, out: Path, state: State, losses: list[float], data: Data) -> None:
    """Turn the averaged weights into the folder's model, with its card."""
    facts = facts_of(recipe, state, losses, data)
    save(out, state.ema, weights="ema", data=recipe.data, training=facts)
    atomic_write(out / CARD, model_card(recipe, state.ema, facts, data).encode())
    (out / SNAPSHOT).unlink(missing_ok=True)


def facts_of(recipe: Recipe, state: State, losses: list[float], data: Data) -> dict[str, Any]:
    """What is put on record about a finished training."""
    return {
        "recipe": recipe.to_dict(),
        "steps": state.step,
        "loss": sum(losses) / len(losses),
        "data_fingerprint": data.fingerprint,
        "versions": {name: version(name) for name in ("torch", "diffusers", "numpy")},
    }
