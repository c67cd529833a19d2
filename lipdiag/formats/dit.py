"""DiT and SiT as their authors save them: names and shapes of the weights translated for diffusers' transformer.

The two are one network. DiT was trained to say the noise at one of 1000 timesteps, SiT to say the velocity of a path
from noise (time 0) to data (time 1). A file of train.py holds its arguments and so tells which it is; the published
files hold the weights alone and tell by their name. The number of attention heads follows from the published widths.

References:
    Peebles & Xie, Scalable Diffusion Models with Transformers, 2023. https://arxiv.org/abs/2212.09748
    Ma et al., SiT: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant Transformers, 2024.
    https://arxiv.org/abs/2401.08740
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..diffusion.clock import Timesteps
from ..diffusion.convention import FLOW, UNTOLD, Convention, flags
from ..diffusion.parameterization import Parameterization, data_velocity, eps, score
from ..diffusion.schedule import VP, Linear, Schedule, ShiftedCosine, Straight
from ..files import shown
from ..weights.container import Contents
from ..weights.refusal import refuse
from .checkpoint import Checkpoint, of_file, read_flags
from .conditioning import blank

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # by width: S, B, L, XL
FLAGS = ("model", "num_heads", "path_type", "prediction")
PATHS: dict[str, Schedule] = {"linear": Straight(), "gvp": ShiftedCosine(1.0), "vp": VP(0.1, 20.0)}
PREDICTIONS: dict[str, Parameterization] = {"velocity": data_velocity, "score": score, "noise": eps}
EMBEDDING = "transformer_blocks.0.norm1.emb."  # of time and class; diffusers' first block keeps it
LAYERS = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": f"{EMBEDDING}timestep_embedder.linear_1",
    "t_embedder.mlp.2": f"{EMBEDDING}timestep_embedder.linear_2",
    "y_embedder.embedding_table": f"{EMBEDDING}class_embedder.embedding_table",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
BLOCK_LAYERS = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}


def recognizes(contents: Contents) -> bool:
    """Whether these are such a transformer's weights."""
    layers = [f"{layer}.weight" for layer in (*LAYERS, "blocks.0.attn.qkv", "blocks.0.adaLN_modulation.1")]
    return {*layers, "pos_embed"} <= set(contents.state)


def read(contents: Contents, path: Path, original_config: str | Path | None) -> Checkpoint:
    """What weights and arguments tell, completed by flags.

    Raises:
        CheckpointError: If the network differs from the published ones in more than its size.
    """
    facts = contents.facts | read_flags(original_config, FLAGS)
    config = architecture(contents.state, facts, path)
    kind, how = which(facts, path)
    doubled = config["out_channels"] == 2 * config["in_channels"]
    inputs, input_notes = blank("DiT", config)
    notes = [
        *([how] if how else []),
        *(["a learned variance was left out"] if doubled else []),
        *(["data are latents of Stable Diffusion's VAE times 0.18215"] if config["in_channels"] == 4 else []),
        *input_notes,
    ]
    return of_file(
        contents,
        path,
        kind=f"{kind} file",
        network="DiT",
        network_config=config,
        state=renamed(contents.state, path),
        convention=convention(kind, facts, path),
        shape=(config["in_channels"], config["sample_size"], config["sample_size"]),
        conditioning=inputs,
        training=contents.facts,
        notes=tuple(notes),
    )


def which(facts: Mapping[str, Any], path: Path) -> tuple[str, str]:
    """DiT or SiT, and how that is known where the file's arguments do not say it."""
    named = re.match(r"(DiT|SiT)-", str(facts.get("model", "")))
    if named:
        return named[1], ""
    if {"path_type", "prediction"} & set(facts):
        return "SiT", ""
    match = re.search(r"(?<![a-z])([ds]it)(?![a-z])", path.name.lower())
    if match:
        kind = {"dit": "DiT", "sit": "SiT"}[match[1]]
        return kind, f"the weights do not tell DiT from SiT: taken as {kind} by the file's name"
    options = flags(UNTOLD, FLOW)
    return "DiT", f"the weights do not tell DiT from SiT: taken as DiT; if it is SiT, give {options}"


def convention(kind: str, facts: Mapping[str, Any], path: Path) -> Convention:
    """The way in which the network is used."""
    if kind == "DiT":
        return Convention(Linear(), eps, Timesteps(1000))
    trained, prediction = str(facts.get("path_type", "Linear")), str(facts.get("prediction", "velocity"))
    if trained.lower() not in PATHS or prediction not in PREDICTIONS:
        refuse(path, f"is a SiT of the path {shown(trained)!r} that predicts {shown(prediction)!r}: use --factory")
    return Convention(PATHS[trained.lower()], PREDICTIONS[prediction], FLOW.clock)


def architecture(state: Mapping[str, Tensor], facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The arguments of diffusers' class that names and shapes of the weights tell."""
    patches, places = state["x_embedder.proj.weight"], state["pos_embed"]
    if patches.ndim != 4 or places.ndim != 3 or patches.shape[2] != patches.shape[3]:
        refuse(path, "has patches or places of a shape that DiT's original does not have: use --factory")
    width, channels, patch, _ = patches.shape
    side = math.isqrt(places.shape[1])
    outputs, rest = divmod(len(state["final_layer.linear.weight"]), patch**2)
    if side**2 != places.shape[1] or rest or outputs not in (channels, 2 * channels):
        refuse(path, "has patches that make no square picture of its channels, as DiT's original does: use --factory")
    heads = facts.get("num_heads", HEADS.get(width))
    if type(heads) is not int or heads < 1 or width % heads:
        refuse(
            path,
            f"does not tell the attention heads of its width {width}, which is not among the published "
            f"{', '.join(map(str, HEADS))}: give --original-config FILE.json with num_heads",
        )
    return {
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": channels,
        "out_channels": outputs,
        "num_layers": 1 + max(int(block[1]) for name in state if (block := re.match(r"blocks\.(\d+)\.", name))),
        "sample_size": side * patch,
        "patch_size": patch,
        "num_embeds_ada_norm": len(state["y_embedder.embedding_table.weight"]) - 1,  # the last one is the null class
        "norm_eps": 1e-6,
    }


def renamed(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights under diffusers' names; q, k and v, which are one matrix in the original, apart."""
    weights: dict[str, Tensor] = {"pos_embed.pos_embed": state["pos_embed"]}
    for name in sorted(set(state) - {"pos_embed"}):
        layer, _, kind = name.rpartition(".")
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", layer)
        if layer in LAYERS:
            weights[f"{LAYERS[layer]}.{kind}"] = state[name]
        elif block and block[2] in BLOCK_LAYERS:
            weights[f"transformer_blocks.{block[1]}.{BLOCK_LAYERS[block[2]]}.{kind}"] = state[name]
        elif block and block[2] == "attn.qkv" and len(state[name]) % 3 == 0:
            for part, tensor in zip("qkv", state[name].chunk(3), strict=True):
                weights[f"transformer_blocks.{block[1]}.attn1.to_{part}.{kind}"] = tensor
        else:
            refuse(path, f"has {shown(name)!r}, which DiT's and SiT's originals do not have: use --factory")
    return weights
