"""What training scripts wrap around a network's weights, taken off: which weights, averaged or raw, without prefixes.

Nothing is guessed: a prefix goes only if every name has it, and averaged weights count only if they cover all the raw
ones. What is no network at all (an adapter, an autoencoder, a quantised or compiled copy) is named.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipdiag.files import shown
from lipdiag.training.checkpoint import choose
from lipdiag.training.tensors import refuse

RAW = ("model", "state_dict", "net_model", "net", "unet", "module", "params")
EMA = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "params_ema")
PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.diffusion_model.",
    "ema_model.model.",
    "ema_model.",
    "model.",
    "unet.",
    "inner_model.",
)
TABLE = ("betas", "alphas_cumprod")


@dataclass
class Contents:
    """A network's weights as they are, and what was found around them.

    Attributes:
        state: The weights that were asked for, under the network's own names.
        weights: "ema", "raw" or "as stored".
        available: Which there are.
        container: What training script wrote the file, in words; empty for a bare state dict.
        table: The schedule's betas, where the file holds them.
        facts: What else the file tells about its training.
        notes: What was taken off.
    """

    state: dict[str, Tensor]
    weights: str
    available: tuple[str, ...]
    container: str = ""
    table: tuple[float, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_container(content: Mapping[str, Any], weights: str, path: str | Path) -> Contents | None:
    """The network in what a file holds, or None where that is nothing this knows.

    Raises:
        CheckpointError: If the file is no diffusion network, or holds half of one.
    """
    tensors = tensors_of(content)
    refuse_others(tensors or tensors_of(first(content, RAW)) or {}, path)
    if tensors and len(tensors) == len(content):
        return bare(tensors, weights, path)
    raw = tensors_of(first(content, RAW))
    if raw is None and not isinstance(first(content, EMA), dict):
        return None
    refuse_others(raw or {}, path)
    if raw is not None and any(name.startswith("model.diffusion_model.") for name in raw):
        return latent_diffusion(raw, weights, path)
    averaged = first(content, EMA)
    if raw is not None and isinstance(averaged, dict) and isinstance(averaged.get("shadow_params"), list):
        network = stripped(raw)[0]
        found = listed(network, averaged["shadow_params"], path)
        return pair(
            network, found, weights, path, "score_sde", ("averaged weights from a list in the order of the names",)
        )
    if raw is not None and any(name.startswith("shadow_params.") for name in raw):
        return flow_matching(raw, weights, path)
    smooth = tensors_of(averaged)
    if raw is not None and set(TABLE) <= set(raw):
        return lucidrains(raw, smooth, weights, path)
    notes: tuple[str, ...] = ()
    if raw is not None:
        raw, notes = stripped(raw)
    if smooth is not None:
        smooth, more = stripped(
            {k: v for k, v in smooth.items() if k not in ("initted", "step", "decay", "num_updates")}
        )
        notes = tuple(dict.fromkeys((*notes, *more)))
    facts = plain_facts(content.get("args")) | plain_facts(first(content, ("config",)), "model")
    return pair(raw, smooth, weights, path, script(content), notes, facts=facts)


def bare(tensors: dict[str, Tensor], weights: str, path: str | Path) -> Contents:
    """A state dict without anything around it."""
    if any(name.startswith("model.diffusion_model.") for name in tensors):
        return latent_diffusion(tensors, weights, path)
    if set(TABLE) <= set(tensors):
        return lucidrains(tensors, None, weights, path)
    state, notes = stripped(tensors)
    available = ("as stored",)
    return Contents(state, choose(available, weights, path), available, notes=notes)


def lucidrains(raw: dict[str, Tensor], smooth: dict[str, Tensor] | None, weights: str, path: str | Path) -> Contents:
    """denoising-diffusion-pytorch's layout: the schedule's buffers beside the network."""
    averaged = None if smooth is None else inside(smooth, ("ema_model.model.", "model."))
    table, facts = betas(raw, path), objective(raw)
    name = "denoising-diffusion-pytorch"
    return pair(inside(raw, ("model.",)), averaged, weights, path, name, table=table, facts=facts)


def latent_diffusion(raw: dict[str, Tensor], weights: str, path: str | Path) -> Contents:
    """CompVis's layout: the U-Net among an autoencoder and a text encoder, its averages under names without dots."""
    network = inside(raw, ("model.diffusion_model.",))
    flat = {"model_ema.diffusion_model" + name.replace(".", ""): name for name in network}
    found = {flat[name]: tensor for name, tensor in raw.items() if name in flat}
    others = sorted({name.partition(".")[0] for name in raw} - {"model", "model_ema", *TABLE})
    known = [name for name in others if name in ("first_stage_model", "cond_stage_model", "conditioner")]
    notes = (
        (f"the file's {' and '.join(known)} were left out: data are latents, text is given as embeddings",)
        if known
        else ()
    )
    table = betas(raw, path) if "betas" in raw else ()
    return pair(network, found or None, weights, path, "latent diffusion", notes, table=table)


