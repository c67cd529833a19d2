"""lipdiag's own checkpoints: a folder (config.json and model.safetensors) or one .pt file, self-describing.

config.json holds the format's version, the network's class and arguments, the schedule, parameterization and clock as
they are spelled on the command line, the shape of a sample, the data, the facts of the training, and the SHA-256 of
the files beside it. A .pt file is a dictionary: that JSON as a text under "config", a state dict under "model", and,
where both are kept, the averaged weights under "ema". Reading trusts nothing: classes come from a closed list, no
code of a file runs, and every name, shape, type and value is checked before the network is touched.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.clock import CLOCKS, Clock
from ..diffusion.limit import LIMITS
from ..diffusion.parameterization import PARAMETERIZATIONS, Parameterization
from ..diffusion.predictor import NetworkPredictor, Predictor
from ..diffusion.schedule import SCHEDULES, Schedule
from ..diffusion.spelling import parse, spell
from ..errors import CheckpointError, UsageError
from ..files import atomic_write, make_folder, open_regular, parse_json, read_all, read_json, shown
from .networks import NETWORKS, TimeByKeyword, adapted, create_network
from .tensors import check_magic, fit, is_safetensors, read_safetensors, read_tensors, refuse

FORMAT_VERSION = 1
CONFIG, MODEL, EMA = "config.json", "model.safetensors", "ema.safetensors"
CONDITIONING = "conditioning:"  # in front of the names of tensors that are inputs of the network, not its weights


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
        schedule: Spelled out, as the command line takes it.
        parameterization: Likewise.
        clock: Likewise.
        shape: Of one sample.
        data: Name of the data it was trained on.
        conditioning: Further inputs of the network, by keyword.
        training: Facts about its training.
        timestep_factor: The network is told its timestep times this.
        limit: What keeps x0 in the data's range in sampling, spelled out; None where nothing does.
        notes: What a reader has to know.
    """

    path: str
    kind: str
    network: str
    network_config: dict[str, Any]
    state: dict[str, Tensor]
    weights: str
    available: tuple[str, ...]
    sha256: str
    schedule: str | None = None
    parameterization: str | None = None
    clock: str | None = None
    shape: tuple[int, ...] | None = None
    data: str | None = None
    conditioning: dict[str, Tensor] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    timestep_factor: float = 1.0
    limit: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> tuple[str, ...]:
        """A note on which weights were taken, where there was a choice."""
        return () if len(self.available) < 2 else (f"{self.weights} weights, of {' and '.join(self.available)}",)


