"""Data that a program already holds: arrays, tensors, torch's data sets and loaders, beside names and paths."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import UsageError
from .arrays import paired
from .dataset import Data, array, dataset

MOST = 4096
"""Samples that are taken from a loader, which may be endless."""

IMAGES = ("x", "x0", "image", "images", "img", "pixel_values", "input", "inputs", "data")
CLASSES = ("y", "label", "labels", "target", "targets", "class_labels")
"""Names of both in a batch that is a dictionary."""


def as_data(data: Any, shape: tuple[int, ...] | None = None, resize: bool = False) -> Data:
    """What a caller gives as data.

    Args:
        data: A `Data`, a name or path, an array or tensor (samples, *shape), a dictionary of them as a .npz file holds
            it, or a torch `DataLoader` or `Dataset`, of which the first 4096 samples are taken in their order; pairs
            and dictionaries may bring classes.
        shape: The model's event shape; without it the data's own.
        resize: Whether the pictures of a folder are made as large as the model's and cut to their centre.

    Raises:
        UsageError: If it is none of these, or the samples do not have that shape.
    """
    if isinstance(data, Data):
        return data
    if isinstance(data, torch.Tensor | np.ndarray):
        return array("an array", as_numpy(data), shape)
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        return dataset(data, shape=shape, resize=resize)
    if isinstance(data, Mapping):
        values, labels, conditions = paired({name: as_numpy(value) for name, value in data.items()}, "the dictionary")
        return replace(array("a dictionary", values, shape), labels=labels, conditions=conditions)
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise UsageError(
            f"got a {type(data).__name__} as data: give a path, a name, an array (samples, *shape) or a DataLoader"
        )
    # a loader with a sampler of batches, as accelerate's, has no batch size
    batched = any(getattr(data, name, None) is not None for name in ("batch_size", "batch_sampler"))
    with torch.random.fork_rng(devices=[]):  # a loader that shuffles takes its order from the caller's random numbers
        pairs = [parts(item) for item in first(data, batched)]
    if not pairs:
        raise UsageError(f"the {type(data).__name__} holds no samples: give one that does")
    join: Any = np.concatenate if batched else np.stack
    try:
        values = join([x for x, _ in pairs])[:MOST]
        told = [y for _, y in pairs if y is not None]
        labels = join(told)[:MOST] if len(told) == len(pairs) else None
    except ValueError as error:
        raise UsageError(
            f"the samples of the {type(data).__name__} differ in shape: make them alike ({error})"
        ) from None
    known = labels if labels is not None and labels.dtype.kind in "iu" and labels.ndim == 1 else None
    return replace(array(f"a {type(data).__name__}", values, shape), labels=known)


def first(data: Any, batched: bool) -> Iterator[Any]:
    """The items of a loader or data set until there are enough samples."""
    # a data set without an end to its indices says how many there are
    count = len(data) if hasattr(data, "__getitem__") and hasattr(data, "__len__") else None
    taken, items = 0, iter(data) if count is None else (data[i] for i in range(min(count, MOST)))
    for item in items:
        yield item
        taken += len(parts(item)[0]) if batched else 1
        if taken >= MOST:
            return


def parts(item: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The samples in a batch, or the one in an item, and the classes beside them.

    Raises:
        UsageError: If there is nothing that could be samples.
    """
    if isinstance(item, Mapping):
        x = next((item[name] for name in IMAGES if name in item), None)
        y = next((item[name] for name in CLASSES if name in item), None)
        if x is None:
            names = ", ".join(map(str, item))
            raise UsageError(f"the data have the entries {names}: give an array, or call the samples {IMAGES[0]}")
    elif isinstance(item, Sequence) and not isinstance(item, str):
        x, y = (*item, None)[:2]
    else:
        x, y = item, None
    return as_numpy(x), None if y is None else np.asarray(as_numpy(y))


def as_numpy(values: Any) -> np.ndarray:
    """Numbers of a tensor, an array or a picture; half precision is widened, which numpy may not have."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)
