"""OpenAI's U-Net (improved- and guided-diffusion, consistency models, torchcfm, flow_matching), read from its weights.

The files hold the weights alone. Channels, levels, attention, classes and the learned variance follow from names and
shapes; the number of attention heads, the order of q, k and v, the noise schedule and the size of a picture do not.
For the published models they are those of the published command lines, recognised by their shapes; for others they
are given as a JSON file of the same flags.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.clock import LogSigma, Timesteps
from ..diffusion.convention import FLOW, Convention
from ..diffusion.limit import Clip
from ..diffusion.parameterization import Consistency, Edm, eps, x0
from ..diffusion.schedule import Discrete, Karras, Linear, Normalized, Schedule, SquaredCosine
from ..diffusion.spelling import spell
from ..errors import Caution
from ..files import shown
from ..weights.container import Contents
from ..weights.refusal import refuse
from .checkpoint import Checkpoint, of_file, read_flags
from .published import known

HEADS = ("num_heads", "num_head_channels", "num_heads_upsample", "use_new_attention_order")
# Flags that the weights do not tell, those that they do and which are compared with them, and those without a meaning
# for the function that is measured.
FLAGS = {
    *HEADS, "image_size", "noise_schedule", "diffusion_steps", "rescale_timesteps", "timestep_respacing",
    "predict_xstart", "training_mode", "sigma_min", "sigma_max", "sigma_data",
}  # fmt: skip
TOLD = ("num_channels", "num_res_blocks", "class_cond", "learn_sigma", "resblock_updown", "use_scale_shift_norm")
IDLE = (
    "attention_resolutions", "channel_mult", "dropout", "use_checkpoint", "use_fp16", "use_kl", "sigma_small",
    "rescale_learned_sigmas", "weight_schedule",
)  # fmt: skip
FLOWS = ("torchcfm", "flow_matching")
MODES = {"edm": False, "progdist": False, "consistency_distillation": True, "consistency_training": True}


def recognizes(state: Mapping[str, Tensor]) -> bool:
    """Whether these are such a U-Net's weights, or half of one, and no larger one's with text among its inputs."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight"} <= set(state) and not any(
        "transformer_blocks" in name for name in state
    )


def read(contents: Contents, path: Path, original_config: str | Path | None) -> Checkpoint:
    """What the weights tell, completed by flags.

    Raises:
        CheckpointError: If it is a classifier or an upsampler, if the flags are another model's, or if neither they nor
            a published model of this shape tell how it was trained.
    """
    state, pictures = rows_of_pixels(contents.state)
    if not any(name.startswith("output_blocks.") for name in state):
        refuse(path, "is a classifier of noisy pictures, not a diffusion network: give the network that it guides")
    shape = architecture(state, path)
    given = read_flags(original_config, FLAGS, (*TOLD, *IDLE))
    if given.get("training_mode", "edm") not in MODES:
        mode = shown(given["training_mode"])
        refuse(original_config or path, f"has the training_mode {mode}; it is one of {', '.join(MODES)}")
    doubled = same_channels(shape, given, path)
    compare(shape, given, doubled, path)
    karras = pictures or "training_mode" in given
    name, published = known(shape, "consistency_models" if karras else contents.container)
    flags = published | given
    attention = bool(shape["attention_resolutions"]) or "middle_block.1.qkv.weight" in state
    steps = int(flags.get("diffusion_steps", 1000))
    require(flags, karras and "training_mode" not in given, attention, 1000 if karras else steps, path)
    if karras:
        flags["use_new_attention_order"] = True  # the only one that consistency_models has, whatever its flag says
    # flow_matching's last class is that of pictures whose class was dropped
    label = shape["num_classes"] - 1 if shape["num_classes"] and contents.container == "flow_matching" else 0
    inputs = {"y": torch.full((1,), label)} if shape["num_classes"] else {}
    added = ", ".join(f"{flag} {value}" for flag, value in published.items() if flag not in given)
    notes = [f"not in the file, but published for {name}, whose shape this is: {added}"] if added else []
    notes += remarks(flags, doubled)
    if inputs:
        notes.append(Caution(f"conditioned on y = {label}{', no class,' if label else ''} throughout"))
    size = flags.get("image_size")
    return of_file(
        contents,
        path,
        kind=f"{contents.container or 'OpenAI'} file",
        network="UNetModel",
        network_config=shape | {name: flags[name] for name in HEADS if name in flags} | {"image_size": size or 0},
        state=state,
        convention=convention(contents, flags, steps),
        shape=(shape["in_channels"], size, size) if type(size) is int else None,
        conditioning=inputs,
        limit=None if contents.container in FLOWS else spell(Clip()),  # their samplers' clip_denoised
        timestep_factor=1000 / steps if flags.get("rescale_timesteps") else 1.0,
        notes=tuple(notes),
    )


def require(flags: Mapping[str, Any], ambiguous: bool, attention: bool, steps: int, path: Path) -> None:
    """Refuse a network of which neither its weights, nor a published model, nor flags tell all that it needs.

    Args:
        flags: Published and given.
        ambiguous: Whether it may be a denoiser or a consistency function.
        attention: Whether it has attention, the heads of which no shape tells.
        steps: Timesteps; 1000 where nobody rescales them.
        path: Of the weights, to be named.
    """
    if ambiguous:
        refuse(
            path,
            "is a network of consistency_models, some of which are denoisers (edm_*) and some consistency functions "
            '(cd_*, ct_*): give --original-config FILE.json with {"training_mode": "edm"}, "consistency_distillation" '
            'or "consistency_training"',
        )
    if attention and not {"num_heads", "num_head_channels"} & set(flags):
        refuse(
            path,
            "does not tell its attention heads: give --original-config FILE.json with num_heads or num_head_channels "
            "(and image_size, noise_schedule, diffusion_steps) as the model was trained",
        )
    if steps != 1000 and "rescale_timesteps" not in flags:
        refuse(
            path,
            f"has {steps} timesteps, which improved-diffusion rescales to 1000 by default, guided-diffusion does not: "
            "give rescale_timesteps too, true or false, in --original-config FILE.json",
        )