def save(
    path: str | Path,
    predictor: Predictor,
    *,
    ema: Mapping[str, Tensor] | None = None,
    weights: str = "raw",
    data: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a predictor's network as a .pt file, or as a folder where `path` does not end in .pt.

    Args:
        path: A file that ends in .pt, or a folder; what is there is replaced.
        predictor: Around a network whose class is in NETWORKS.
        ema: A state dict of averaged weights, beside the network's own.
        weights: What the network's own weights are, "raw" or "ema".
        data: Name of the data the model was trained on.
        training: Facts about the training, as JSON can hold them.

    Raises:
        UsageError: If the predictor is not of that kind, or the path ends in .safetensors.
        StorageError: If the files cannot be written.
    """
    path = Path(path)
    if path.suffix in (".safetensors", ".json", ".bin"):
        raise UsageError(f"cannot save to {shown(path)}: give a folder, or a file that ends in .pt")
    if weights not in ("raw", "ema") or (weights == "ema" and ema is not None):
        raise UsageError(f"weights is {weights!r}: it says what the model's own weights are, raw or, alone, ema")
    network, inputs = bare(predictor), conditioning(predictor)
    config = describe(predictor) | {
        "weights": weights,
        "data": data,
        "training": dict(training or {}),
    }
    if predictor.limit is not None:  # a key that most files lack, so that an older lipdiag reads those
        config["limit"] = spell(predictor.limit)
    json_text(config)  # what cannot be written is refused before anything is
    states = {MODEL: network.state_dict() | inputs}
    if ema is not None:
        states[EMA] = dict(ema) | inputs
    # Tied weights share memory, which safetensors refuses; a checkpoint holds each by its own name.
    states = {name: {key: plain_copy(value) for key, value in state.items()} for name, state in states.items()}
    if path.suffix == ".pt":
        content: dict[str, Any] = {"config": json_text(config), "model": states[MODEL]}
        buffer = io.BytesIO()  # torch.save into a file on a full disk ends in an error that does not say so
        torch.save(content | ({"ema": states[EMA]} if EMA in states else {}), buffer)
        atomic_write(path, buffer.getvalue())
        return
    from safetensors.torch import save as serialize

    make_folder(path)
    files = {name: serialize(state) for name, state in states.items()}
    config["files"] = {name: hashlib.sha256(file).hexdigest() for name, file in files.items()}
    for name, file in files.items():
        atomic_write(path / name, file)
    atomic_write(path / CONFIG, json_text(config).encode())


def bare(predictor: Predictor) -> nn.Module:
    """The predictor's network as its class made it, if that class is in NETWORKS.

    Raises:
        UsageError: If it is not.
    """
    network = getattr(predictor, "network", None)
    if isinstance(network, TimeByKeyword):
        network = network.network
    name = type(network).__name__
    if (
        not isinstance(network, nn.Module)
        or not hasattr(network, "config")
        or name not in NETWORKS
        or type(network) is not NETWORKS[name]()
    ):
        around = "" if network is None else f" around a {name}"
        raise UsageError(
            f"a {type(predictor).__name__}{around} cannot be saved: lipdiag saves a NetworkPredictor around one of "
            f"{', '.join(NETWORKS)}"
        )
    return network


def describe(predictor: Predictor) -> dict[str, Any]:
    """The part of a config that the predictor itself tells."""
    network: Any = bare(predictor)
    return {
        "format_version": FORMAT_VERSION,
        "network": {
            "class": type(network).__name__,
            "config": {key: value for key, value in dict(network.config).items() if not key.startswith("_")},
        },
        "schedule": spell(predictor.schedule),
        "parameterization": spell(predictor.parameterization),
        "clock": spell(predictor.clock),
        "shape": list(predictor.shape),
    }


def conditioning(predictor: Predictor) -> dict[str, Tensor]:
    """The network's further inputs, under names that no weight has."""
    inputs = dict(getattr(predictor, "conditioning", {}))
    if not all(isinstance(value, Tensor) for value in inputs.values()):
        raise UsageError("only tensors can be saved as conditioning: give the network other inputs by a factory")
    return {CONDITIONING + name: value for name, value in inputs.items()}


def plain_copy(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, contiguous, with memory of its own."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def json_text(config: Mapping[str, Any]) -> str:
    """A config as JSON, every number a number."""
    try:
        return json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise UsageError(f"the facts to be saved are not what JSON can hold: {error}") from error


def load(path: str | Path, weights: str = "ema") -> NetworkPredictor:
    """The predictor in one of lipdiag's own checkpoints, in eval mode, on the CPU.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, or not one of lipdiag's.
    """
    return assemble(read(path, weights))


def recognizes(path: Path) -> bool:
    """Whether a folder is one of lipdiag's, by the key that the config of every version has."""
    try:
        return "format_version" in read_json(path / CONFIG)
    except CheckpointError:
        # A folder that holds the weights under their name but a broken config is lipdiag's too, and says so later.
        return (path / MODEL).exists()


def read(path: str | Path, weights: str = "ema") -> Checkpoint:
    """What one of lipdiag's own checkpoints holds, checked but not yet built.

    Args:
        path: The folder, or the .pt file.
        weights: "ema" or "raw"; where only one is on record, "ema" takes it.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, or not one of lipdiag's.
    """
    path = Path(path)
    if path.is_dir():
        with open_regular(path / CONFIG) as file:
            text = read_all(file, path / CONFIG, 1_000_000)
        config = check_config(parse_json(text, str(path / CONFIG)), path / CONFIG)
        available = kept(config, EMA in config["files"])
        chosen = choose(available, weights, path)
        name = EMA if len(available) == 2 and chosen == "ema" else MODEL
        state, digest = read_weights(path / name)
        if config["files"].get(name) != digest:
            refuse(path / name, f"is not the file that {CONFIG} was written with: one of the two is damaged")
        digests = {CONFIG: hashlib.sha256(text).hexdigest(), name: digest}
        kind, sha256 = "lipdiag folder", folder_digest(digests)
    else:
        content, sha256 = read_tensors(path), file_digest(path)
        strange = set(content) - {"config", "model", "ema"}
        if not isinstance(content.get("config"), str) or not isinstance(content.get("model"), dict) or strange:
            refuse(path, "is not a checkpoint of lipdiag's: it lacks its config; load it by --factory pkg.mod:function")
        config = check_config(parse_json(content["config"], f"config in {path}"), path)
        available = kept(config, "ema" in content)
        chosen = choose(available, weights, path)
        state = content["ema" if len(available) == 2 and chosen == "ema" else "model"]
        kind = "lipdiag file"
    if not isinstance(state, dict) or not all(type(k) is str and isinstance(v, Tensor) for k, v in state.items()):
        refuse(path, "holds something else than tensors among its weights")
    inputs = {k.removeprefix(CONDITIONING): v for k, v in state.items() if k.startswith(CONDITIONING)}
    return Checkpoint(
        path=str(path),
        kind=kind,
        network=config["network"]["class"],
        network_config=config["network"]["config"],
        state={k: v for k, v in state.items() if not k.startswith(CONDITIONING)},
        weights=chosen,
        available=available,
        sha256=sha256,
        conditioning=inputs,
        shape=tuple(config["shape"]),
        **{key: config[key] for key in ("schedule", "parameterization", "clock", "data", "training", "limit")},
    )


def check_config(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A config that has every key of its version and no other, each of the right type."""
    version = config.get("format_version")
    if type(version) is not int or version < 1:
        refuse(path, "is not a config of lipdiag's: it lacks a format_version")
    if version > FORMAT_VERSION:
        refuse(path, f"has format_version {version}, newer than this lipdiag reads ({FORMAT_VERSION}): update lipdiag")
    config = {"data": None, "training": {}, "files": {}, "weights": "raw", "limit": None} | config
    types: dict[str, Any] = dict.fromkeys(("schedule", "parameterization", "clock", "weights"), str)
    types |= dict.fromkeys(("network", "training", "files"), dict)
    types |= {"format_version": int, "shape": list} | dict.fromkeys(("data", "limit"), (str, type(None)))
    for key in sorted(set(types) ^ set(config)):
        refuse(path, f"{'lacks the key' if key in types else 'has the unknown key'} {shown(key)!r} in its config")
    for key, kind in types.items():
        if not isinstance(config[key], kind):
            refuse(path, f"has a {type(config[key]).__name__} as {key} in its config")
    network, shape = config["network"], config["shape"]
    if set(network) != {"class", "config"} or type(network["class"]) is not str or type(network["config"]) is not dict:
        refuse(path, "does not name its network by a class and a config")
    if not shape or not all(type(size) is int and size > 0 for size in shape):
        refuse(path, f"has the shape {shown(shape)} where positive integers are needed")
    if config["weights"] not in ("raw", "ema"):
        refuse(path, f"calls its weights {shown(config['weights'])!r} where raw or ema is expected")
    return config


def kept(config: Mapping[str, Any], both: bool) -> tuple[str, ...]:
    """Which weights are on record."""
    return ("ema", "raw") if both else (config["weights"],)


def choose(available: tuple[str, ...], wanted: str, path: str | Path) -> str:
    """The weights to take: averaged ones where there are any, raw ones only if they are there."""
    if wanted not in ("ema", "raw"):
        raise UsageError(f"the weights {shown(wanted)!r} do not exist: ask for ema or raw")
    if wanted == "raw" and available == ("ema",):
        refuse(path, "holds averaged weights only: ask for --weights ema")
    return wanted if wanted in available else available[0]


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file and the file's SHA-256."""
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        start = file.read(512)
        if not is_safetensors(start):
            check_magic(start, path)
            refuse(path, "is not a .safetensors file")
        return read_safetensors(file, path)[0], digest


def file_digest(path: str | Path) -> str:
    """The SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(digests: Mapping[str, str]) -> str:
    """One SHA-256 for the files that make a model, as of the text that sha256sum prints for them."""
    return hashlib.sha256("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()).hexdigest()


def assemble(
    checkpoint: Checkpoint,
    schedule: str | Schedule | None = None,
    parameterization: str | Parameterization | None = None,
    clock: str | Clock | None = None,
    shape: tuple[int, ...] | None = None,
) -> NetworkPredictor:
    """The predictor a checkpoint describes; what is given here replaces what its files tell.

    Raises:
        CheckpointError: If something is neither told nor given, or the weights do not fit the network.
    """
    given: dict[str, tuple[Any, str | None, Mapping[str, Any]]] = {
        "schedule": (schedule, checkpoint.schedule, SCHEDULES),
        "parameterization": (parameterization, checkpoint.parameterization, PARAMETERIZATIONS),
        "clock": (clock, checkpoint.clock, CLOCKS),
    }
    parts: dict[str, Any] = {}
    for name, (override, told, registry) in given.items():
        if override is not None:
            parts[name] = parse(override, registry) if isinstance(override, str) else override
        elif told is None:
            raise CheckpointError(f"{shown(checkpoint.path)} does not tell its {name}: give it by --{name}")
        else:
            parts[name] = understood(told, registry, checkpoint.path, name)
    shape = shape or checkpoint.shape
    if shape is None:
        raise CheckpointError(f"{shown(checkpoint.path)} does not tell the shape of its samples: give it by --shape")
    with torch.random.fork_rng(devices=[]):  # the first weights are overwritten: they cost the caller no random numbers
        network = create_network(checkpoint.network, checkpoint.network_config, checkpoint.path, checkpoint.state)
    fit(network, checkpoint.state, checkpoint.path)
    network = adapted(network, checkpoint.network, checkpoint.timestep_factor)
    predictor = NetworkPredictor(network, **parts, shape=shape, conditioning=checkpoint.conditioning)
    predictor.data, predictor.notes = checkpoint.data, (*checkpoint.notes, *checkpoint.chosen)
    if checkpoint.limit is not None:
        predictor.limit = understood(checkpoint.limit, LIMITS, checkpoint.path, "limit")
    return predictor.eval().requires_grad_(False)


def understood(text: str, registry: Mapping[str, Any], path: str | Path, name: str) -> Any:
    """What a text in a file spells."""
    try:
        return parse(text, registry)
    except Exception as error:  # a stranger's text can fail in any way
        refuse(path, f"tells a {name} that cannot be used ({shown(error)})", error)
