"""Averaged weights: where training scripts keep them, and which name of the network each of them has.

They are beside the network's weights (under "ema", "model_ema", "swa_model", a callback's name), among them (by a
prefix such as "ema_model."), under the network's names, under names that an outer module makes longer, without dots,
or as a list in the order of the parameters. Whatever is there and cannot be used is said.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import shown
from .refusal import refuse

WORDS = {"ema", "emas", "swa", "average", "averaged", "averaging", "shadow", "polyak"}
COPIES = {"collected", "backup"}  # of the raw weights, kept while the averages are in use
COUNTS = {"n_averaged", "initted", "step", "decay", "num_updates", "update_after_step"}  # beside averages
DEEPEST = 4  # the parts of a name, or of a file, among which the word is looked for
FIXED = re.compile(r"(^|\.)(sigmas|running_mean|running_var|num_batches_tracked)$")


def words(key: object) -> set[str]:
    """The words of a name: of "EMACallback", "model_ema" or "state_dict.ema" alike."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", str(key))}


def tensors_of(value: Any) -> dict[str, Tensor] | None:
    """A dictionary's values that are tensors, or None where there are none."""
    if not isinstance(value, Mapping):
        return None
    return {str(name): tensor for name, tensor in value.items() if isinstance(tensor, Tensor)} or None


def averages(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Tensor] | list[Tensor]]]:
    """Every state dict, and every list of tensors, under a name that says that it is averaged, with the name."""
    known = any(words(key) & WORDS for key in place)
    tensors = tensors_of(value) or {}
    if known and any(tensor.ndim for tensor in tensors.values()):
        yield ".".join(place), tensors
    elif known and isinstance(value, list) and value and all(isinstance(item, Tensor) for item in value):
        yield ".".join(place), value
    elif len(place) < DEEPEST and isinstance(value, (Mapping, list)) and "param_groups" not in value:
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value[:8]):
            if not words(key) & COPIES and not isinstance(item, Tensor):
                yield from averages(item, (*place, str(key)))


def divided(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The raw and the averaged weights of a state dict that holds both, the averaged ones without the word.

    A part of the network may have such a name itself: what has no raw weights beside it stays.
    """
    raw: dict[str, Tensor] = {}
    averaged: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts[: min(DEEPEST, len(parts)) - 1]) if words(part) & WORDS), None)
        if place is None:
            raw[name] = tensor
        else:
            averaged[".".join(parts[:place] + parts[place + 1 :])] = tensor
    counts = {name for name in raw if name.rpartition(".")[2] in COUNTS and not raw[name].ndim}
    if averaged and "n_averaged" not in raw:
        raw = {name: tensor for name, tensor in raw.items() if name not in counts}
    if "n_averaged" in raw:  # torch's AveragedModel holds averages alone
        return {}, {name: tensor for name, tensor in state.items() if name not in counts}
    if raw and 2 * len(placed(raw, averaged)) < len(raw):
        return dict(state), {}
    return raw, {name: tensor for name, tensor in averaged.items() if name.rpartition(".")[2] not in COUNTS}


def begun(state: Mapping[str, Tensor]) -> bool:
    """Whether the counts beside averages tell that there was something to average."""
    counts = [tensor for name, tensor in state.items() if name.rpartition(".")[2] in ("n_averaged", "initted")]
    return all(bool(tensor.any()) for tensor in counts)


def placed(raw: Mapping[str, Tensor], averaged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averages by the names of the raw weights, as many as can be; modules around either make its names longer."""
    flat = not any("." in name for name in averaged)  # as latent diffusion's averages are
    best: dict[str, Tensor] = {}
    for front in fronts(averaged, common=True):
        inner = {name.removeprefix(front): tensor for name, tensor in averaged.items()}
        for outer in fronts(raw):
            names = [name.removeprefix(outer) for name in raw if name.startswith(outer)]
            keys = {name.replace(".", "") if flat else name: outer + name for name in names}
            matched = {keys[key]: tensor for key, tensor in inner.items() if key in keys}
            matched = {name: tensor for name, tensor in matched.items() if tensor.shape == raw[name].shape}
            if len(matched) > len(best):
                best = matched
            if len(best) == len(averaged):
                return best
    return best


def fronts(state: Mapping[str, Tensor], common: bool = False) -> list[str]:
    """What names begin with, up to two parts of them, the shortest first; `common` if all have to."""
    pieces = [name.split(".") for name in state]
    beginnings = {".".join([*parts[:count], ""]) for parts in pieces for count in (1, 2) if len(parts) > count}
    return ["", *sorted((f for f in beginnings if not common or all(name.startswith(f) for name in state)), key=len)]


def listed(network: Mapping[str, Tensor], shadow: list[Tensor]) -> dict[str, Tensor]:
    """Averages as a list of the trained parameters in the order of the state dict, by name; {} where they differ."""
    names = list(network)
    if len(names) != len(shadow):  # Fourier features are a vector W and are not trained, other W are matrices and are
        names = [n for n in network if not FIXED.search(n) and not (n.endswith(".W") and network[n].ndim == 1)]
    if len(names) != len(shadow) or any(
        not isinstance(tensor, Tensor) or tensor.shape != network[name].shape
        for name, tensor in zip(names, shadow, strict=True)
    ):
        return {}
    return dict(zip(names, shadow, strict=True))


def unread(content: Mapping[str, Any], read: Mapping[str, Tensor], known: Iterable[str]) -> tuple[str, ...]:
    """A note on other weights of the same names and shapes, averages perhaps, whose key does not tell what they are."""
    shapes = {name: tensor.shape for name, tensor in read.items()}
    others = [
        shown(str(key))
        for key, value in content.items()
        if key not in known and {name: z.shape for name, z in (tensors_of(value) or {}).items()} == shapes
    ]
    what = f"other weights of the network under {' and '.join(others)} were not read: rename what is averaged to ema"
    return (what,) if others else ()


def choose(available: tuple[str, ...], wanted: str, path: str | Path) -> str:
    """The weights to take: averaged ones where there are any, raw ones only if they are there."""
    if wanted == "raw" and available == ("ema",):
        refuse(path, "holds averaged weights only: ask for --weights ema")
    return wanted if wanted in available else available[0]
