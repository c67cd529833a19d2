"""MONAI's U-Net in two and three dimensions, and its schedulers in the words of diffusers'.

Names and shapes tell all arguments of the class but the width of an attention head and the number of groups that are
normalized. Those, and the scheduler, stand in the JSON file of a bundle (configs/ beside models/), of which only names
of classes and plain values are read: its expressions are code and are never run.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..diffusion.clock import Unit
from ..diffusion.convention import Convention
from ..diffusion.parameterization import data_velocity
from ..diffusion.schedule import Straight
from ..files import json_or_empty, read_json, shown
from ..weights.container import Contents
from ..weights.refusal import refuse
from .checkpoint import Checkpoint, of_file
from .clipping import limit
from .conditioning import blank
from .scheduler import stated

NETWORK = "monai.DiffusionModelUNet"
SIGNS = {"conv_in.conv.weight", "time_embed.0.weight", "down_blocks.0.resnets.0.norm1.weight", "out.2.conv.weight"}
UNTOLD = ("num_head_channels", "norm_num_groups", "norm_eps", "upcast_attention", "use_flash_attention")
SCHEDULES = {
    "linear_beta": "linear", "scaled_linear_beta": "scaled_linear", "sigmoid_beta": "sigmoid",
    "cosine": "squaredcos_cap_v2",
}  # fmt: skip
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "RFlowScheduler")
# names of monai-generative, from which the network came
FORMER = (
    (re.compile(r"(attentions?(?:\.\d+)?)\.(to_[qkv])\."), r"\1.attn.\2."),
    (re.compile(r"(attentions?(?:\.\d+)?)\.proj_attn\."), r"\1.attn.out_proj."),
    (re.compile(r"(attn[12])\.to_out\.0\."), r"\1.out_proj."),
    (re.compile(r"(upsampler)\.conv\.conv\."), r"\1.postconv.conv."),
)
REMEDY = (
    'give --original-config FILE.json, a bundle\'s config or {"num_head_channels": 32, "shape": [1, 64, 64], '
    '"scheduler": {"_target_": "DDPMScheduler"}} with what it was trained with'
)


def recognizes(contents: Contents) -> bool:
    """Whether the names are those of the U-Net."""
    return set(contents.state) >= SIGNS


def read(contents: Contents, path: Path, original_config: str | Path | None) -> Checkpoint:
    """The U-Net in a file, with what a bundle's config beside it, or one that is given, tells."""
    config, place = beside(path) if original_config is None else (read_json(original_config), Path(original_config))
    told, state = described(config, place), current(contents.state)
    network = arguments(state) | {key: told[key] for key in UNTOLD if key in told}
    if "num_head_channels" not in network:
        refuse(path, f"does not tell the width of its attention heads: {REMEDY}")
    convention, in_range, notes = scheduled(config, place)
    inputs, of_inputs = blank(NETWORK, network)
    shape = told.get("shape")
    if shape is not None and not (isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)):
        refuse(place, f"has {shown(shape)} as shape where positive integers are expected")
    return of_file(
        contents,
        path,
        kind="MONAI's U-Net",
        network=NETWORK,
        network_config=network,
        state=state,
        convention=convention,
        shape=tuple(shape) if shape else None,
        conditioning=inputs,
        limit=in_range,
        notes=(f"its heads are told by {shown(place.name)}", *notes, *of_inputs),
    )


def beside(path: Path) -> tuple[dict[str, Any], Path]:
    """The config of a bundle among whose models a file lies, {} where there is none."""
    for file in sorted((path.resolve().parent.parent / "configs").glob("*.json")):
        config = json_or_empty(file)
        if next(named(config, ("DiffusionModelUNet",)), None):
            return config, file
    return {}, path


