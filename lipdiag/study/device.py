"""The device that a model is measured on: found by its name, and spoken of in a sentence when it fails or is full."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import torch

from ..breakdown import described, device_failed, out_of_memory
from ..diffusion.predictor import Predictor, device_of
from ..errors import IncompleteError, UsageError


def resolve_device(name: str, deterministic: bool = False) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1`: the device of that name, where `cuda` is the one that is current here.

    Args:
        name: Of the device.
        deterministic: Whether its products are to give the same bits every time, which the first one settles.

    Raises:
        UsageError: If it is not at hand, or has no float64, which schedules need near t = 0.
        IncompleteError: If it is at hand, and fails or is full.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        rank = os.environ.get("LOCAL_RANK", "0")  # torchrun: workers of one machine share its devices
        return torch.device("cuda", int(rank) % torch.cuda.device_count() if rank.isdecimal() else 0)
    try:
        device = torch.device(name)
        if device.type == "mps":
            raise UsageError("device mps has no float64, which times near 0 need; use --device cpu")
        there = torch.empty(0, device=device)
        there.cpu()  # which a device without memory of its own, meta, cannot
        return there.device  # with its number, since another is current in another thread
    except (RuntimeError, AssertionError, ModuleNotFoundError) as error:
        if "invalid device ordinal" not in str(error):
            refuse_broken(error, name)
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if seen is None or name == "cpu" else f" (CUDA_VISIBLE_DEVICES is {seen!r})"
        raise UsageError(f"device {name!r} is not at hand{hidden}: give auto, or {' or '.join(here)}") from error


def current(device: torch.device) -> AbstractContextManager[object]:
    """A device as the current one of this thread, for which a clock waits and to which pinned memory belongs."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def placed(predictor: Predictor, place: torch.device) -> Iterator[None]:
    """The model on a device, and afterwards where it was; what fails there ends in a sentence.

    Raises:
        IncompleteError: If the device fails, or has too little memory.
    """
    home = device_of(predictor)
    try:
        predictor.to(place)
        yield
    except (RuntimeError, MemoryError) as error:
        refuse_broken(error, place)
        raise
    finally:
        with suppress(RuntimeError):  # nothing comes back from a device that failed
            predictor.to(home)


def refuse_broken(error: Exception, place: torch.device | str) -> None:
    """Say in a sentence what a device raised that failed or is full.

    Raises:
        IncompleteError: If it did.
    """
    if device_failed(error):
        raise IncompleteError(
            f"the device {place} failed with {described(error)}; what was measured is kept, and the same command goes "
            "on from there"
        ) from error
    if out_of_memory(error):
        raise IncompleteError(
            f"out of memory on {place}: it has too little for this model, or another process took it; free it, or "
            "give another --device; what was measured is kept"
        ) from error
