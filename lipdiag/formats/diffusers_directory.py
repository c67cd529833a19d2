"""Folders that diffusers' save_pretrained writes: a pipeline, or a bare model with its scheduler beside it.

model_index.json        pipeline only
unet|transformer/       config.json, diffusion_pytorch_model.safetensors (or shards with an index, or .bin)
unet_ema/               likewise, the averages; such two are also in what diffusers' training scripts leave behind
scheduler/              scheduler_config.json

Nothing in these files is run or imported: the class is looked up in a closed list, and weights are tensors.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..diffusion.clock import Clock, Shared
from ..diffusion.convention import UNTOLD
from ..errors import Caution, CheckpointError
from ..files import LARGEST_JSON, json_or_empty, open_regular, parse_json, read_all, read_json, shown
from ..weights.averages import choose
from ..weights.refusal import refuse
from ..weights.tensors import read_tensors, require_named
from .checkpoint import Checkpoint, file_digest, folder_digest
from .clipping import limit
from .conditioning import blank
from .native import read_weights
from .networks import NETWORKS, Budget
from .scheduler import Stated, stated

PARTS = ("unet", "transformer")
AVERAGED = "_ema"  # behind the name of a part
STEM = "diffusion_pytorch_model"
SUFFIXES = ("safetensors", "fp16.safetensors", "bf16.safetensors", "bin", "fp16.bin", "bf16.bin")  # the first is read
SCHEDULER = "scheduler_config.json"
# what diffusers called the class before it had one for each, by the kind of its normalization
FORMER = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
# and the layers of attention in its first versions, as the folders of the DDPM and NCSN++ papers still have them
ATTENTION = re.compile(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)")
LAYERS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# what networks are whose classes are not on the list, by parts of their names
OTHERS = {
    r"3D|Video|Temporal|Motion": "a network of video, whose samples are rows of pictures",
    r"Audio|Spectrogram": "a network of sound",
    r"^Prior|Cascade|Wuerstchen": "one stage of several, in a space of its own",
    r"^Autoencoder|VQModel": "an autoencoder, no diffusion network",
    r"ControlNet|Adapter": "an adapter of another network",
}
TRAINING = re.compile(r"checkpoint-\d+")  # what diffusers' training scripts call the folders of their states
SHARED = "shared_timesteps"  # what lipdiag.share_timesteps keeps in a network's config: the edges of the blocks


def recognizes(path: Path) -> bool:
    """Whether this is such a folder, judged by its JSON files."""
    configs = (place / "config.json" for place in (path, *(path / part for part in PARTS)))
    named = (path / "model_index.json").exists() or any("_class_name" in json_or_empty(config) for config in configs)
    return path.is_dir() and named


def read(path: Path, weights: str = "ema") -> Checkpoint:
    """What such a folder tells.

    Args:
        path: The pipeline's folder or the model's.
        weights: "ema" takes the folder `unet_ema` (or `transformer_ema`) where there is one.

    Raises:
        CheckpointError: If the folder lacks a part, or a part is damaged.
    """
    folder, weights, available = model_folder(path, weights)
    state, digests = read_state(folder)
    kind = "diffusers pipeline" if (path / "model_index.json").exists() else "diffusers model"
    return described(path, folder, kind, state, digests, weights, available)


def described(
    path: Path,
    folder: Path,
    kind: str,
    state: dict[str, Tensor],
    digests: dict[str, str],
    weights: str,
    available: tuple[str, ...],
) -> Checkpoint:
    """Weights together with what the config in `folder`, and the scheduler's near it, say of them."""
    config = read_json(folder / "config.json")
    name = class_name(config)
    arguments, notes = network_arguments(name, config, folder)
    beside = channels_beside(name, arguments, folder)
    scheduler, in_range = scheduler_file(path if path.is_dir() else folder, folder), None
    if scheduler is None:
        scheduled = Stated(UNTOLD, (f"there is no {SCHEDULER}",))
    else:
        content = read_scheduler(scheduler)
        try:
            scheduled, in_range = stated(content, name, arguments), limit(content)
        except (ValueError, TypeError, OverflowError) as error:
            refuse(scheduler, f"describes no schedule that can be used ({shown(error)})", error)
        digests = digests | {SCHEDULER: file_digest(scheduler)}
    digests = digests | {"config.json": file_digest(folder / "config.json")}
    try:
        with Budget(state):
            inputs, input_notes = blank(name, arguments)
    except (KeyError, TypeError, ValueError) as error:
        refuse(folder, f"has a config from which no {name} can be built ({shown(error)})", error)
    if event_shape(name, arguments, inputs) is not None and name == "FluxTransformer2DModel":
        notes = (*notes, "x is packed tokens, (tokens, channels): pack latents as diffusers' Flux pipelines do")
    if "encoder_hidden_states" in inputs and any((p / "text_encoder").is_dir() for p in (path, folder.parent)):
        hint = '; --prompt "" tells it what its text encoder makes of no words'
        input_notes = tuple(Caution(note + hint) for note in input_notes)
    if beside:
        notes = (*notes, f"sees {beside} channels beside x, as for inpainting or super resolution")
    return Checkpoint(
        path=str(path),
        kind=kind,
        network=name,
        network_config=arguments,
        state=state,
        weights=weights,
        available=available,
        sha256=folder_digest(digests),
        convention=replace(scheduled.convention, clock=shared_clock(config, scheduled.convention.clock, folder)),
        shape=event_shape(name, arguments, inputs, beside),
        conditioning=inputs,
        beside=beside,
        limit=in_range,
        notes=(*notes, *scheduled.notes, *input_notes),
    )


