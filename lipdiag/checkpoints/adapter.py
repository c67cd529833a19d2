"""LoRA adapters as peft and diffusers save them, merged in memory into the network that they were trained on.

A layer with the weight W that is adapted by A and B has the weight W + scale B A, the scale being alpha / rank, or
alpha / sqrt(rank) where the adapter says so. What remains is a network like any other.

References:
    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021. https://arxiv.org/abs/2106.09685
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import LipdiagError
from ..files import open_regular, parse_json, read_json, shown
from ..formats.checkpoint import Checkpoint, file_digest, folder_digest
from ..formats.diffusers_directory import PARTS
from ..weights.refusal import refuse
from ..weights.tensors import read_safetensors
from .hub import located
from .reading import Reading

CONFIG, MODEL, STEM = "adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"  # under which diffusers keeps the numbers of its adapters
FACTORS = (  # the layer, and which of the two factors; what diffusers called them before it had peft's names
    re.compile(r"(?P<layer>.+)\.lora_(?P<factor>A|B)(?:\.\w+)?\.weight"),
    re.compile(r"(?P<layer>.+)\.lora\.(?P<factor>down|up)\.weight"),
    re.compile(r"(?P<layer>.+\.)processor\.(?P<part>to_\w+)_lora\.(?P<factor>down|up)\.weight"),
)
FOREIGN = re.compile(r"lora_(unet|te\d?|transformer)_|.*\.(hada|lokr)_")
PREFIX = re.compile(rf"base_model\.model\.|({'|'.join(PARTS)})\.")
PLAIN = {"use_dora": False, "fan_in_fan_out": False, "peft_type": "LORA"}
GIVE = "give the model it was trained on by --original-config, a folder, a file or a name on the hub"


def recognizes(path: Path) -> bool:
    """Whether this is an adapter's folder, or its file, by their names."""
    if path.is_dir():
        return (path / CONFIG).exists() or (path / STEM).exists()
    return path.suffix == ".safetensors" and "lora" in path.name.lower()


def read(path: Path, reading: Reading, as_stored: Callable[[Path, Reading], Checkpoint]) -> Checkpoint:
    """The network with the adapter merged into it.

    Args:
        path: The adapter's folder or file.
        reading: What the user tells; its original config is the model that the adapter was trained on.
        as_stored: Reads that model.

    Raises:
        CheckpointError: If there is no such model, or the adapter does something else than to add B A to its weights.
    """
    file = path if path.is_file() else path / (MODEL if (path / CONFIG).exists() else STEM)
    with open_regular(file) as opened:
        tensors, metadata = read_safetensors(opened, file)
    config = read_json(path / CONFIG) if (path / CONFIG).exists() else told(metadata)
    for name, plain in PLAIN.items():
        if config.get(name, plain) != plain:
            refuse(path, f"is an adapter with {name} {shown(config[name])}, more than W + B A: merge it by peft")
    base = base_of(path, config, reading)
    checkpoint = as_stored(base, replace(reading, original_config=None))
    if any(FOREIGN.match(name) for name in tensors):
        refuse(path, "is an adapter in kohya's or LyCORIS' names: fuse it into its model (fuse_lora) and save that")
    ours, notes = own(tensors)
    state, count = merged(checkpoint.state, ours, config, path)
    digests = {file.name: file_digest(file), "base": checkpoint.sha256}
    return replace(
        checkpoint,
        path=str(path),
        kind=f"{checkpoint.kind} with an adapter",
        state=state,
        sha256=folder_digest(digests),
        notes=(*checkpoint.notes, f"{count} layers of {shown(base)} with an adapter merged into them", *notes),
    )


def told(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The numbers that diffusers keeps in an adapter's file, without the part of the pipeline in front."""
    with suppress(LipdiagError):
        numbers = parse_json(metadata.get(METADATA, "{}").encode(), METADATA)
        return {PREFIX.sub("", key, count=1): value for key, value in numbers.items() if key.startswith(PARTS)}
    return {}


def base_of(path: Path, config: Mapping[str, Any], reading: Reading) -> Path:
    """Where the model is that the adapter was trained on."""
    if reading.original_config is not None:
        return Path(located(reading.original_config, reading.download))
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        refuse(path, f"is an adapter, which does not tell its model: {GIVE}")
    try:
        base = Path(located(name, reading.download))
    except LipdiagError as error:
        refuse(path, f"is an adapter of {shown(name)}, which is not at hand ({error}): {GIVE}", error)
    if not base.exists():
        refuse(path, f"is an adapter of {shown(name)}, which is not at hand: {GIVE}")
    return base


def own(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of the network under its own names, and a note on those of text encoders."""
    ours = {PREFIX.sub("", name, count=1): z for name, z in tensors.items() if not name.startswith("text_encoder")}
    left = len(tensors) - len(ours)
    return ours, (f"{left} tensors of the adapter's text encoders were left out",) if left else ()


def merged(
    state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path
) -> tuple[dict[str, Tensor], int]:
    """The weights with those of an adapter, and how many layers that changes."""
    changed = dict(state)
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = next((m for pattern in FACTORS if (m := pattern.fullmatch(name))), None)
        if match is not None:
            parts = match.groupdict()
            layer = parts["layer"] + {"to_out": "to_out.0"}.get(parts.get("part") or "", parts.get("part") or "")
            factors.setdefault(layer, {})[{"down": "A", "up": "B"}.get(parts["factor"], parts["factor"])] = tensor
        elif name in changed and changed[name].shape == tensor.shape:  # trained whole, such as a bias
            changed[name] = tensor
        elif not name.endswith(".alpha"):
            refuse(path, f"is an adapter with {shown(name)!r}, which is not in its model or no factor of it: {GIVE}")
    if not factors:
        refuse(path, "is an adapter without factors under the names of peft or diffusers: merge it where it was made")
    for layer, pair in factors.items():
        weight = changed.get(f"{layer}.weight")
        a, b = pair.get("A"), pair.get("B")
        if weight is None or a is None or b is None or b[0, 0].numel() != 1 or len(a) != b.shape[1]:
            refuse(path, f"is an adapter of a layer {shown(layer)!r} that its model does not have so: {GIVE}")
        added = b.flatten(1).double() @ a.flatten(1).double()
        if added.numel() != weight.numel() or len(added) != len(weight):
            refuse(path, f"is an adapter of {shown(layer)!r} with another shape than in its model: {GIVE}")
        alpha = tensors.get(f"{layer}.alpha")
        factor = scale(config, layer, len(a), path) if alpha is None else float(alpha) / len(a)
        changed[f"{layer}.weight"] = (weight.double() + factor * added.view_as(weight)).to(weight.dtype)
    return changed, len(factors)


def scale(config: Mapping[str, Any], layer: str, rank: int, path: Path) -> float:
    """What multiplies B A in a layer: alpha over the rank, or its root; 1 where no alpha is told."""
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(re.fullmatch(r"[\w.]+", key) for key in patterns):
        refuse(path, "tells its alpha_pattern by regular expressions, which could take for ever: merge it by peft")
    own_alpha = [value for key, value in patterns.items() if f".{layer}".endswith(f".{key}")]
    alpha = own_alpha[0] if own_alpha else config.get("lora_alpha", rank)
    if type(alpha) not in (int, float):
        refuse(path, f"has {shown(alpha)} as lora_alpha where a number is expected")
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
