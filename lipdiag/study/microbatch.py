"""A unit measured in micro-batches, halved when memory runs out."""

import gc
from collections.abc import Callable

import numpy as np
import torch

from ..errors import LipdiagError

Block = dict[str, np.ndarray]


def in_batches(
    measure: Callable[[list[float], range], Block],
    timesteps: list[float],
    draws: range,
    batch: int,
    halving: bool = True,
) -> tuple[Block, int]:
    """The variables of all timesteps by all draws, and the micro-batch that fitted.

    Args:
        measure: Some timesteps, some draws -> variables, each (times, draws, ...).
        timesteps: All of them.
        draws: All of them.
        batch: The most (draw, timestep) pairs at once.
        halving: Whether to try again with half as many when memory runs out; the whole unit is then done again, since
            the size of a batch moves the last digits.

    Raises:
        LipdiagError: If memory runs out with one pair, or at all where halving is not allowed.
    """
    while True:
        rows, across = (batch // len(draws), len(draws)) if batch >= len(draws) else (1, batch)
        try:
            parts = [
                [measure(timesteps[i : i + rows], draws[j : j + across]) for j in range(0, len(draws), across)]
                for i in range(0, len(timesteps), rows)
            ]
            return {
                name: np.concatenate([np.concatenate([part[name] for part in row], 1) for row in parts], 0)
                for name in parts[0][0]
            }, batch
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if batch == 1:
                raise LipdiagError(
                    "out of memory with a single (draw, timestep) pair; use a machine with more memory, or fewer "
                    "quantities"
                ) from None
            if not halving:
                raise LipdiagError(
                    f"out of memory with a micro-batch of {batch} pairs, which --deterministic keeps as it is; give a "
                    "smaller --batch and another --out"
                ) from None
        # outside of the handler, whose traceback keeps tensors alive
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        batch = max(1, batch // 2)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of the many ways in which memory runs out."""
    known = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in known)
