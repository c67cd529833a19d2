"""Which format a checkpoint has, and the predictor in it.

Each format is one file here with `recognizes(path)` and `read(path, weights)`; reading gives a Checkpoint, in which
everything foreign is already in lipdiag's words, and `assemble` makes the predictor of it.
"""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..data.dataset import ASSETS
from ..diffusion.clock import Clock
from ..diffusion.parameterization import Parameterization
from ..diffusion.predictor import NetworkPredictor, Predictor
from ..diffusion.schedule import Schedule
from ..errors import CheckpointError, UsageError
from ..files import shown
from ..formats import accelerate, diffusers_directory, edm, family, lerobot, native, physicsnemo
from ..formats.checkpoint import Checkpoint, assemble
from ..formats.conditioning import given
from ..hub import spelled
from ..printing import Row, as_text, describe_facts
from ..view import View
from ..weights.container import open_container
from ..weights.refusal import refuse, refusing
from ..weights.tensors import SHAPES, read_tensors, weights_dtype
from . import adapter
from .factory import make
from .hub import WEIGHTS, located
from .prompt import embeddings
from .reading import SILENT, Reading

ASKED = ("weights", "conditioning", "label", "prompt", "original_config", "download")
"""What is told of a checkpoint that its files leave open."""

EMBEDDED = ("digits-ddpm", "digits-etsdm")


@dataclass(frozen=True, repr=False)
class Inspection(View):
    """What the files of a checkpoint tell; None stands for what they do not. Printed it is what the command prints.

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

    def rows(self) -> list[Row]:
        """A row a fact that is told."""
        told = {name: value for name, value in self.to_dict().items() if value not in (None, [], {}, "")}
        texts = {name: value if isinstance(value, str | int) else as_text(value) for name, value in told.items()}
        return [{"fact": name, "value": value} for name, value in texts.items()]

    def __str__(self) -> str:
        return describe_facts(self.to_dict())


def load(
    path: str | Path,
    weights: str = "ema",
    schedule: str | Schedule | None = None,
    parameterization: str | Parameterization | None = None,
    clock: str | Clock | None = None,
    shape: tuple[int, ...] | None = None,
    factory: str | None = None,
    **words: Any,
) -> NetworkPredictor:
    """The predictor in a checkpoint, in eval mode, on the CPU.

    Args:
        path: A folder or file of one of the families in `family`, the name of an embedded model, or a model on the
            Hugging Face hub: hf://owner/name[@revision][/subfolder], or owner/name, from the local cache.
        weights: "ema", averaged ones where there are any, or "raw".
        schedule: In place of what the files tell; text as on the command line, or the object.
        parameterization: Likewise.
        clock: Likewise.
        shape: Likewise.
        factory: "package.module:function" of the user's own that makes the network, where only that can.
        words: `conditioning`, `label`, `prompt` and `original_config`: further inputs of the network, the class and the
            text that it is told, and a file with what the checkpoint's own do not tell; `download=True` fetches what
            the cache of the hub lacks, and nothing else goes to the network.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, of no known format, or does not tell all that is needed.

    Example:
        >>> model = lipdiag.load("digits-etsdm")
        >>> model.shape, model.clock.blocks
        ((1, 8, 8), 5)
    """
    words |= {"weights": weights, "schedule": schedule, "parameterization": parameterization, "clock": clock}
    loaded = predictor(path, Reading.of(**words, shape=shape, factory=factory))
    if not isinstance(loaded, NetworkPredictor):
        raise UsageError(f"the factory {factory} made a {type(loaded).__name__}, no network: call it yourself")
    return loaded


def predictor(path: str | Path | None, reading: Reading = SILENT) -> Predictor:
    """The predictor in a checkpoint, or the one that a function of the user's makes; it knows its data and notes.

    Args:
        path: A folder or file of a known format, or the name of an embedded model; None for a factory without a file.
        reading: What the user tells.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, of no known format, or does not tell all that is needed.
    """
    path = None if path is None else located(path, reading.download)
    if reading.factory is None:
        loaded: Predictor = assemble(read(str(path), reading), reading.convention, reading.shape)
    else:
        loaded = make(reading, path)
    loaded.path, loaded.classed = path, reading.conditioning is not None or reading.label is not None
    return loaded


def read(path: str | Path, reading: Reading = SILENT) -> Checkpoint:
    """What a checkpoint's files hold, whatever its format.

    Args:
        path: A folder or file of a known format, or the name of an embedded model.
        reading: What the user tells; of it the weights, the inputs of the network and the original config are used.

    Raises:
        UsageError: If the network takes no such input.
        CheckpointError: If the checkpoint is missing, damaged, or of no known format.
    """
    checkpoint = as_stored(placed(path, reading.download), reading)
    if reading.prompt is not None:
        inputs = embeddings(checkpoint.path, checkpoint.network, checkpoint.network_config, reading.prompt)
        said = f"{' and '.join(inputs)} are what the model's text encoder makes of {shown(reading.prompt)!r}"
        checkpoint = given(checkpoint, inputs, None)
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, said))
    checkpoint = given(checkpoint, reading.conditioning, reading.label)
    if "bfloat16" in weights_dtype(checkpoint.state):
        note = (
            "the weights are bfloat16, widened to float32 without loss; in bfloat16 itself timesteps above 256 would "
            "be rounded, here they are not"
        )
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, note))
    return checkpoint


def placed(path: str | Path, download: bool = False) -> Path:
    """Where the files of a checkpoint are on this machine, an embedded model's too; see `hub.located`."""
    place = Path(located(path, download))
    return ASSETS / place if not place.exists() and str(place) in EMBEDDED else place


