"""A device that failed, or has too little memory: what torch raises then, told in a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from ..diffusion.predictor import Predictor, device_of
from ..errors import IncompleteError
from ..linalg.linearize import out_of_memory


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
        if device_failed(error):
            raise IncompleteError(
                f"the device {place} failed with {described(error)}; what was measured is kept, and the same command "
                "goes on from there"
            ) from error
        if out_of_memory(error):
            raise IncompleteError(
                f"out of memory on {place}: it has too little for this model, or another process took it; free it, or "
                "give another --device; what was measured is kept"
            ) from None
        raise
    finally:
        with suppress(RuntimeError):  # nothing comes back from a device that failed
            predictor.to(home)


def device_failed(error: BaseException) -> bool:
    """Whether a driver gave up, after which nothing can be computed in this process."""
    told = isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)
    return told and isinstance(error, Exception) and not out_of_memory(error)


def described(error: BaseException) -> str:
    """The type of an error and the first line of what it says."""
    said = str(error).splitlines()[0][:200] if str(error) else ""
    return f"{type(error).__name__} ({said})"