def remarks(flags: Mapping[str, Any], doubled: bool) -> list[str]:
    """What a reader has to know of how the network is measured."""
    notes = ["a learned variance was left out"] if doubled else []
    if flags.get("timestep_respacing"):
        notes.append("respacing picks timesteps when sampling; the model is told, and measured on, the original ones")
    if MODES.get(flags.get("training_mode", "")):
        notes.append("a consistency function: eps is the direction to where it jumps, not to the mean of the data")
    return notes


def rows_of_pixels(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """The weights, attending over rows of pixels, and whether it was over pictures, as in consistency_models alone.

    Its convolutions of single pixels have one axis more than in the other code, and are the same maps.
    """
    names = {n for n, w in state.items() if n.endswith((".qkv.weight", ".proj_out.weight")) and w.ndim == 4}
    return {n: w.squeeze(-1) if n in names else w for n, w in state.items()}, bool(names)


def same_channels(shape: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> bool:
    """Whether the output has a variance beside the noise; a network that sees more than x is refused."""
    inputs, outputs = shape["in_channels"], shape["out_channels"]
    if inputs == outputs == 6 and given.get("learn_sigma") is not False:
        refuse(
            path,
            "has 6 channels in and out, as an upsampler, which sees a small picture beside x: give --factory, or, if "
            'these are 6 channels of data, --original-config FILE.json with {"learn_sigma": false}',
        )
    if outputs not in (inputs, 2 * inputs):
        what = ", as an upsampler, which sees a small picture beside x" if 2 * outputs == inputs else ""
        refuse(path, f"has {inputs} channels in and {outputs} out{what}: give --factory, with a function of x alone")
    return outputs == 2 * inputs


def compare(shape: dict[str, Any], given: Mapping[str, Any], doubled: bool, path: Path) -> None:
    """Refuse flags of another model than the weights'."""
    told = shape | {"num_channels": shape["model_channels"], "learn_sigma": doubled}
    told |= {"class_cond": shape["num_classes"] is not None}
    for flag in TOLD:
        if flag in given and given[flag] != told[flag]:
            refuse(path, f"has {flag} {told[flag]} by its weights, and {shown(given[flag])} by the flags given")


def convention(contents: Contents, flags: Mapping[str, Any], steps: int) -> Convention:
    """The way in which the network is used, as far as it is told."""
    if contents.container in FLOWS:
        return FLOW
    if "training_mode" in flags:
        low, scale = float(flags.get("sigma_min", 0.002)), float(flags.get("sigma_data", 0.5))
        karras = Karras(low, float(flags.get("sigma_max", 80.0)))
        kind = Consistency(scale, low) if MODES[flags["training_mode"]] else Edm(scale)
        return Convention(Normalized(karras, scale), kind, LogSigma(karras, 250.0))
    schedule: Schedule | None = None
    if contents.table:
        schedule, steps = Discrete(contents.table), len(contents.table)
    elif flags.get("noise_schedule") == "cosine":
        schedule = SquaredCosine(steps)
    elif flags.get("noise_schedule") == "linear":
        schedule = Linear(1e-4 * 1000 / steps, 0.02 * 1000 / steps, steps)
    return Convention(schedule, x0 if flags.get("predict_xstart") else eps, Timesteps(steps))


def architecture(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    """The arguments of the U-Net that names and shapes of its weights tell."""

    def width(name: str, axis: int = 0) -> int:
        if name not in state:
            refuse(path, f"lacks {shown(name)!r} of OpenAI's U-Net")
        return state[name].shape[axis]

    channels = width("time_embed.0.weight", 1)
    inputs = {int(match[1]) for name in state if (match := re.match(r"input_blocks\.(\d+)\.", name))}
    ups = [
        int(m[1])
        for name in state
        if (m := re.match(r"output_blocks\.(\d+)\.[12]\.(?:conv|in_layers\.0)\.weight", name))
    ]
    holes = [i for i in range(max(inputs)) if i not in inputs]  # a pooling has no weights
    blocks = min(ups) if ups else (holes[0] - 1 if holes else max(inputs))
    firsts = range(1, max(inputs) + 1, blocks + 1)  # of every level
    mult = tuple(width(f"input_blocks.{i}.0.in_layers.2.weight") / channels for i in firsts)
    first = "input_blocks.1.0."
    return {
        "in_channels": width("input_blocks.0.0.weight", 1),
        "model_channels": channels,
        "out_channels": width("out.2.weight"),
        "num_res_blocks": blocks,
        "attention_resolutions": tuple(
            2**level for level, i in enumerate(firsts) if f"input_blocks.{i}.1.qkv.weight" in state
        ),
        "channel_mult": tuple(int(m) if m == int(m) else m for m in mult),
        "conv_resample": not holes,
        "num_classes": state["label_emb.weight"].shape[0] if "label_emb.weight" in state else None,
        "use_scale_shift_norm": width(first + "emb_layers.1.weight") == 2 * width(first + "in_layers.2.weight"),
        "resblock_updown": any(re.match(r"output_blocks\.\d+\.[12]\.in_layers", name) for name in state),
    }