def shared_clock(config: Mapping[str, Any], clock: Clock | None, folder: Path) -> Clock | None:
    """The clock of a network whose config tells that its timesteps were shared, else the scheduler's."""
    # averages that were begun before the timesteps were shared have a config that does not tell it
    name = folder.name.removesuffix(AVERAGED) if folder.name.endswith(AVERAGED) else folder.name + AVERAGED
    twin = json_or_empty(folder.with_name(name) / "config.json").get(SHARED)
    edges = config.get(SHARED, twin)
    if twin is not None and twin != edges:
        words = f"tells other {SHARED} than {name}/config.json ({shown(edges)} and {shown(twin)})"
        refuse(folder / "config.json", f"{words}: correct the one that is wrong")
    if edges is None or clock is None:
        return clock
    if not isinstance(edges, list) or len(edges) < 2 or not all(type(edge) in (int, float) for edge in edges):
        refuse(folder / "config.json", f"has {shown(edges)} as {SHARED} where the edges of blocks are expected")
    bounds = tuple(float(edge) for edge in edges)
    try:
        uniform, cut = Shared(clock, bounds[-1], len(bounds) - 1), Shared(clock, bounds[-1], edges=bounds)
    except ValueError as error:
        refuse(folder / "config.json", f"has {SHARED} that cannot be used ({shown(error)})", error)
    return uniform if uniform.bounds == bounds else cut


def model_folder(path: Path, weights: str) -> tuple[Path, str, tuple[str, ...]]:
    """The folder with the network's weights, which weights they are, and which there are."""
    if not (path / "model_index.json").exists() and "_class_name" in json_or_empty(path / "config.json"):
        return path, choose(("as stored",), weights, path), ("as stored",)
    part = next((part for part in PARTS if (path / part).is_dir()), None)
    if part is None:
        refuse(path, f"is a pipeline without a folder {' or '.join(PARTS)}, which lipdiag measures: use --factory")
    averaged = path / f"{part}{AVERAGED}"
    available = ("ema", "raw") if averaged.is_dir() else ("as stored",)
    chosen = choose(available, weights, path)
    return averaged if chosen == "ema" else path / part, chosen, available


def read_scheduler(file: Path) -> dict[str, Any]:
    """A scheduler's config; diffusers writes -Infinity, which JSON does not know, for a bound that is not there."""
    with open_regular(file) as opened:
        text = read_all(opened, file, LARGEST_JSON)
    return parse_json(text.replace(b": -Infinity", b": null"), str(file))


def scheduler_file(path: Path, folder: Path) -> Path | None:
    """The scheduler's config: in the pipeline, beside the model, or in the pipeline beside a training's state."""
    beside = (path.parent / "scheduler",) if TRAINING.fullmatch(path.name) else ()
    places = (path / "scheduler", path, folder.parent / "scheduler", folder.parent, *beside)
    return next((place / SCHEDULER for place in places if (place / SCHEDULER).is_file()), None)


def class_name(config: Mapping[str, Any]) -> str:
    """The network's class, by its present name."""
    name = str(config.get("_class_name"))
    return FORMER.get(str(config.get("norm_type")), name) if name == "Transformer2DModel" else name


