"""What the files of a checkpoint tell, whatever their format, and the predictor that it describes."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.convention import PARTS, UNTOLD, Convention
from ..diffusion.limit import LIMITS
from ..diffusion.predictor import NetworkPredictor
from ..diffusion.spelling import parse
from ..errors import CheckpointError
from ..files import open_regular, read_json, shown
from ..weights.container import Contents
from ..weights.refusal import refuse
from ..weights.tensors import fit
from .networks import adapted, create_network


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model on record, as far as its files tell; None stands for what they do not tell.

    Args:
        path: Where it was read.
        kind: Of format, in words.
        network: The class, a name in NETWORKS.
        network_config: The arguments of the class.
        state: The weights that were asked for.
        weights: "ema" or "raw".
        available: Both, where both are on record.
        sha256: Of the files that were read.
        convention: The way in which the network is used.
        unusable: What is told of a part of the convention that cannot be used, by the part's name.
        shape: Of one sample.
        data: Name of the data it was trained on.
        conditioning: Further inputs of the network, by keyword.
        beside: How many channels it sees beside those of x.
        training: Facts about its training.
        timestep_factor: The network is told its timestep times this.
        limit: What keeps x0 in the data's range in sampling, spelled out; None where nothing does.
        notes: What a reader has to know.
        hint: What conventions that the files do not tell are as a rule.
    """

    path: str
    kind: str
    network: str
    network_config: dict[str, Any]
    state: dict[str, Tensor]
    weights: str
    available: tuple[str, ...]
    sha256: str
    convention: Convention = UNTOLD
    unusable: dict[str, str] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    data: str | None = None
    conditioning: dict[str, Tensor] = field(default_factory=dict)
    beside: int = 0
    training: dict[str, Any] = field(default_factory=dict)
    timestep_factor: float = 1.0
    limit: str | None = None
    notes: tuple[str, ...] = ()
    hint: str = ""

    @property
    def chosen(self) -> tuple[str, ...]:
        """A note on which weights were taken, where there was a choice."""
        return () if len(self.available) < 2 else (f"{self.weights} weights, of {' and '.join(self.available)}",)


def file_digest(path: str | Path) -> str:
    """The SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(digests: Mapping[str, str]) -> str:
    """One SHA-256 for the files that make a model, as of the text that sha256sum prints for them."""
    return hashlib.sha256("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()).hexdigest()


def of_file(contents: Contents, path: Path, notes: tuple[str, ...] = (), **facts: Any) -> Checkpoint:
    """The checkpoint in one file of weights, by what was found in it and further facts."""
    facts = {"state": contents.state, "notes": (*contents.notes, *notes)} | facts
    weights, available = contents.weights, contents.available
    return Checkpoint(path=str(path), weights=weights, available=available, sha256=file_digest(path), **facts)


def read_flags(path: str | Path | None, mattering: Iterable[str], others: Iterable[str] = ()) -> dict[str, Any]:
    """The flags of a training command, from a JSON file; {} without one.

    Raises:
        CheckpointError: If one is neither among those that matter nor among the others.
    """
    given = {} if path is None else read_json(path)
    if strange := sorted(set(given) - {*mattering, *others}):
        refuse(path or "", f"has the flag {shown(strange[0])!r}; those that matter are {', '.join(sorted(mattering))}")
    return given


def assemble(
    checkpoint: Checkpoint, convention: Convention = UNTOLD, shape: tuple[int, ...] | None = None
) -> NetworkPredictor:
    """The predictor a checkpoint describes; what is given here replaces what its files tell.

    Raises:
        CheckpointError: If something is neither told nor given, or the weights do not fit the network.
    """
    used = convention.over(checkpoint.convention)
    shape = shape or checkpoint.shape
    for name in PARTS:
        if name not in used.parts and name in checkpoint.unusable:
            refuse(checkpoint.path, f"tells a {name} that cannot be used ({checkpoint.unusable[name]})")
    lacking = {name: f"its {name}" for name in PARTS if name not in used.parts}
    if shape is None:
        lacking["shape"] = "the shape of its samples"
    if lacking or shape is None:
        pronoun, hint = "it" if len(lacking) == 1 else "them", f", {checkpoint.hint}" if checkpoint.hint else ""
        raise CheckpointError(
            f"{shown(checkpoint.path)} does not tell {listed(lacking.values())}: give {pronoun} by "
            f"{listed(f'--{name}' for name in lacking)}{hint}"
        )
    with torch.random.fork_rng(devices=[]):  # the first weights are overwritten: they cost the caller no random numbers
        network = create_network(checkpoint.network, checkpoint.network_config, checkpoint.path, checkpoint.state)
    fit(network, checkpoint.state, checkpoint.path)
    network = adapted(network, checkpoint.network, checkpoint.timestep_factor)
    predictor = NetworkPredictor(network, *used.whole, shape=shape, conditioning=checkpoint.conditioning)
    predictor.beside = checkpoint.beside
    predictor.data, predictor.notes = checkpoint.data, (*checkpoint.notes, *checkpoint.chosen)
    if checkpoint.limit is not None:
        try:
            predictor.limit = parse(checkpoint.limit, LIMITS)
        except Exception as error:  # a stranger's text can fail in any way
            refuse(checkpoint.path, f"tells a limit that cannot be used ({shown(error)})", error)
    return predictor.eval().requires_grad_(False)


def listed(words: Iterable[str]) -> str:
    """Words as a sentence lists them."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