def described(config: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """The plain arguments of the network in a config: of its class, or those that stand in it alone."""
    entry = next(named(config, ("DiffusionModelUNet",)), config)
    return resolved(entry, config, place)


def named(value: Any, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The dictionaries in a bundle's config that describe an object of one of the classes."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    if isinstance(value, dict) and str(value.get("_target_")).rpartition(".")[2] in names:
        yield value
    for item in items:
        yield from named(item, names)


def resolved(entry: Mapping[str, Any], config: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """Arguments with what they refer to at the top of the config; expressions, which are code, are left out."""
    values: dict[str, Any] = {}
    for key, value in entry.items():
        known = config.get(value[1:], value) if isinstance(value, str) and value.startswith("@") else value
        if isinstance(known, str) and known.startswith(("$", "@")):
            if key in UNTOLD or key in ("num_train_timesteps", "schedule", "prediction_type"):
                refuse(place, f"tells its {key} by {shown(known)}, which is code: write the value in its place")
            continue
        values[key] = known
    return values


def scheduled(config: Mapping[str, Any], place: Path) -> tuple[Convention, str | None, tuple[str, ...]]:
    """How the network is used, by the scheduler in a config, what limits x0, and notes."""
    entry = next(named(config, SCHEDULERS), None)
    told = {} if entry is None else resolved(entry, config, place)
    notes = () if entry else ("no scheduler is told: taken is DDPMScheduler with its own defaults, 1000 linear betas",)
    steps, name = told.get("num_train_timesteps", 1000), str(told.get("_target_")).rpartition(".")[2]
    if type(steps) is not int or not 0 < steps <= 100_000:
        refuse(place, f"has {shown(steps)} as num_train_timesteps where a number of timesteps is expected")
    if name == "RFlowScheduler":
        return Convention(Straight(), data_velocity, Unit(float(steps))), None, notes
    words = {key: value for key, value in told.items() if not key.startswith("_")} | {"num_train_timesteps": steps}
    words["beta_schedule"] = SCHEDULES.get(str(words.pop("schedule", "linear_beta")), "unknown")
    words = {"clip_sample": name != "PNDMScheduler", "beta_start": 1e-4, "beta_end": 2e-2} | words
    words["clip_sample_range"] = words.pop("clip_sample_max", 1.0)
    words.pop("clip_sample_min", None)
    try:
        return (of := stated(words, NETWORK)).convention, limit(words), (*notes, *of.notes)
    except (ValueError, TypeError, OverflowError) as error:
        refuse(place, f"describes no schedule that can be used ({shown(error)})", error)


def current(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with today's names, where it is of monai-generative."""
    former = any(name.endswith(("attention.to_q.weight", ".attn1.to_out.0.weight")) for name in state)
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for old, new in FORMER if former else ():
            name = old.sub(new, name)
        weights[name] = tensor
    return weights


def arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of the class that names and shapes tell."""

    def count(pattern: str) -> int:
        return 1 + max((int(match[1]) for name in state if (match := re.match(pattern, name))), default=-1)

    first, levels = state["conv_in.conv.weight"], count(r"down_blocks\.(\d+)\.")
    text = next((z for name, z in state.items() if name.endswith("transformer_blocks.0.attn2.to_k.weight")), None)
    classes = state.get("class_embedding.weight")
    return {
        "spatial_dims": first.ndim - 2,
        "in_channels": first.shape[1],
        "out_channels": len(state["out.2.conv.weight"]),
        "channels": [len(state[f"down_blocks.{i}.resnets.0.conv1.conv.weight"]) for i in range(levels)],
        "num_res_blocks": [count(rf"down_blocks\.{i}\.resnets\.(\d+)\.") for i in range(levels)],
        "attention_levels": [count(rf"down_blocks\.{i}\.attentions\.(\d+)\.") > 0 for i in range(levels)],
        "resblock_updown": any(".downsampler.conv1." in name for name in state),
        "with_conditioning": text is not None,
        "cross_attention_dim": None if text is None else text.shape[1],
        "transformer_num_layers": max(1, count(r"middle_block\.attention\.transformer_blocks\.(\d+)\.")),
        "num_class_embeds": None if classes is None else len(classes),
        "include_fc": any(name.endswith("out_proj.weight") for name in state),
        "use_combined_linear": any(name.endswith(".qkv.weight") for name in state),
    }
