"""A unit measured in micro-batches, halved when memory runs out; and how much memory and time one will take."""

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..diffusion.predictor import Predictor
from ..errors import LipdiagError
from ..linalg.linearize import out_of_memory

SLOW = 1.0
"""Seconds of a pair's forward pass beyond which more of them at once are no quicker."""

Block = dict[str, np.ndarray]

KEPT = 1.5
"""The share of the bytes that a forward pass makes which a recorded product and a reverse graph hold at once."""

PASSING = 0.25
"""The share of those bytes that one forward-mode pass holds, which keeps nothing."""


class Made(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make; views are not made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)}
        new = [o for o in tree_leaves(out) if isinstance(o, torch.Tensor)]
        self.bytes += sum(o.nbytes for o in new if o.untyped_storage().data_ptr() not in given)
        return out


def pass_bytes(predictor: Predictor, x: torch.Tensor, t: torch.Tensor) -> int:
    """Bytes that one forward pass makes; costs that pass."""
    with torch.no_grad(), Made() as made:
        predictor(x, t)
    return made.bytes


def pair_seconds(predictor: Predictor, x: torch.Tensor, t: torch.Tensor, draws: int) -> float:
    """Seconds of a forward pass a pair, the least of three of all pairs, each timestep's `draws` after one another.

    Where a single pair takes a second, its time is that of every pair. Of a model that fails on several timesteps
    those of one are timed, and of one that fails on these too a pair.
    """

    def seconds(pairs: int) -> float:
        began = time.perf_counter()
        with torch.no_grad():
            predictor(x[:pairs], t[:pairs])
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        return time.perf_counter() - began

    one = seconds(1)
    one = min(one, seconds(1)) if one > SLOW else one  # a first pass may compile or page in what later ones find ready
    for pairs in (len(x), draws) if one <= SLOW else ():
        with suppress(Exception):
            return min(seconds(pairs) for _ in range(3)) / pairs
    return one


def memory(predictor: Predictor, one_pass: int, pairs: int, record: bool) -> int:
    """Bytes that weights and activations will take at the peak of a micro-batch, to a factor of about 2.

    Args:
        predictor: The model, in the type that it computes in.
        one_pass: What `pass_bytes` says of one pair.
        pairs: In the micro-batch.
        record: Whether products are recorded, see `Point`.
    """
    weights = sum(tensor.nbytes for tensor in [*predictor.parameters(), *predictor.buffers()])
    return int(weights + pairs * one_pass * (KEPT if record else PASSING))


def in_batches(
    measure: Callable[[list[float], range], Block],
    timesteps: list[float],
    draws: range,
    batch: int,
    halving: bool = True,
    most: int | None = None,
) -> tuple[Block, int]:
    """The variables of all timesteps by all draws, and the micro-batch that fitted.

    Args:
        measure: Some timesteps, some draws -> variables, each (times, draws, ...).
        timesteps: All of them.
        draws: All of them.
        batch: The most (draw, timestep) pairs at once.
        halving: Whether to try again with half as many when memory runs out; the whole unit is then done again, since
            the size of a batch moves the last digits.
        most: The most timesteps at once, where there is a limit besides that of pairs.

    Raises:
        LipdiagError: If memory runs out with one pair, or at all where halving is not allowed.
    """
    while True:
        rows, across = (batch // len(draws), len(draws)) if batch >= len(draws) else (1, batch)
        rows = min(rows, most or rows)
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
