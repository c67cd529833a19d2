"""A network in memory, and what its user says of its use, as a predictor: in the words of the command line, by
diffusers' objects, or by lipdiag's own."""

import math
from typing import Any

from torch import nn

from ..checkpoints.reading import Reading
from ..data.objects import as_data
from ..diffusion.convention import PARTS, Convention
from ..diffusion.predictor import NetworkPredictor, Predictor
from ..errors import Caution, UsageError
from ..formats.checkpoint import listed
from ..formats.conditioning import BLANKS, blank, of_class, summary
from ..formats.scheduler import stated

DENOISERS = ("unet", "transformer")
"""What diffusers' pipelines call the network that is measured."""

WORDS = (*PARTS, "shape", "conditioning", "label")
"""What may be said of a network in memory."""

KNOWN = (*WORDS, "function")
"""And of what is measured of it."""


def worded(model: Any, data: Any, words: dict[str, Any]) -> tuple[Any, Reading]:
    """A model and what is said of it in keywords: a network in memory becomes a predictor, of a path they are kept."""
    told = {name: word for name, word in words.items() if word is not None}
    whole = hasattr(model, "schedule") and hasattr(model, "shape")
    if not bare(model) or (whole and not set(told) & set(PARTS)):
        return model, Reading.of(**told)
    function = told.pop("function", "eps")
    return of_network(model, data, **told), Reading(function=function)


def bare(model: Any) -> bool:
    """Whether a model is a network, or a pipeline around one, of which has to be said how it is used."""
    if isinstance(model, Predictor | str) or hasattr(model, "__fspath__"):
        return False
    return isinstance(model, nn.Module) or piped(model) is not None or callable(model)


def piped(model: Any) -> nn.Module | None:
    """The network in one of diffusers' pipelines."""
    if not hasattr(model, "scheduler") or isinstance(model, nn.Module):
        return None
    found = [getattr(model, name, None) for name in DENOISERS]
    return next((part for part in found if isinstance(part, nn.Module)), None)


def of_network(model: Any, data: Any = None, **words: Any) -> NetworkPredictor:
    """A network, or a pipeline of diffusers, as a predictor.

    Args:
        model: The module, function or pipeline.
        data: x0, which tell the shape of a sample where nothing else does.
        words: `schedule`, `parameterization` and `clock`, each a text as on the command line or an object; as
            `schedule` one of diffusers' schedulers tells all three. `shape` of one sample, `conditioning`, further
            keyword arguments of the network, each a tensor with a leading dimension of 1, and `label`, a class. What a
            network of diffusers' is not told stands for no condition.

    Raises:
        UsageError: If something is not told, or cannot be understood.
    """
    strange = sorted(set(words) - set(WORDS))
    if strange:
        raise UsageError(f"{' and '.join(strange)} cannot be said of a network in memory: known are {', '.join(KNOWN)}")
    words = {name: word for name, word in words.items() if word is not None}
    network = piped(model)
    if network is None:
        network = model
    else:
        words = {"schedule": model.scheduler, **words}
    notes: tuple[str, ...] = ()
    if hasattr(words.get("schedule"), "config"):
        scheduler = words.pop("schedule")
        config = {"_class_name": type(scheduler).__name__, **scheduler.config}  # which only files name
        read = stated(config, type(network).__name__, getattr(network, "config", {}))
        notes = read.notes
        words = {name: part for name, part in read.convention.parts.items() if part is not None} | words
    convention = Convention.of(**{name: words.get(name) for name in PARTS})
    missing = [name for name in PARTS if name not in convention.parts]
    if missing:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise UsageError(
            f"a {type(network).__name__} in memory does not tell its {listed(missing)}{why}: give "
            f"{', '.join(f'{name}={EXAMPLES[name]!r}' for name in missing)}, or what else it was trained with"
        )
    shape = words.get("shape") or configured(network) or (None if data is None else as_data(data).shape)
    if shape is None:
        raise UsageError(
            f"a {type(network).__name__} in memory does not tell the shape of a sample: give shape=(3, 32, 32)"
        )
    inputs, said = conditioned(network, words.get("conditioning"), words.get("label"))
    made = NetworkPredictor(network, *convention.whole, tuple(shape), inputs)
    made.notes = (*notes, *said)
    made.classed = words.get("conditioning") is not None or words.get("label") is not None
    return made


def conditioned(
    network: Any, conditioning: dict[str, Any] | None, label: int | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a network is told beside x and the time, with what stands for no condition in one of diffusers'.

    Raises:
        UsageError: If it is told a class and does not know it.
    """
    bare = getattr(network, "_orig_mod", network)
    name, config, given = type(bare).__name__, getattr(bare, "config", {}), dict(conditioning or {})
    known = name in BLANKS and type(bare).__module__.startswith("diffusers.")
    blanks = blank(name, config)[0] if known else {}
    if label is not None:
        if not known:
            raise UsageError(
                f"got label={label}, and how a {name} in memory is told a class is not known: give it by the name of "
                f"its argument, conditioning={{'class_labels': torch.tensor([{label}])}}"
            )
        given |= of_class(label, blanks, config, f"the {name} in memory")
    left = {key: value for key, value in blanks.items() if key not in given}
    told = ", ".join(f"{key} = {summary(value)}" for key, value in left.items())
    return {**left, **given}, (Caution(f"conditioned on {told} throughout"),) if told else ()


EXAMPLES = {"schedule": "linear", "parameterization": "eps", "clock": "timesteps(1000)"}


def configured(network: Any) -> tuple[int, ...] | None:
    """The shape of a sample of one of diffusers' networks, by its configuration."""
    config = getattr(network, "config", {})
    channels, size = (config.get(name) if hasattr(config, "get") else None for name in ("in_channels", "sample_size"))
    if type(channels) is not int or size is None:
        return None
    sizes, outputs = (size, size) if type(size) is int else tuple(size), config.get("out_channels")
    if type(outputs) is int:  # what it sees beside x is no part of a sample
        channels = min(channels, outputs)
    return (channels, *sizes) if math.prod(sizes) > 0 else None
