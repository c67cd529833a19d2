"""What a network is told beside x and the time: saved tensors, a class, or what stands for "no condition".

Names are the keyword arguments of the network's own forward; `added_cond_kwargs/time_ids` is an entry of a dictionary.
Text is told as the embeddings that a text encoder made.
"""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..data.arrays import LARGEST_UNPACKED
from ..diffusion.predictor import CHANNELS, CLASS_INPUTS
from ..errors import Caution, UsageError
from ..files import open_regular, shown
from ..weights.tensors import read_tensors
from .checkpoint import Checkpoint
from .networks import NETWORKS

TOKENS = 77  # of an empty text for CLIP; others below
CLASSES = {
    "num_embeds_ada_norm": 1,
    "num_class_embeds": 0,
    "num_classes": 0,
    "label_dim": 0,
}  # in a config; the null classes after them
PIXELS = 8  # of a picture's side to one of its latents'


def blank(name: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The inputs that stand for "no condition" in a network of diffusers', and the note that says which they are.

    Args:
        name: The class.
        arguments: Of the class.
    """
    described = inspect.signature(NETWORKS[name]().__init__).parameters
    defaults = {key: p.default for key, p in described.items() if p.default is not inspect.Parameter.empty}
    make = BLANKS.get(name)
    inputs = {} if make is None else make({**defaults, **arguments})
    told = [f"{key} = {summary(value)}" for key, value in inputs.items()]
    return inputs, (Caution(f"conditioned on {', '.join(told)} throughout"),) if told else ()


def summary(value: Tensor) -> str:
    """A tensor in a few words."""
    if value.numel() == 1:
        return f"{value.item():g}"
    first = value.flatten()[0]
    if bool((value == first).all()):
        return f"{first.item():g} ({' x '.join(map(str, value.shape))})"
    return f"a tensor ({' x '.join(map(str, value.shape))})"


def unet_2d(config: Mapping[str, Any]) -> dict[str, Tensor]:
    classes = config["num_class_embeds"] or config["class_embed_type"]
    return {"class_labels": torch.zeros(1, dtype=torch.long)} if classes else {}


def unet_2d_condition(config: Mapping[str, Any]) -> dict[str, Tensor]:
    width = config["encoder_hid_dim"] or config["cross_attention_dim"]
    width = width if isinstance(width, int) else width[0]
    inputs = {"encoder_hidden_states": torch.zeros(1, TOKENS, width)}
    if config["class_embed_type"] in ("timestep", None) and config["num_class_embeds"]:
        inputs["class_labels"] = torch.zeros(1, dtype=torch.long)
    if config["addition_embed_type"] == "text_time":  # SDXL: the picture's size, the crop's corner, the target's size
        side = pixels(config)
        text = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        inputs["added_cond_kwargs/text_embeds"] = torch.zeros(1, text)
        inputs["added_cond_kwargs/time_ids"] = torch.tensor([[side, side, 0.0, 0.0, side, side]])
    return inputs


def dit(config: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"class_labels": torch.tensor([config["num_embeds_ada_norm"] or 1000])}


def pixart(config: Mapping[str, Any]) -> dict[str, Tensor]:
    inputs = {"encoder_hidden_states": torch.zeros(1, 120, config["caption_channels"] or config["cross_attention_dim"])}
    sized = config["use_additional_conditions"]
    if sized or (sized is None and config["sample_size"] == 128):
        inputs["added_cond_kwargs/resolution"] = torch.full((1, 2), pixels(config))
        inputs["added_cond_kwargs/aspect_ratio"] = torch.ones(1, 1)
    return inputs


def sd3(config: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        "encoder_hidden_states": torch.zeros(1, TOKENS, config["joint_attention_dim"]),
        "pooled_projections": torch.zeros(1, config["pooled_projection_dim"]),
    }


def flux(config: Mapping[str, Any]) -> dict[str, Tensor]:
    side = 64  # tokens of 2 x 2 latents along the side of a picture of 1024 pixels
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inputs = {
        "encoder_hidden_states": torch.zeros(1, 512, config["joint_attention_dim"]),
        "pooled_projections": torch.zeros(1, config["pooled_projection_dim"]),
        "txt_ids": torch.zeros(512, 3),
        "img_ids": torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).float(),
    }
    return inputs | ({"guidance": torch.tensor([3.5])} if config["guidance_embeds"] else {})


def sana(config: Mapping[str, Any]) -> dict[str, Tensor]:
    inputs = {"encoder_hidden_states": torch.zeros(1, 300, config["caption_channels"])}
    return inputs | ({"guidance": torch.tensor([4.5])} if config["guidance_embeds"] else {})


def aura_flow(config: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"encoder_hidden_states": torch.zeros(1, 256, config["joint_attention_dim"])}


def lumina2(config: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        "encoder_hidden_states": torch.zeros(1, 256, config["cap_feat_dim"]),
        "encoder_attention_mask": torch.ones(1, 256, dtype=torch.bool),
    }


def monai(config: Mapping[str, Any]) -> dict[str, Tensor]:
    width, classes = config["cross_attention_dim"], config["num_class_embeds"]
    inputs = {} if width is None else {"context": torch.zeros(1, 1, width)}
    return inputs if classes is None else inputs | {"class_labels": torch.zeros(1, dtype=torch.long)}


BLANKS = {
    "UNet1DModel": lambda config: {},
    "UNet2DModel": unet_2d,
    "UNet2DConditionModel": unet_2d_condition,
    "DiTTransformer2DModel": dit,
    "DiT": dit,
    "PixArtTransformer2DModel": pixart,
    "SD3Transformer2DModel": sd3,
    "FluxTransformer2DModel": flux,
    "SanaTransformer2DModel": sana,
    "AuraFlowTransformer2DModel": aura_flow,
    "Lumina2Transformer2DModel": lumina2,
    "monai.DiffusionModelUNet": monai,
}


def pixels(config: Mapping[str, Any]) -> float:
    """The side of the picture that a latent network was made for."""
    size = config["sample_size"]
    return float(PIXELS * (size if isinstance(size, int) else max(size or (128,))))


def class_count(config: Mapping[str, Any]) -> int | None:
    """How many classes a network with this config knows, without those that stand for none; None if it does not say."""
    return next((config[key] for key in CLASSES if type(config.get(key)) is int), None)


def given(checkpoint: Checkpoint, conditioning: str | Path | Mapping[str, Tensor] | None, label: int | None):
    """The checkpoint with the inputs that the user gives in place of the blank ones.

    Args:
        checkpoint: With blank inputs, whose names are what the network may be told.
        conditioning: A .safetensors, .npz or .pt file of tensors, or the tensors; each has a leading dimension of 1.
        label: A class, for a network that is told one.

    Raises:
        UsageError: If the network takes no such input.
        CheckpointError: If the file cannot be read.
    """
    inputs = read_inputs(conditioning)
    if label is not None:
        who = f"the {checkpoint.network} in {shown(checkpoint.path)}"
        inputs |= of_class(label, checkpoint.conditioning, checkpoint.network_config, who)
    if not inputs:
        return checkpoint
    known = set(inspect.signature(NETWORKS[checkpoint.network]().forward).parameters) - {"self"}
    known |= {CHANNELS} if checkpoint.beside else set()
    strange = sorted(name for name in inputs if name.partition("/")[0] not in known)
    if strange:
        raise UsageError(
            f"the conditioning has {shown(strange[0])!r}, which {checkpoint.network} does not take; it takes "
            f"{', '.join(sorted(known))}"
        )
    notes = tuple(note for note in checkpoint.notes if not note.startswith("conditioned on "))
    inputs = dict(checkpoint.conditioning) | inputs
    told = ", ".join(f"{name} = {summary(value)}" for name, value in inputs.items())
    shape = checkpoint.shape
    if "img_ids" in inputs and shape is not None:  # packed tokens: as many as have a place
        shape = (inputs["img_ids"].shape[0], shape[-1])
    return replace(checkpoint, conditioning=inputs, notes=(*notes, f"conditioned on {told} throughout"), shape=shape)


def of_class(label: int, told: Mapping[str, Any], config: Mapping[str, Any], who: str) -> dict[str, Tensor]:
    """The input by which a network is told a class.

    Args:
        label: The class.
        told: The network's blank inputs.
        config: The arguments of its class.
        who: What to call it.

    Raises:
        UsageError: If it is told none, or does not know this one.
    """
    name = next((name for name in CLASS_INPUTS if name in told), None)
    if name is None:
        raise UsageError(f"{who} is told no class: leave --label out")
    counts = [config[key] + null for key, null in CLASSES.items() if type(config.get(key)) is int]
    if label < 0 or (counts and label >= counts[0]):
        classes = f"0 to {counts[0] - 1}" if counts else "from 0 on"
        raise UsageError(f"{who} knows the classes {classes}: {label} is none of them")
    row, chosen = told[name], torch.tensor([label])
    return {name: one_hot(chosen, row.shape[1]).float() if row.ndim == 2 else chosen}


def read_inputs(path: str | Path | Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The tensors in a file of conditioning, by keyword; those that are given as tensors are taken as they are."""
    if not isinstance(path, str | Path):
        return dict(path or {})
    if Path(path).suffix == ".npz":
        with open_regular(path) as file:
            try:
                arrays = np.load(file, allow_pickle=False)
                packed, unpacked = file.seek(0, 2), sum(info.file_size for info in arrays.zip.infolist())
                if unpacked > packed + LARGEST_UNPACKED:
                    raise UsageError(f"it unpacks from {packed} bytes to {unpacked}: save it as .safetensors")
                tensors: dict[str, Any] = {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
            except Exception as error:  # a broken archive can fail in any way
                raise UsageError(f"cannot read the conditioning {shown(path)}: {shown(error)}") from error
    else:
        tensors = read_tensors(path)
    if not tensors or not all(type(name) is str and isinstance(value, Tensor) for name, value in tensors.items()):
        raise UsageError(f"the conditioning {shown(path)} holds something else than named tensors")
    floats = (torch.float16, torch.bfloat16, torch.float64)
    return {name.replace(".", "/"): v.float() if v.dtype in floats else v for name, v in tensors.items()}
