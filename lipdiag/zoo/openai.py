"""OpenAI's U-Net (improved- and guided-diffusion, consistency models, torchcfm): its shape, read from its weights.

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

from lipdiag.diffusion.clock import LogSigma, Reversed, Timesteps, Unit
from lipdiag.diffusion.parameterization import Edm
from lipdiag.diffusion.schedule import Discrete, Karras, Linear, Normalized, Schedule, SquaredCosine, Straight
from lipdiag.diffusion.spelling import spell
from lipdiag.training.checkpoint import Checkpoint, file_digest
from lipdiag.training.files import read_json, shown
from lipdiag.training.tensors import refuse
from lipdiag.zoo.container import Contents

GUIDED = {"noise_schedule": "linear", "diffusion_steps": 1000, "rescale_timesteps": False}
IMPROVED = {"noise_schedule": "cosine", "diffusion_steps": 4000, "rescale_timesteps": True, "num_heads": 4}
# (model_channels, channel_mult, num_res_blocks) of the published models -> the flags they were published with
PUBLISHED: dict[tuple[int, tuple[float, ...], int], dict[str, Any]] = {
    (192, (1, 2, 3, 4), 3): GUIDED
    | {"image_size": 64, "num_head_channels": 64, "use_new_attention_order": True, "noise_schedule": "cosine"},
    (256, (1, 1, 2, 3, 4), 2): GUIDED | {"image_size": 128, "num_heads": 4},
    (256, (1, 1, 2, 2, 4, 4), 2): GUIDED | {"image_size": 256, "num_head_channels": 64},
    (256, (0.5, 1, 1, 2, 2, 4, 4), 2): GUIDED | {"image_size": 512, "num_head_channels": 64},
    (128, (1, 2, 3, 4), 3): IMPROVED | {"image_size": 64},
    (128, (1, 2, 2, 2), 3): IMPROVED | {"image_size": 32},
    (128, (1, 1, 2, 2, 4, 4), 2): GUIDED | {"image_size": 256, "num_heads": 1},
}
FLAGS = {
    "image_size", "num_heads", "num_head_channels", "num_heads_upsample", "use_new_attention_order", "noise_schedule",
    "diffusion_steps", "rescale_timesteps", "timestep_respacing", "predict_xstart", "consistency", "sigma_min",
    "sigma_max", "sigma_data",
}  # fmt: skip


def recognizes(state: Mapping[str, Tensor]) -> bool:
    """Whether these are such a U-Net's weights, and no larger one's with text among its inputs."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"} <= set(state) and not any(
        "transformer_blocks" in name for name in state
    )


def read(contents: Contents, path: Path, original_config: str | Path | None) -> Checkpoint:
    """What the weights tell, completed by flags.

    Raises:
        CheckpointError: If the attention heads are neither published nor given.
    """
    state = contents.state
    shape = architecture(state, path)
    key = shape["model_channels"], shape["channel_mult"], shape["num_res_blocks"]
    published = {} if contents.container == "torchcfm" else PUBLISHED.get(key, {})
    given = read_flags(original_config)
    flags = published | given
    notes = list(contents.notes)
    if published and not given:
        told = ", ".join(f"{name} {value}" for name, value in published.items())
        notes.append(f"not in the file, but published for a model of this shape: {told}")
    attention = bool(shape["attention_resolutions"]) or "middle_block.1.qkv.weight" in state
    if attention and not {"num_heads", "num_head_channels"} & set(flags):
        refuse(
            path,
            "does not tell its attention heads: give --original-config FILE.json with num_heads or num_head_channels "
            "(and image_size, noise_schedule, diffusion_steps) as the model was trained",
        )
    heads = ("num_heads", "num_head_channels", "num_heads_upsample", "use_new_attention_order")
    config = shape | {name: flags[name] for name in heads if name in flags}
    size = flags.get("image_size")
    doubled = shape["out_channels"] == 2 * shape["in_channels"]
    notes += ["a learned variance was left out"] if doubled else []
    if flags.get("timestep_respacing"):
        notes.append("respacing picks timesteps when sampling; the model is told, and measured on, the original ones")
    inputs = {"y": torch.zeros(1, dtype=torch.long)} if shape["num_classes"] else {}
    notes += ["conditioned on y = 0 throughout"] if inputs else []
    steps = int(flags.get("diffusion_steps", 1000))
    schedule, parameterization, clock = convention(contents, flags, steps)
    return Checkpoint(
        path=str(path),
        kind=f"{contents.container or 'OpenAI'} file",
        network="UNetModel",
        network_config=config | {"image_size": size or 0},
        state=state,
        weights=contents.weights,
        available=contents.available,
        sha256=file_digest(path),
        schedule=schedule,
        parameterization=parameterization,
        clock=clock,
        shape=(shape["in_channels"], size, size) if type(size) is int else None,
        conditioning=inputs,
        timestep_factor=1000 / steps if flags.get("rescale_timesteps") else 1.0,
        notes=tuple(notes),
    )


def convention(contents: Contents, flags: Mapping[str, Any], steps: int) -> tuple[str | None, str | None, str | None]:
    """Schedule, parameterization and clock, spelled; None for what is not told."""
    if contents.container == "torchcfm":  # time 0 is noise, 1 data, and the network is told it as it is
        return spell(Straight()), "data_velocity", spell(Reversed(Unit()))
    if flags.get("consistency"):
        karras = Karras(float(flags.get("sigma_min", 0.002)), float(flags.get("sigma_max", 80.0)))
        scale = float(flags.get("sigma_data", 0.5))
        return spell(Normalized(karras, scale)), spell(Edm(scale)), spell(LogSigma(karras, 250.0))
    prediction = "x0" if flags.get("predict_xstart") else "eps"
    schedule: Schedule | None = None
    if contents.table:
        schedule, steps = Discrete(contents.table), len(contents.table)
    elif flags.get("noise_schedule") == "cosine":
        schedule = SquaredCosine(steps)
    elif flags.get("noise_schedule") == "linear":
        schedule = Linear(1e-4 * 1000 / steps, 0.02 * 1000 / steps, steps)
    return None if schedule is None else spell(schedule), prediction, spell(Timesteps(steps))


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


def read_flags(path: str | Path | None) -> dict[str, Any]:
    """The flags of a training command, from a JSON file."""
    if path is None:
        return {}
    flags = read_json(path)
    strange = sorted(set(flags) - FLAGS)
    if strange:
        refuse(path, f"has the flag {shown(strange[0])!r}; those that matter are {', '.join(sorted(FLAGS))}")
    return flags
