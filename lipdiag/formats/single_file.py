"""A network alone in one file, in its first authors' layout or in diffusers' own; a local folder describes it.

The description is a folder as diffusers' save_pretrained writes it, of which only unet/config.json (or transformer/)
and scheduler/ are read. Names are translated by diffusers' own converters, which are pure functions of the state dict;
nothing is ever asked of the internet.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..diffusion.clock import Timesteps
from ..diffusion.convention import Convention
from ..diffusion.schedule import Discrete, Table, ZeroTerminalSNR
from ..diffusion.spelling import spell
from ..files import read_json, shown
from ..weights.container import Contents
from ..weights.refusal import refuse
from . import diffusers_directory, openai
from .checkpoint import Checkpoint, file_digest

# diffusers' converters from the original names, by the class of the network
CONVERTERS = {
    "UNet2DConditionModel": "convert_ldm_unet_checkpoint",
    "SD3Transformer2DModel": "convert_sd3_transformer_checkpoint_to_diffusers",
    "FluxTransformer2DModel": "convert_flux_transformer_checkpoint_to_diffusers",
    "SanaTransformer2DModel": "convert_sana_transformer_to_diffusers",
    "AuraFlowTransformer2DModel": "convert_auraflow_transformer_checkpoint_to_diffusers",
    "Lumina2Transformer2DModel": "convert_lumina2_to_diffusers",
}
# the embedding of time, which every network of diffusers' has, under a name that others' networks do not have
OWN = re.compile(r"(.+\.)?(time_embedding|timestep_embedder|time_step_proj)\.linear_1\.weight")
ORIGINAL = ("double_blocks.", "joint_blocks.", "double_layers.", "cap_embedder.", "attention_y_norm.")
SAME = 1e-4  # relative: tables of betas that differ by less were rounded differently


class Fused(NamedTuple):
    """A layer that an original has in one piece.

    Attributes:
        names: Of its weight and bias.
        parts: Diffusers' names of the pieces.
        rows: Of the published models, which alone diffusers' converter can cut.
    """

    names: re.Pattern[str]
    parts: tuple[str, ...]
    rows: int


SINGLE = "single_transformer_blocks.{block}."
FUSED = {
    "FluxTransformer2DModel": Fused(
        re.compile(r"single_blocks\.(?P<block>\d+)\.linear1\.(?P<kind>\w+)"),
        tuple(f"{SINGLE}{part}.{{kind}}" for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")),
        21504,
    ),
    "Lumina2Transformer2DModel": Fused(
        re.compile(r"(?P<block>\w+\.\d+)\.attention\.qkv\.(?P<kind>\w+)"),
        tuple(f"{{block}}.attn.{part}.{{kind}}" for part in ("to_q", "to_k", "to_v")),
        3840,
    ),
}


def recognizes(contents: Contents) -> bool:
    """Whether the names are those of a text-to-image network, original or diffusers'."""
    state = contents.state
    text = any(re.match(r"(input|output)_blocks\.\d+\.1\.transformer_blocks", name) for name in state)
    return (
        text
        or contents.container == "latent diffusion"
        or is_diffusers(state)
        or any(name.startswith(ORIGINAL) for name in state)
    )


def is_diffusers(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are diffusers' own."""
    return any(OWN.fullmatch(name) for name in state)


def read(contents: Contents, path: Path, original_config: str | Path | None) -> Checkpoint:
    """The network described by a local folder, with the weights of the file.

    Raises:
        CheckpointError: If the folder is not given, or is not of this network.
    """
    if contents.container == "latent diffusion" and openai.recognizes(contents.state):
        return openai.read(contents, path, original_config)  # without text latent diffusion's U-Net is OpenAI's
    if original_config is None:
        refuse(
            path,
            "holds a network without its description: give --original-config DIR, a local diffusers folder of the same "
            "model, of which config.json in unet/ or transformer/ and scheduler/scheduler_config.json are read",
        )
    place = Path(original_config)
    folder = next(
        (place / part for part in diffusers_directory.PARTS if (place / part / "config.json").is_file()), place
    )
    config = read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    state = contents.state
    kind = "diffusers' network in one file"
    if not is_diffusers(state):
        state, kind = converted(state, name, config, path), "one file in the original layout"
    digests = {path.name: file_digest(path)}
    checkpoint = diffusers_directory.described(path, folder, kind, state, digests, contents.weights, contents.available)
    convention, notes = of_the_file(contents.table, checkpoint.convention)
    return replace(checkpoint, convention=convention, notes=(*contents.notes, *notes, *checkpoint.notes))


def of_the_file(table: tuple[float, ...], stated: Convention) -> tuple[Convention, tuple[str, ...]]:
    """Schedule and clock by the betas in the file itself, where the folder's schedule is another one, and a note.

    A schedule that the folder rescales to zero terminal SNR stands: the file keeps the betas before that.
    """
    schedule = stated.schedule
    if not table or isinstance(schedule, ZeroTerminalSNR):
        return stated, ()
    betas = torch.tensor(table, dtype=torch.float64, device="cpu")
    of_folder = schedule.betas if isinstance(schedule, Table) else betas[:0]
    if of_folder.shape == betas.shape and torch.allclose(of_folder, betas, rtol=SAME, atol=0):
        return stated, ()
    own = replace(stated, schedule=Discrete(table), clock=Timesteps(len(table)))
    if schedule is None:
        return own, ()
    return own, (f"the schedule is the file's own, its betas are not those of {shown(spell(schedule))}",)


def converted(state: Mapping[str, Tensor], name: str, config: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights under diffusers' names."""
    if name not in CONVERTERS:
        refuse(
            path, f"has the original layout, which cannot be translated for the class {shown(name)!r}: use --factory"
        )
    from diffusers.loaders import single_file_utils

    convert: Callable[..., dict[str, Tensor]] = getattr(single_file_utils, CONVERTERS[name])
    try:
        if name == "UNet2DConditionModel":
            prefixed = {f"model.diffusion_model.{key}": tensor for key, tensor in state.items()}
            return convert(prefixed, {"layers_per_block": 2, **config})
        pieces = cut(state, name, config)
        return convert({key: placeholder(key, tensor, name) for key, tensor in state.items()}) | pieces
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        refuse(
            path, f"does not fit the {name} that the folder describes ({shown(error) or type(error).__name__})", error
        )


def cut(state: Mapping[str, Tensor], name: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The pieces of fused layers, under diffusers' names, at the sizes that the config tells."""
    if name not in FUSED:
        return {}
    names, parts, _ = FUSED[name]
    heads = config["num_attention_heads"]
    width = config["attention_head_dim"] if "attention_head_dim" in config else config["hidden_size"] // heads
    keys = width * (config.get("num_kv_heads") or heads)
    weights: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if match := names.fullmatch(key):
            sizes = [width * heads, keys, keys, len(tensor) - width * heads - 2 * keys][: len(parts)]
            pieces = tensor.split(sizes)
            weights |= {part.format(**match.groupdict()): piece for part, piece in zip(parts, pieces, strict=True)}
    return weights


def placeholder(key: str, tensor: Tensor, name: str) -> Tensor:
    """The tensor itself, or for a fused layer an empty one with the rows that diffusers' converter cuts."""
    if name in FUSED and FUSED[name].names.fullmatch(key):
        return tensor.new_empty(FUSED[name].rows, 0)
    return tensor
