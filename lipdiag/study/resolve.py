"""What the words of a command stand for: a model, the data it is shown."""

import hashlib
import inspect
import re
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.reading import SILENT, Reading
from ..data.ranged import USUAL, ranged
from ..design.description import Source
from ..diffusion.clock import Timesteps
from ..diffusion.parameterization import eps
from ..diffusion.predictor import CHANNELS, CLASS_INPUTS, NetworkPredictor, Predictor, RawOutput, device_of
from ..diffusion.schedule import Table
from ..diffusion.spelling import spell
from ..errors import Caution, CheckpointError, UsageError
from ..files import shown
from ..store.layout import MOST_DRAWS

LARGEST_VALUE = 100.0
"""The largest value that x0 may have: pictures lie in [-1, 1] and latents within a few tens; 255 is a picture that was
not scaled."""

MODEL_STEPS = 50
"""Sampler steps for x0 drawn from the model itself, at most."""

MODEL_BATCH = 4
"""How many x0 are drawn from the model at once. It does not follow the micro-batch, since the last digits of a sample
depend on how many are drawn together. Four samples without derivatives take about the memory of one pair with them."""


def resolve_model(model: Any, reading: Reading = SILENT) -> Predictor:
    """A model from a path, the name of an embedded one, a Predictor, or any eps(x, t) with a schedule and shape.

    Args:
        model: The path, name or object; with a factory a path or None.
        reading: What the user tells of it.

    Returns:
        The predictor, which knows its data and notes.

    Raises:
        CheckpointError: If a checkpoint is refused.
        UsageError: If an object is neither, or something is told that cannot apply.
    """
    predictor = as_told(model, reading)
    if reading.function == "eps":
        return predictor
    raw = RawOutput(predictor)
    raw.notes = (*predictor.notes, "measured: the network's own output in its own input, in the place of eps")
    return raw


def as_told(model: Any, reading: Reading) -> Predictor:
    """The predictor of the noise."""
    from .. import checkpoints

    if isinstance(model, str | Path) or (model is None and reading.factory is not None):
        return checkpoints.predictor(model, reading)
    if reading.words:
        raise UsageError(
            f"a model in memory is measured as it is, so {' and '.join(reading.words)} cannot be given beside it: make "
            "the Predictor that way, or give the checkpoint's path"
        )
    if isinstance(model, Predictor):
        return model
    if callable(model) and hasattr(model, "schedule") and hasattr(model, "shape"):
        clock = getattr(model, "clock", Timesteps())
        return NetworkPredictor(model, model.schedule, eps, clock, tuple(model.shape))
    raise UsageError(
        f"cannot measure a {type(model).__name__}: give a path, a lipdiag.Predictor (NetworkPredictor wraps any "
        "network), or a callable eps(x, t) with attributes schedule and shape"
    )


def resolve_source(
    model: Predictor,
    data: Any,
    seed: int,
    encode: bool = False,
    resize: bool = False,
    range: tuple[float, float] = USUAL,
) -> Source:
    """Where x0 comes from: what is given, else the model's own record of its data, else samples of the model itself.

    Args:
        model: What is measured.
        data: What is given, or None.
        seed: Of the choice of data.
        encode: Whether the data are pictures of which the vae in the model's folder is to make latents.
        resize: Whether the pictures of a folder are made as large as the model's and cut to their centre.
        range: Where the black and the white of pictures of 8 bits lie.

    Raises:
        UsageError: If the data cannot be used, or are pictures where the model's x0 are latents.
    """
    from ..checkpoints.encoder import Latents, encoder, folder_of
    from ..data.dataset import LATENTS, dataset
    from ..data.objects import as_data

    shape = model.shape
    if encode:
        if data is None and model.data is None:
            raise UsageError("there is nothing to encode: give the pictures by --data, or leave --encode out")
        home = device_of(model)
        autoencoder = encoder(model.path, shape, home)
        shape = autoencoder.pictures
    if data is None and model.data is not None:
        with suppress(UsageError):  # the record names data that are not on this machine
            data = dataset(model.data, shape=shape, resize=resize)
    if data is None and (resize or range != USUAL):
        raise UsageError("there are no pictures to be resized or scaled: give them by --data")
    if data is None:
        lost = "" if model.data is None else f", since its data ({shown(model.data)}) are not here"
        return from_model(model, seed, lost)
    data = ranged(as_data(data, shape, resize), range)
    if encode:
        data = Latents(data, autoencoder)
    elif data.eight_bit and folder_of(model.path) is not None:
        raise UsageError(f"{data.name} holds pictures, and the model has a vae: {LATENTS}")
    return with_conditions(with_classes(from_data(data, seed), data, model, seed), data, model, seed)


