"""Which share of a measurement is this process's: typed, or from the launcher's environment."""

import os
import signal
from contextlib import suppress

from ..errors import UsageError


def read_shard(text: str) -> tuple[int, int]:
    try:
        part, whole = (int(number) for number in text.split("/"))
    except ValueError:
        raise UsageError(f"--shard {text!r} is not I/N, such as 0/4") from None
    if not 0 <= part < whole:
        raise UsageError(f"--shard {text} is out of range; I runs from 0 to N - 1")
    return part, whole


def launched_shard() -> tuple[int, int]:
    """The share of a worker that torchrun started; workers talk through the run alone, so no group is opened."""
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or size is None:
        return 0, 1
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        end_with_parent()
    try:
        return read_shard(f"{rank}/{size}")
    except UsageError:
        raise UsageError(
            f"the environment has RANK={rank} and WORLD_SIZE={size}, which name no share; unset them, or give --shard"
        ) from None


def end_with_parent() -> None:
    """Have the system end this process when its parent dies: a killed torchrun leaves its workers running."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG of Linux
