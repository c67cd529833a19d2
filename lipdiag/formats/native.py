"""lipdiag's own checkpoints: a folder (config.json and model.safetensors) or one .pt file, self-describing.

config.json holds the format's version, the network's class and arguments, the schedule, parameterization and clock as
they are spelled on the command line, the shape of a sample, the data, the facts of the training, and the SHA-256 of
the files beside it. A .pt file is a dictionary: that JSON as a text under "config", a state dict under "model", and,
where both are kept, the averaged weights under "ema". Reading trusts nothing: classes come from a closed list, no
code of a file runs, and every name, shape, type and value is checked before the network is touched.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..diffusion.convention import PARTS, Convention
from ..diffusion.predictor import NetworkPredictor
from ..diffusion.spelling import parse
from ..errors import CheckpointError
from ..files import open_regular, parse_json, read_all, read_json, shown
from ..weights.averages import choose
from ..weights.refusal import refuse
from ..weights.tensors import check_magic, is_safetensors, read_safetensors, read_tensors
from .checkpoint import Checkpoint, assemble, file_digest, folder_digest

FORMAT_VERSION = 1
CONFIG, MODEL, EMA = "config.json", "model.safetensors", "ema.safetensors"
CONDITIONING = "conditioning:"  # in front of the names of tensors that are inputs of the network, not its weights


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
    parts: dict[str, Any] = {}
    unusable: dict[str, str] = {}
    for name, registry in PARTS.items():
        try:
            parts[name] = parse(config[name], registry)
        except Exception as error:  # a stranger's text can fail in any way
            unusable[name] = shown(error)
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
        convention=Convention(**parts),
        unusable=unusable,
        **{key: config[key] for key in ("data", "training", "limit")},
    )


def check_config(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A config that has every key of its version and no other, each of the right type."""
    version = config.get("format_version")
    if type(version) is not int or version < 1:
        refuse(path, "is not a config of lipdiag's: it lacks a format_version")
    if version > FORMAT_VERSION:
        refuse(path, f"has format_version {version}, newer than this lipdiag reads ({FORMAT_VERSION}): update lipdiag")
    config = {"data": None, "training": {}, "files": {}, "weights": "raw", "limit": None} | config
    types: dict[str, Any] = dict.fromkeys((*PARTS, "weights"), str)
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