def flow_matching(raw: dict[str, Tensor], weights: str, path: str | Path) -> Contents:
    """flow_matching's layout: the averages beside the network, numbered in the order of its names."""
    network = inside(raw, ("model.",))
    numbers = sorted((name for name in raw if name.startswith("shadow_params.")), key=lambda name: (len(name), name))
    found = listed(network, [raw[name] for name in numbers], path)
    notes = ("averaged weights from a list in the order of the names",)
    return pair(network, found, weights, path, "flow_matching", notes)


def pair(
    raw: dict[str, Tensor] | None,
    averaged: dict[str, Tensor] | None,
    weights: str,
    path: str | Path,
    container: str,
    notes: tuple[str, ...] = (),
    table: tuple[float, ...] = (),
    facts: dict[str, Any] | None = None,
) -> Contents:
    """Averaged and raw weights, of which one is taken."""
    if raw is not None and averaged is not None:
        lacking = sorted(name for name, tensor in raw.items() if name not in averaged and tensor.is_floating_point())
        if lacking and weights == "ema":
            refuse(
                path,
                f"holds averaged weights for {len(averaged)} of {len(raw)} names, half a network; "
                f"{shown(lacking[0])!r} is missing: ask for --weights raw",
            )
        averaged = None if lacking else raw | averaged  # buffers are not averaged
    states = {name: state for name, state in (("ema", averaged), ("raw", raw)) if state is not None}
    chosen = choose(tuple(states), weights, path)
    return Contents(states[chosen], chosen, tuple(states), container, table, facts or {}, notes)


def listed(network: dict[str, Tensor], shadow: list[Any], path: str | Path) -> dict[str, Tensor]:
    """Averages as a list of the trained parameters in the order of the state dict, without names."""
    fixed = re.compile(r"(^|\.)(sigmas|running_mean|running_var|num_batches_tracked)$")
    names = list(network)
    if len(names) != len(shadow):  # Fourier features are a vector W and are not trained, other W are matrices and are
        names = [n for n in network if not fixed.search(n) and not (n.endswith(".W") and network[n].ndim == 1)]
    averaged = dict(zip(names, shadow, strict=False))
    if len(names) != len(shadow) or any(
        not isinstance(tensor, Tensor) or tensor.shape != network[name].shape for name, tensor in averaged.items()
    ):
        words = f"{len(shadow)} averaged weights for {len(network)} names"
        refuse(path, f"holds {words}, half a network: ask for --weights raw")
    return network | averaged


def first(content: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((content[name] for name in names if isinstance(content.get(name), dict)), None)


def tensors_of(value: Any) -> dict[str, Tensor] | None:
    """A dictionary whose values are tensors, else None."""
    if not isinstance(value, Mapping) or not value:
        return None
    found = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}
    return found or None


