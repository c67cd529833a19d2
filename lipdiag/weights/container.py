"""What training scripts wrap around a network's weights, taken off: which weights, averaged or raw, without prefixes.

Nothing is guessed: a prefix goes only if every name has it, and averaged weights count only if they cover all the raw
ones. What is no network at all (an adapter, an autoencoder, a quantised or compiled copy) is named.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..files import shown
from .averages import averages, begun, choose, divided, listed, placed, tensors_of, unread
from .facts import plain, plain_facts
from .refusal import refuse

RAW = (
    "model", "state_dict", "net_model", "net", "unet", "module", "params", "model_state_dict", "model_state", "network",
    "denoiser", "score_model",
)  # fmt: skip
OUTER = (*RAW, "checkpoint", "ckpt", "state", "weights")  # around a dictionary of these
PREFIXES = (
    "module.",
    "_orig_mod.",
    "_forward_module.",
    "_fsdp_wrapped_module.",
    "model.diffusion_model.",
    "ema_model.model.",
    "ema_model.",
    "model.",
    "unet.",
    "inner_model.",
    "base_model.model.",  # of peft, around a network into which its adapters are merged
)
# Parts of names that wrappers put in anywhere: of torch.compile, FSDP, checkpointing, Fabric, and ema_pytorch.
WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module|_forward_module|"
    r"online_model)\."
)
LIGHTNING = {"pytorch-lightning_version", "hyper_parameters", "callbacks", "loops", "optimizer_states", "lr_schedulers"}
ARGUMENTS = ("hyper_parameters", "hparams", "config", "args")
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
        arguments: The plain part of what the trainer kept of its network's and its own arguments.
    """

    state: dict[str, Tensor]
    weights: str
    available: tuple[str, ...]
    container: str = ""
    table: tuple[float, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)


def open_container(content: Mapping[str, Any], weights: str, path: str | Path) -> Contents | None:
    """The network in what a file holds, or None where that is nothing this knows.

    Raises:
        CheckpointError: If the file is no diffusion network, or holds half of one.
    """
    tensors, outer = tensors_of(content), first(content, OUTER)
    if tensors and len(tensors) == len(content):
        return bare(tensors, weights, path)
    if tensors_of(outer) is None and isinstance(first(outer or {}, RAW), dict):
        return open_container({**content, **dict.fromkeys(OUTER), **(outer or {})}, weights, path)
    raw, by_place = tensors_of(first(content, RAW)), dict(averages(content))
    current = tensors_of(content.get("current_model_state"))
    if current and raw:  # Lightning's callback WeightAveraging keeps the averages where the weights were
        raw, by_place = current, {"state_dict": raw}
    if raw is None and not any(isinstance(state, dict) for state in by_place.values()):
        return None
    refuse_others(raw or {}, path)
    smooth = next(filter(None, map(tensors_of, by_place.values())), None)
    if raw is not None and any(name.startswith("model.diffusion_model.") for name in raw):
        return latent_diffusion(raw, weights, path, smooth)
    if raw is not None and any(name.startswith("shadow_params.") for name in raw):
        return flow_matching(raw, weights, path)
    if raw is not None and set(TABLE) <= set(raw):
        return lucidrains(raw, smooth, weights, path)
    if raw is not None and any(name.startswith("unets.0.") for name in raw):
        return imagen(raw, smooth, weights, path)
    name = script(content)
    if name == "training" and any(place.endswith("ema.shadow_params") for place in by_place):
        name = "score_sde"
    facts = plain_facts(content.get("args")) | plain_facts(first(content, ("config",)), "model")
    contents = together(raw, by_place, weights, path, name, facts, attribute=bool(LIGHTNING & set(content)))
    contents.arguments = plain(first(content, ARGUMENTS) or {})
    if raw is not None and contents.weights == "raw" and weights != "raw":
        contents.notes += unread(content, raw, RAW)
    return contents


def bare(tensors: dict[str, Tensor], weights: str, path: str | Path) -> Contents:
    """A state dict without anything around it."""
    refuse_others(tensors, path)
    if any(name.startswith("model.diffusion_model.") for name in tensors):
        return latent_diffusion(tensors, weights, path)
    if set(TABLE) <= set(tensors):
        return lucidrains(tensors, None, weights, path)
    contents = together(tensors, {}, weights, path)
    if contents.available == ("raw",):
        contents.available = ("as stored",)
        contents.weights = choose(contents.available, weights, path)
    return contents


def together(
    raw: dict[str, Tensor] | None,
    by_place: dict[str, Any],
    weights: str,
    path: str | Path,
    container: str = "",
    facts: dict[str, Any] | None = None,
    attribute: bool = False,
) -> Contents:
    """Raw weights and the averages that were found beside them, or are among them, without what is around either."""
    whole = raw or {}
    raw, inner = divided(whole)
    by_place = dict(by_place) | ({"its own names": inner} if inner else {})
    notes: tuple[str, ...] = ()
    for counted in (whole, *by_place.values()):
        if weights == "ema" and isinstance(counted, dict) and not begun(counted):
            refuse(path, "holds averages that were never begun, as their counts tell: ask for --weights raw")
    if raw:
        raw, notes = stripped(raw, attribute)
        raw = unwrapped(raw)
    if weights != "raw" and len(by_place) > 1:
        refuse(
            path,
            f"holds {len(by_place)} averages, under {' and '.join(shown(place) for place in by_place)}: keep the one "
            "to be measured under the key ema, or ask for --weights raw",
        )
    smooth: dict[str, Tensor] | None = None
    for averaged in by_place.values():
        more: tuple[str, ...] = ()
        if isinstance(averaged, dict):
            rest, smooth = divided(unwrapped(averaged))
            smooth = smooth or rest
            if not raw:
                smooth, more = stripped(smooth, attribute)
        elif raw:
            named, more = listed(raw, averaged), ("averaged weights from a list in the order of the names",)
            if not named and weights == "ema":
                half(path, f"{len(averaged)} averaged weights for {len(raw)} names")
            smooth = raw | named if named else None
        notes = (*notes, *more)
    return pair(raw or None, smooth, weights, path, container, notes, facts=facts)