def as_stored(path: Path, reading: Reading) -> Checkpoint:
    """A checkpoint of whatever format, with the inputs that its files tell."""
    weights, original_config = reading.weights, reading.original_config
    if path.is_dir():
        if diffusers_directory.recognizes(path):
            return diffusers_directory.read(path, weights)
        if adapter.recognizes(path):
            return adapter.read(path, reading, as_stored)
        if accelerate.recognizes(path):
            with refusing(path, SHAPES):
                contents = open_container(accelerate.read(path, weights), weights, path)
                if contents is not None:
                    return family.read(contents, accelerate.weights_file(path), original_config)
        if lerobot.recognizes(path):
            return lerobot.read(path, weights)
        if native.recognizes(path):
            return native.read(path, weights)
        if edm.recognizes(path):
            edm.lack(path)
        if (path / "zarr.json").exists():
            refuse(path, "holds measurements and no model; plot or report them, or give the checkpoint they are of")
        refuse(
            path,
            f"is a folder without a model{meant(path)}: lipdiag's own hold {native.CONFIG} and {native.MODEL}, "
            "diffusers' hold model_index.json, or a config.json that names its class",
        )
    if not path.exists() and not path.is_symlink():
        raise CheckpointError(
            f"there is no checkpoint {shown(path)}: give a folder, a .pt file, or one of {', '.join(EMBEDDED)}"
        )
    if adapter.recognizes(path):
        return adapter.read(path, reading, as_stored)
    if physicsnemo.recognizes(path):
        return physicsnemo.read(path, weights)
    content = read_tensors(path)
    with refusing(path, SHAPES):
        contents = None if isinstance(content.get("config"), str) else open_container(content, weights, path)
        return native.read(path, weights) if contents is None else family.read(contents, path, original_config)


def meant(path: Path) -> str:
    """What else may be meant by a folder without a model: what is in it."""
    known = (WEIGHTS, diffusers_directory.TRAINING)
    inner = [file for file in path.iterdir() if any(pattern.fullmatch(file.name) for pattern in known)]
    latest = max(inner, key=lambda file: [int(part) for part in re.findall(r"\d+", file.name)], default=None)
    return "" if latest is None else f" of its own, give what is in it, such as {shown(latest.name)}"


def inspect(path: str | Path, weights: str = "ema", **words: Any) -> Inspection:
    """What a checkpoint's files tell, without building the network.

    Args:
        path: A folder or file of a known format, or the name of an embedded model.
        weights: "ema", averaged ones where there are any, or "raw".
        words: `conditioning`, `label`, `prompt` and `original_config`, which tell what the files leave open, and
            `download`.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, or of no known format.
        UsageError: If something is told that stands in the place of what the files tell.

    Example:
        >>> lipdiag.inspect("digits-ddpm").parameterization
        'eps'
    """
    reading = Reading.of(weights=weights, **words)
    if instead := [word for word in reading.words if word not in ASKED]:
        raise UsageError(f"got {' and '.join(instead)}, and what the files tell takes {', '.join(ASKED)}: leave it out")
    return inspection(path, reading)


def inspection(path: str | Path, reading: Reading) -> Inspection:
    """How a checkpoint will be read: what its files tell, and what the user tells in its place."""
    checkpoint = read(path, reading)
    used = reading.convention.over(checkpoint.convention)
    facts: dict[str, Any] = {**used.spelled, "shape": reading.shape or checkpoint.shape}
    unusable = [f"it tells a {name} that cannot be used ({why})" for name, why in checkpoint.unusable.items()]
    replaced = {name: told for name, told in checkpoint.convention.spelled.items() if name in reading.convention.parts}
    unlike = [f"the files tell the {name} {told}" for name, told in replaced.items() if told not in (None, facts[name])]
    return Inspection(
        path=spelled(checkpoint.path),
        kind=checkpoint.kind,
        network=checkpoint.network,
        parameters=sum(tensor.numel() for tensor in checkpoint.state.values()),
        limit=checkpoint.limit,
        weights=checkpoint.weights,
        available=checkpoint.available,
        dtype=weights_dtype(checkpoint.state),
        data=checkpoint.data,
        sha256=checkpoint.sha256,
        training=checkpoint.training,
        notes=(*checkpoint.notes, *unusable, *unlike),
        unknown=tuple(name for name, value in facts.items() if value is None),
        **facts,
    )