def inside(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The part of a state dict under the first prefix that is there, without it."""
    for prefix in prefixes:
        found = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if found:
            return found
    return dict(state)


def stripped(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A state dict without the prefixes that all of its names have, and a note on them."""
    taken = ""
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        taken += prefix
    return state, (f"the prefix {taken} was dropped from every name",) if taken else ()


def betas(state: Mapping[str, Tensor], path: str | Path) -> tuple[float, ...]:
    """The schedule that a diffusion model keeps among its buffers."""
    values = state["betas"].double()
    if values.ndim != 1 or not bool(((values > 0) & (values <= 1)).all()):
        refuse(path, "holds betas that are no schedule")
    return tuple(values.tolist())


def objective(buffers: Mapping[str, Tensor]) -> dict[str, Any]:
    """What lucidrains' network predicts, by the weights of its loss: min(snr, gamma) over snr, 1 or snr + 1."""
    if not {"loss_weight", "alphas_cumprod"} <= set(buffers):
        return {}
    weight, signal = (buffers[name].double() for name in ("loss_weight", "alphas_cumprod"))
    snr = signal / (1 - signal)  # of float32 numbers near 1: three digits
    for name, over in (("pred_noise", snr), ("pred_x0", torch.ones_like(snr)), ("pred_v", snr + 1)):
        clipped = weight * over
        if weight.shape == snr.shape and torch.allclose(clipped, snr.clamp(max=clipped.max()), rtol=1e-2, atol=0):
            return {"objective": name}
    return {}


def plain_facts(value: Any, part: str | None = None) -> dict[str, Any]:
    """The numbers, lists of numbers and texts among a training script's arguments, or in a part of them."""
    if isinstance(value, Mapping) and part is not None:
        value = value.get(part)
    if not isinstance(value, Mapping):
        return {}
    plain = (bool, int, float, str)
    return {
        str(key): item
        for key, item in value.items()
        if isinstance(item, plain) or (isinstance(item, list) and all(type(size) is int for size in item))
    }


def script(content: Mapping[str, Any]) -> str:
    """Which training script writes such a dictionary."""
    keys = set(content)
    if {"model", "ema", "opt", "args"} <= keys:
        return "DiT or SiT"
    if {"model", "model_ema"} <= keys:
        return "k-diffusion"
    if {"net_model", "ema_model"} <= keys:
        return "torchcfm"
    if {"model", "optimizer", "lr_schedule", "args"} <= keys:
        return "flow_matching"
    return "training"


def refuse_others(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Name what is no diffusion network, and what to do with it."""
    names = list(state)
    if any(re.search(r"lora_(A|B|up|down|unet)|lora\.(up|down)|hada_w1", name) for name in names):
        refuse(path, "is a LoRA adapter, not a network: fuse it into its model and save that")
    quantised = r"scales|zeros|quant_state|qweight|weight_scale|_packed_params|absmax"
    if any(re.search(quantised, n) for n in names if not n.startswith("model_ema.")):  # to_q.weight is to_qweight there
        refuse(
            path, "holds quantised weights, whose derivatives are not the network's: give the unquantised checkpoint"
        )
    if names and all(
        re.match(r"(first_stage_model\.)?(encoder|decoder|quant_conv|post_quant_conv)\.", n) for n in names
    ):
        refuse(path, "is an autoencoder (VAE), not a diffusion network: give the network; data are given as latents")
    if names and all(re.match(r"(text_model|vision_model|transformer\.text|cond_stage_model)\b", n) for n in names):
        refuse(path, "is a text or picture encoder, not a diffusion network: lipdiag never loads one")
    if any(name.removeprefix("model.").startswith("pixel_embedding.") for name in names):
        refuse(path, "is a discrete flow over tokens, which has no noise to predict: give a model of continuous data")
    if any(name.startswith(("controlnet_cond_embedding.", "control_model.")) for name in names):
        refuse(path, "is a ControlNet, not a diffusion network: give the network it controls")
