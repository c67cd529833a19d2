"""One training in several processes, as torchrun starts them: who is who, and the few things they tell each other.

Outside torchrun there is one process of rank 0, and everything here costs nothing. Processes meet in a store; torchrun
keeps it when it starts killed ones again, with the addresses of the dead in it, and they would wait for those for ever.
So each attempt meets under a prefix of its own.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from .errors import UsageError

PATIENCE = timedelta(minutes=10)  # after which a process that no longer answers is given up, and torchrun starts anew


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """Which process of this machine this is: its number among the machine's accelerators."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def leads() -> bool:
    """Whether this process speaks for those that torchrun started, before and after they have joined too."""
    return os.environ.get("RANK", "0") == "0"


def rank() -> int:
    """Which of the joined processes this is; 0 for one that is alone."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def size() -> int:
    """How many processes have joined; 1 for one that is alone."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


@contextmanager
def joined(device: torch.device | str) -> Iterator[None]:
    """The processes of a torchrun launch as one group while this is entered; a process that is alone stays so.

    Args:
        device: Where each computes: on CUDA they talk by NCCL, else by gloo.

    Raises:
        UsageError: If there is no means by which they could talk.
    """
    if not launched() or size() > 1:
        yield
        return
    if not distributed.is_available():
        raise UsageError("this torch was built without torch.distributed: train in one process, without torchrun")
    store, number, count = next(distributed.rendezvous("env://", timeout=PATIENCE))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    distributed.init_process_group(
        "nccl" if torch.device(device).type == "cuda" else "gloo",
        store=distributed.PrefixStore(f"lipdiag-{attempt}", store),
        rank=number,
        world_size=count,
        timeout=PATIENCE,
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def mean(values: Sequence[float]) -> list[float]:
    """Each value's mean over the processes."""
    if size() == 1:
        return list(values)
    device = torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(tensor)
    return (tensor / size()).tolist()


def anywhere(flag: bool) -> bool:
    """Whether it is true in any process, the same answer in all."""
    return flag if size() == 1 else mean([float(flag)])[0] > 0


def orphaned(parent: int) -> bool:
    """Whether the process that started this one is gone, which leaves nobody to stop it."""
    return launched() and os.getppid() != parent