def with_conditions(source: Source, data: Any, model: Predictor, seed: int) -> Source:
    """The source with what else the data tell of each x0.

    Raises:
        UsageError: If the model takes no such input.
    """
    from ..quantities.draw import data_index

    if not data.conditions:
        return source
    bare = model.predictor if isinstance(model, RawOutput) else model
    takes = accepted(bare.network) if isinstance(bare, NetworkPredictor) else []
    strange = [name for name in data.conditions if takes is not None and name.partition("/")[0] not in takes]
    if strange:
        raise UsageError(
            f"{data.name} holds {shown(strange[0])} beside the samples, and the model takes "
            f"{', '.join(takes or ['nothing beside x and the time'])}: leave it out, or call it as the model does"
        )
    kinds = {"f": torch.float32, "i": torch.int64, "u": torch.int64, "b": torch.bool}

    def told(i: int) -> dict[str, torch.Tensor]:
        k = data_index(seed, i, len(data))
        rows = {name: np.asarray(array[k]) for name, array in data.conditions.items()}
        found = {name: torch.from_numpy(row).to(kinds[row.dtype.kind]) for name, row in rows.items()}
        return found if source.told is None else source.told(i) | found

    note = f"each x0 of {data.name} is told its own {' and '.join(map(shown, data.conditions))}"
    return replace(source, told=told, conditions=tuple(data.conditions), notes=[*source.notes, note])


def accepted(network: Any) -> list[str] | None:
    """The names of what a network takes beside x and the timestep; None where it takes whatever it is told."""
    parameters = inspect.signature(getattr(network, "forward", network)).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return [CHANNELS, *list(parameters)[2:]]


def with_classes(source: Source, data: Any, model: Predictor, seed: int) -> Source:
    """The source with the class of each x0, where its data have classes and the model is told one.

    Raises:
        UsageError: If the model does not know a class.
    """
    from ..formats.conditioning import class_count
    from ..quantities.draw import data_index

    name = model.class_input if isinstance(model, NetworkPredictor | RawOutput) else None
    if name is None or data.labels is None:
        return source
    if model.classed:
        return replace(
            source, notes=[*source.notes, f"the classes in {data.name} are not told: the model has its own {name}"]
        )
    bare: Any = model.predictor if isinstance(model, RawOutput) else model
    blank, labels = bare.conditioning[name], np.asarray(data.labels)
    network: Any = bare.network
    known = class_count(getattr(network, "config", {"num_classes": getattr(network, "num_classes", None)}))
    known = blank.shape[1] if blank.ndim == 2 else known
    if not data.numbered and known != labels.max() + 1:
        others = "another number" if known is None else known
        said = (
            f"{data.name} has {labels.max() + 1} folders and the model {others} of classes, so {name} is the same for "
        )
        return replace(
            source, notes=[*source.notes, said + "every x0: name the folders by the numbers of their classes"]
        )
    if known is not None and labels.max() >= known:
        raise UsageError(
            f"{data.name} has the class {labels.max()}, and the model knows 0 to {known - 1}; give --label"
        )
    return replace(
        source,
        told=lambda i: {name: of_class(int(labels[data_index(seed, i, len(data))]), blank)},
        labels=hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
        notes=[*source.notes, f"each x0 of {data.name} is told its own class, as {name}"],
    )


