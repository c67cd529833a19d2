"""What a run is called in legends and tables where the user does not say."""

from collections.abc import Sequence
from pathlib import PurePath

from ..errors import UsageError
from ..hub import titled

DULL_NAMES = ("ckpt", "checkpoint", "model", "last", "best", "latest", "ema")
"""Stems that say nothing about which model it is."""

IN_MEMORY = "in memory"
"""The checkpoint of a run whose model came from no file."""


def label_of(checkpoint: object, shared: bool, raw: bool) -> str:
    """The name of a run's checkpoint; of a model in memory, what its clock makes of it.

    Args:
        checkpoint: On record.
        shared: Whether the model shares timesteps.
        raw: Whether the network's own output was measured.
    """
    path = PurePath(str(checkpoint or IN_MEMORY))
    if str(path).startswith("hf:"):
        path = PurePath(titled(str(path)))
    stem = path.stem if path.suffix in (".pt", ".pth", ".ckpt", ".safetensors", ".bin") else path.name
    if str(path) == IN_MEMORY:
        stem = "E-TSDM" if shared else "model"
    full = f"{path.parent.name}/{stem}" if stem in DULL_NAMES and path.parent.name else stem
    return f"{full}, raw" if raw else full


def labels_for(labels: Sequence[str] | None, count: int) -> Sequence[str] | None:
    """The labels, if there is one for each of so many.

    Raises:
        UsageError: If there are more or fewer.
    """
    if labels is not None and len(labels) != count:
        raise UsageError(f"there are {count} runs and {len(labels)} labels; give one label for each run")
    return labels


def unique(label: str, taken: Sequence[str]) -> str:
    """The label, with a number behind it where a run before has it already."""
    number = 2
    new = label
    while new in taken:
        new = f"{label} ({number})"
        number += 1
    return new