def network_arguments(
    name: str, config: Mapping[str, Any], folder: Path, classes: Mapping[str, Callable[[], type[Any]]] = NETWORKS
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The arguments in a config that the class knows, and a note on those it does not, as diffusers ignores them."""
    if name not in classes:
        kind = next((f", {words}" for part, words in OTHERS.items() if re.search(part, name)), "")
        refuse(
            folder, f"holds the network {shown(name)!r}{kind}, which is not among {', '.join(classes)}: use --factory"
        )
    known = set(inspect.signature(classes[name]().__init__).parameters)
    plain = {key: value for key, value in config.items() if not key.startswith("_") and key != SHARED}
    ignored = sorted(shown(key) for key in set(plain) - known)
    notes = (f"arguments that this diffusers does not know were ignored: {', '.join(ignored)}",) if ignored else ()
    return {key: value for key, value in plain.items() if key in known}, notes


def channels_beside(name: str, arguments: Mapping[str, Any], folder: Path) -> int:
    """How many channels a network sees beside those that it denoises, such as a mask or a picture.

    Raises:
        CheckpointError: If it is not concatenated to x that it sees them, or it denoises what it does not see.
    """
    known = inspect.signature(NETWORKS[name]().__init__).parameters
    inputs, outputs = (
        arguments.get(key, known[key].default if key in known else None) for key in ("in_channels", "out_channels")
    )
    if type(inputs) is not int or type(outputs) is not int or outputs in (inputs, 2 * inputs):
        return 0
    if outputs > inputs or name not in ("UNet2DModel", "UNet2DConditionModel"):
        refuse(
            folder,
            f"holds a network with {inputs} channels in and {outputs} out, which sees something else than x in a way "
            "that is not known: give --factory, with a function of x alone",
        )
    return inputs - outputs


def read_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A model folder's weights, and the SHA-256 of each file they came from."""
    named = dict if json_or_empty(folder / "config.json").get("_class_name") == "UNet1DModel" else current  # old ones
    for suffix in SUFFIXES:
        kind = suffix.rpartition(".")
        file = folder / f"{STEM}.{suffix}"
        if file.exists():
            state, digest = read_file(file)
            return named(state), {file.name: digest}
        variant = f".{kind[0]}" if kind[0] else ""
        for index in (folder / f"{STEM}.{suffix}.index.json", folder / f"{STEM}.{kind[2]}.index{variant}.json"):
            if index.exists():
                state, digests = read_shards(index)
                return named(state), digests
    raise CheckpointError(f"{shown(folder)} is no model: it lacks {STEM}.safetensors (or .bin)")


def current(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with today's names for the layers of attention."""
    parts = {name: ATTENTION.fullmatch(name) for name in state}
    return {m[1] + LAYERS[m[2]] + m[3] if (m := parts[name]) else name: tensor for name, tensor in state.items()}


def read_file(file: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors in one file of weights, and its SHA-256."""
    if file.suffix == ".safetensors":
        return read_weights(file)
    state = read_tensors(file)
    require_named(state, file)
    return state, file_digest(file)


def weight_map(index: Path) -> dict[str, str]:
    """The name of the file, as an index tells it, that has each tensor."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        refuse(index, "has no weight_map from names to files")
    return places


def read_shards(index: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights that an index distributes over files beside it."""
    places = weight_map(index)
    state: dict[str, Tensor] = {}
    digests: dict[str, str] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or name in (".", ".."):
            refuse(index, f"names the file {shown(name)!r}, which is not beside it")
        part, digests[name] = read_file(index.parent / name)
        if set(part) != {key for key, place in places.items() if place == name}:
            refuse(index.parent / name, "does not hold the tensors that its index says")
        state |= part
    return state, digests


def event_shape(
    name: str, arguments: Mapping[str, Any], inputs: Mapping[str, Tensor], beside: int = 0
) -> tuple[int, ...] | None:
    """The shape of one sample, where the network's arguments tell it; it sees so many channels beside."""
    size, channels = arguments.get("sample_size"), arguments.get("in_channels")
    if type(channels) is int:
        channels -= beside
    if name == "FluxTransformer2DModel":
        return (len(inputs["img_ids"]), arguments.get("in_channels", 64))
    sides = [size] * (1 if name == "UNet1DModel" else 2) if type(size) is int else size
    if type(channels) is not int or not isinstance(sides, list) or not all(type(side) is int for side in sides):
        return None
    return (channels, *sides)