def of_class(label: int, blank: torch.Tensor) -> torch.Tensor:
    """A class as the network is told it: its number, or a row of one number a class."""
    row = torch.tensor(label, device="cpu")
    return (torch.nn.functional.one_hot(row, blank.shape[1]) if blank.ndim == 2 else row).to(blank.dtype)


def remarks(model: Predictor, source: Source) -> list[str]:
    """What a reader of the numbers has to know of a model on these data."""
    kept: tuple[str, ...] = model.notes
    if source.told is not None:  # it is not told one throughout
        names = "|".join(map(re.escape, (*(CLASS_INPUTS if source.labels else ()), *source.conditions)))
        each = rf"\b({names}) = [^,]+?(?:(?=,)| throughout)"
        kept = tuple(re.sub(each, r"\1 = that of each x0", note) for note in kept)
        kept = tuple(note for note in kept if not re.match(rf"({names}): ", note))
    return [*kept, *source.notes]


def from_data(data: Any, seed: int) -> Source:
    """Each draw takes one datum at random.

    Raises:
        UsageError: If the values cannot be in a model's own range.
    """
    from ..quantities.draw import data_index

    largest = max(float(data[i].abs().max()) for i in range(0, len(data), max(1, len(data) // 8)))
    if largest > LARGEST_VALUE:
        raise UsageError(
            f"{data.name} holds values as large as {largest:g}, outside any model's own range (pictures are about -1 "
            "to 1): scale the array; 8-bit pictures are scaled by themselves, floats are taken as they are"
        )
    return Source(lambda i: data[data_index(seed, i, len(data))], data.name, data.fingerprint, stored=data.stored)


def from_model(predictor: Predictor, seed: int, lost: str = "") -> Source:
    """Each draw is one deterministic DDIM sample of the model, made with a few others when it is first asked for.

    They are kept in the range that the model's files tell. The first ones are looked at: what the model itself does not
    take for data is said.

    Args:
        predictor: The model.
        seed: Of the first noise.
        lost: Why there are no data, to be said.

    Raises:
        CheckpointError: When samples are asked for that are not finite.
    """
    from ..quantities import draw
    from ..sampling.doubt import doubt
    from ..sampling.sampler import sample

    model = predictor.predictor if isinstance(predictor, RawOutput) else predictor  # only eps can be sampled with
    table = model.schedule.timesteps if isinstance(model.schedule, Table) else MODEL_STEPS
    steps = max(k for k in range(1, MODEL_STEPS + 1) if table % k == 0)  # DDIM strides evenly over a table
    kept = "" if model.limit is None else f", {spell(model.limit)}"
    name = f"samples of the model itself (DDIM, {steps} steps{kept})"
    notes: list[str] = [Caution(f"x0 are {name}{lost}: give the data it was trained on by --data")]

    def noise(i: int) -> torch.Tensor:
        return torch.from_numpy(draw.generator(seed, "model_sample", i).standard_normal(model.shape))

    @lru_cache(maxsize=-(-MOST_DRAWS // MODEL_BATCH) + 1)  # what a unit spans
    def block(first: int) -> torch.Tensor:
        start = torch.stack([noise(i) for i in range(first, first + MODEL_BATCH)])
        drawn = sample(model, noise=start, steps=steps)
        if not drawn.isfinite().all():
            raise CheckpointError(
                "samples of the model itself, which stand for data where none are given, are not finite: give data by "
                "--data, or check weights, schedule and parameterization with `lipdiag inspect`"
            )
        if len(notes) == 1 and (reason := doubt(model, drawn)):
            notes.append(Caution(f"x0 are doubtful: {reason}; give data by --data"))
        return drawn.cpu()

    return Source(
        lambda i: block(i // MODEL_BATCH * MODEL_BATCH)[i % MODEL_BATCH],
        name,
        "model",
        passes=steps,
        stand_in=noise,
        notes=notes,
    )
