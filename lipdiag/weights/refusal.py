"""The one sentence by which a checkpoint that cannot be used is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from ..errors import CheckpointError, LipdiagError
from ..files import shown

CONVERT = "save the state dict alone, best as .safetensors"


def refuse(path: str | Path, cause: str, error: Exception | None = None) -> NoReturn:
    """Raise the CheckpointError that names the file and the cause."""
    raise CheckpointError(f"cannot use {shown(path)}: it {cause}") from error


@contextmanager
def refusing(path: str | Path, cause: str) -> Iterator[None]:
    """Whatever a stranger's names and shapes make code stumble over, refused in a sentence."""
    try:
        yield
    except LipdiagError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        refuse(path, f"{cause} ({type(error).__name__}: {shown(error)})", error)
