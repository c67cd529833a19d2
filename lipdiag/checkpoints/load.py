"""Which format a checkpoint has, and the predictor in it.

Each format is one file here with `recognizes(path)` and `read(path, weights)`; reading gives a Checkpoint, in which
everything foreign is already in lipdiag's words, and `assemble` makes the predictor of it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.dataset import ASSETS
from ..diffusion.clock import Clock
from ..diffusion.parameterization import Parameterization
from ..diffusion.predictor import NetworkPredictor, Predictor
from ..diffusion.schedule import Schedule
from ..errors import CheckpointError, UsageError
from ..files import shown
from ..formats import accelerate, diffusers_directory, edm, family, native
from ..formats.checkpoint import Checkpoint, assemble
from ..formats.conditioning import given
from ..weights.container import open_container
from ..weights.refusal import refuse, refusing
from ..weights.tensors import SHAPES, read_tensors, weights_dtype
from .factory import make

EMBEDDED = ("digits-ddpm", "digits-etsdm")


@dataclass(frozen=True)
class Inspection:
    """What the files of a checkpoint tell; None stands for what they do not.

    Args:
        path: Where it is.
        kind: Of format, in words.
        network: The network's class.
        parameters: How many numbers the weights are.
        shape: Of one sample.
        schedule: Spelled out, as the command line takes it.
        parameterization: Likewise.
        clock: Likewise.
        limit: What keeps x0 in the data's range in sampling, spelled out.
        weights: Which were taken: "ema", "raw", or "as stored" where the files do not tell.
        available: Which there are.
        dtype: Of the weights, as stored.
        data: Name of the data it was trained on.
        sha256: Of the files that were read.
        training: Facts about the training.
        notes: What a reader has to know.
        unknown: The names of the facts that are needed for a measurement and not told.
    """

    path: str
    kind: str
    network: str
    parameters: int
    shape: tuple[int, ...] | None
    schedule: str | None
    parameterization: str | None
    clock: str | None
    limit: str | None
    weights: str
    available: tuple[str, ...]
    dtype: str
    data: str | None
    sha256: str
    training: dict[str, Any]
    notes: tuple[str, ...]
    unknown: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def load(
    path: str | Path,
    weights: str = "ema",
    schedule: str | Schedule | None = None,
    parameterization: str | Parameterization | None = None,
    clock: str | Clock | None = None,
    shape: tuple[int, ...] | None = None,
    factory: str | None = None,
    **told: Any,
) -> NetworkPredictor:
    """The predictor in a checkpoint, in eval mode, on the CPU.

    Args:
        path: A folder or file of one of the families in `family`, or the name of an embedded model.
        weights: "ema", averaged ones where there are any, or "raw".
        schedule: In place of what the files tell; text as on the command line, or the object.
        parameterization: Likewise.
        clock: Likewise.
        shape: Likewise.
        factory: "package.module:function" of the user's own that makes the network, where only that can.
        told: `conditioning`, `label` and `original_config`: further inputs of the network, the class that it is told,
            and a file with what the checkpoint's own do not tell.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, of no known format, or does not tell all that is needed.
    """
    told |= {"schedule": schedule, "parameterization": parameterization, "clock": clock, "shape": shape}
    found = predictor(path, factory, weights, **told)
    if not isinstance(found, NetworkPredictor):
        raise UsageError(f"the factory {factory} made a {type(found).__name__}, no network: call it yourself")
    return found


def predictor(
    path: str | Path | None,
    factory: str | None = None,
    weights: str = "ema",
    conditioning: str | Path | Mapping[str, Tensor] | None = None,
    label: int | None = None,
    original_config: str | Path | None = None,
    **told: Any,
) -> Predictor:
    """The predictor in a checkpoint, or the one that a function of the user's makes; it knows its data and notes.

    Args:
        path: A folder or file of a known format, or the name of an embedded model; None for a factory without a file.
        factory: "package.module:function" of the user's own that makes the network or the predictor.
        weights: "ema", averaged ones where there are any, or "raw".
        conditioning: Further inputs of the network in place of the blank ones, tensors by keyword or a file of them.
        label: The class that the network is told.
        original_config: What the file itself does not tell: a folder of diffusers', or a JSON file of flags.
        told: `schedule`, `parameterization`, `clock` and `shape`, in place of what the files tell.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, of no known format, or does not tell all that is needed.
    """
    inputs: dict[str, Any] = {"conditioning": conditioning, "label": label, "original_config": original_config}
    if factory is None:
        found: Predictor = assemble(read(str(path), weights, **inputs), **told)
    else:
        made = make(factory, path, weights=weights, **inputs, **told)
        found = made.predictor
        found.notes = tuple(dict.fromkeys((*made.notes, *found.notes)))
    found.path, found.classed = path, conditioning is not None or label is not None
    return found


def read(
    path: str | Path,
    weights: str = "ema",
    conditioning: str | Path | Mapping[str, Tensor] | None = None,
    label: int | None = None,
    original_config: str | Path | None = None,
) -> Checkpoint:
    """What a checkpoint's files hold, whatever its format.

    Args:
        path: A folder or file of a known format, or the name of an embedded model.
        weights: "ema", averaged ones where there are any, or "raw".
        conditioning: Further inputs of the network in place of the blank ones, tensors by keyword or a file of them.
        label: The class that the network is told.
        original_config: What the file itself does not tell: a folder of diffusers' with the network's config.json, or a
            JSON file of the flags that the model was trained with.

    Raises:
        UsageError: If the network takes no such input.
        CheckpointError: If the checkpoint is missing, damaged, or of no known format.
    """
    checkpoint = given(found(Path(path), weights, original_config), conditioning, label)
    if "bfloat16" in weights_dtype(checkpoint.state):
        note = (
            "the weights are bfloat16, widened to float32 without loss; in bfloat16 itself timesteps above 256 would "
            "be rounded, here they are not"
        )
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, note))
    return checkpoint


def found(path: Path, weights: str, original_config: str | Path | None) -> Checkpoint:
    """A checkpoint of whatever format."""
    if not path.exists() and str(path) in EMBEDDED:
        path = ASSETS / str(path)
    if path.is_dir():
        if diffusers_directory.recognizes(path):
            return diffusers_directory.read(path, weights)
        if accelerate.recognizes(path):
            with refusing(path, SHAPES):
                contents = open_container(accelerate.read(path, weights), weights, path)
                if contents is not None:
                    return family.read(contents, accelerate.weights_file(path), original_config)
        if native.recognizes(path):
            return native.read(path, weights)
        if edm.recognizes(path):
            edm.lack(path)
        refuse(
            path,
            f"is a folder without a model: lipdiag's own hold {native.CONFIG} and {native.MODEL}, diffusers' "
            "hold model_index.json, or a config.json that names its class",
        )
    if not path.exists() and not path.is_symlink():
        raise CheckpointError(
            f"there is no checkpoint {shown(path)}: give a folder, a .pt file, or one of {', '.join(EMBEDDED)}"
        )
    content = read_tensors(path)
    with refusing(path, SHAPES):
        contents = None if isinstance(content.get("config"), str) else open_container(content, weights, path)
        return native.read(path, weights) if contents is None else family.read(contents, path, original_config)


def inspect(path: str | Path, weights: str = "ema", **told: Any) -> Inspection:
    """What a checkpoint's files tell, without building the network.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, or of no known format.
    """
    found = read(path, weights, **told)
    facts = {name: getattr(found, name) for name in ("schedule", "parameterization", "clock", "shape")}
    return Inspection(
        path=found.path,
        kind=found.kind,
        network=found.network,
        parameters=sum(tensor.numel() for tensor in found.state.values()),
        limit=found.limit,
        weights=found.weights,
        available=found.available,
        dtype=weights_dtype(found.state),
        data=found.data,
        sha256=found.sha256,
        training=found.training,
        notes=found.notes,
        unknown=tuple(name for name, value in facts.items() if value is None),
        **facts,
    )