def lucidrains(raw: dict[str, Tensor], smooth: dict[str, Tensor] | None, weights: str, path: str | Path) -> Contents:
    """denoising-diffusion-pytorch's layout: the schedule's buffers beside the network."""
    averaged = None if smooth is None else inside(smooth, ("ema_model.model.", "model."))
    table, facts = betas(raw, path), objective(raw)
    name = "denoising-diffusion-pytorch"
    return pair(inside(raw, ("model.",)), averaged, weights, path, name, table=table, facts=facts)


def imagen(raw: dict[str, Tensor], smooth: dict[str, Tensor] | None, weights: str, path: str | Path) -> Contents:
    """imagen-pytorch's layout: a cascade of U-Nets by number, of which the first draws and the others enlarge."""
    averaged = None if smooth is None else inside(smooth, ("0.ema_model.", "0."))
    notes = (f"the first of {len({name.split('.')[1] for name in raw if name.startswith('unets.')})} U-Nets",)
    return pair(inside(raw, ("unets.0.",)), averaged, weights, path, "imagen-pytorch", notes)


def latent_diffusion(
    raw: dict[str, Tensor], weights: str, path: str | Path, beside: dict[str, Tensor] | None = None
) -> Contents:
    """CompVis's layout: the U-Net among an autoencoder and a text encoder, its averages under names without dots."""
    network = inside(raw, ("model.diffusion_model.",))
    flat = {"model_ema.diffusion_model" + name.replace(".", ""): name for name in network}
    averaged = {flat[name]: tensor for name, tensor in raw.items() if name in flat}
    others = sorted({name.partition(".")[0] for name in raw} - {"model", "model_ema", *TABLE})
    known = [name for name in others if name in ("first_stage_model", "cond_stage_model", "conditioner")]
    notes = (
        (f"the file's {' and '.join(known)} were left out: data are latents, text is given as embeddings",)
        if known
        else ()
    )
    table = betas(raw, path) if "betas" in raw else ()
    return pair(network, averaged or beside, weights, path, "latent diffusion", notes, table=table)


def flow_matching(raw: dict[str, Tensor], weights: str, path: str | Path) -> Contents:
    """flow_matching's layout: the averages beside the network, numbered in the order of its names."""
    network = inside(raw, ("model.",))
    numbers = sorted((name for name in raw if name.startswith("shadow_params.")), key=lambda name: (len(name), name))
    return together(network, {"shadow_params": [raw[name] for name in numbers]}, weights, path, "flow_matching")


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
        here = placed(raw, averaged)
        if not here and weights == "ema":
            theirs, ours = shown(min(averaged, key=len)), shown(min(raw, key=len))
            refuse(
                path,
                f"holds averages whose names or shapes are none of the network's, such as {theirs!r} where that has "
                f"{ours!r}: ask for --weights raw, or rename them",
            )
        lacking = sorted(name for name, tensor in raw.items() if name not in here and tensor.is_floating_point())
        if lacking and weights == "ema":
            half(path, f"averaged weights for {len(here)} of {len(raw)} names", f"; {shown(lacking[0])!r} is missing")
        averaged = None if lacking else raw | here  # buffers are not averaged
    states = {name: state for name, state in (("ema", averaged), ("raw", raw)) if state is not None}
    chosen = choose(tuple(states), weights, path)
    return Contents(states[chosen], chosen, tuple(states), container, table, facts or {}, notes)


def half(path: str | Path, what: str, lacking: str = "") -> NoReturn:
    """Refuse averages that are not those of the whole network."""
    refuse(path, f"holds {what}, half a network{lacking}: ask for --weights raw")


def first(content: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((content[name] for name in names if isinstance(content.get(name), dict)), None)


def inside(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The part of a state dict under the first prefix that is there, without it."""
    for prefix in prefixes:
        part = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if part:
            return part
    return dict(state)


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the parts of its names that wrappers put in, where that makes no two names one."""
    bare_names = {WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    return bare_names if len(bare_names) == len(state) else dict(state)


def stripped(state: dict[str, Tensor], attribute: bool = False) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A state dict without the prefixes that all of its names have, and a note on them.

    Args:
        state: The weights.
        attribute: Whether the first part of all names is what a trainer calls its network, whatever it is.
    """
    taken, own = "", next(iter(state)).partition(".")[0] + "."
    known = (*PREFIXES, own) if attribute else PREFIXES
    while prefix := next((p for p in known if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        taken, known = taken + prefix, PREFIXES
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
    if any("_flat_param" in name for name in names):
        refuse(path, "holds flat parameters of FSDP's shards, not a network's: save its full state dict")
    if any(re.search(r"lora_(A|B|up|down|unet)|lora\.(up|down)|hada_w1", name) for name in names):
        refuse(
            path, "is a LoRA adapter, not a network: call it lora.safetensors and give its model by --original-config"
        )
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
        refuse(path, "is a text or picture encoder, not a diffusion network: give the network")
    if any(name.removeprefix("model.").startswith("pixel_embedding.") for name in names):
        refuse(path, "is a discrete flow over tokens, which has no noise to predict: give a model of continuous data")
    if any(name.startswith(("controlnet_cond_embedding.", "control_model.")) for name in names):
        refuse(path, "is a ControlNet, not a diffusion network: give the network it controls")
