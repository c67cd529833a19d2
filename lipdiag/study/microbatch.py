"""A unit measured in micro-batches, halved when they are too large; and how much time one will take."""

import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch

from ..breakdown import curable, described, out_of_memory
from ..diffusion.predictor import Predictor
from ..errors import IncompleteError
from .memory import released

SLOW = 1.0
"""Seconds of a pair's forward pass beyond which more of them at once are no quicker, and of any that is timed once."""

Block = dict[str, np.ndarray]


def pair_seconds(predictor: Predictor, x: torch.Tensor, t: torch.Tensor, draws: int) -> float:
    """Seconds of a forward pass a pair: the least of three of all pairs, or of as many as take a second together.

    Each timestep's `draws` come after one another. Where a single pair takes a second, its time is that of every pair.
    Of a model that fails on several timesteps those of one are timed, and of one that fails on these too a pair.
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
            taken = [seconds(pairs)]
            while len(taken) < 3 and sum(taken) < SLOW:
                taken.append(seconds(pairs))
            return min(taken) / pairs
    return one


def in_batches(
    measure: Callable[[list[float], range], Block],
    timesteps: list[float],
    draws: range,
    batch: int,
    halving: bool = True,
    most: int | None = None,
) -> tuple[Block, int, str]:
    """The variables of all timesteps by all draws, the micro-batch that fitted, and why a larger one did not.

    Args:
        measure: Some timesteps, some draws -> variables, each (times, draws, ...).
        timesteps: All of them.
        draws: All of them.
        batch: The most (draw, timestep) pairs at once.
        halving: Whether to try again with half as many when memory runs out, or what else fewer may mend; the whole
            unit is then done again, since the size of a batch moves the last digits.
        most: The most timesteps at once, where there is a limit besides that of pairs.

    Raises:
        IncompleteError: If memory runs out with one pair, or at all where halving is not allowed.
    """
    why = ""
    while True:
        rows, across = (batch // len(draws), len(draws)) if batch >= len(draws) else (1, batch)
        rows = min(rows, most or rows)
        try:
            parts = [
                [measure(timesteps[i : i + rows], draws[j : j + across]) for j in range(0, len(draws), across)]
                for i in range(0, len(timesteps), rows)
            ]
            return (
                {
                    name: np.concatenate([np.concatenate([part[name] for part in row], 1) for row in parts], 0)
                    for name in parts[0][0]
                },
                batch,
                why,
            )
        except (RuntimeError, MemoryError) as error:
            if not curable(error) or ((batch == 1 or not halving) and not out_of_memory(error)):
                raise
            why = described(error)
            if batch == 1:
                raise IncompleteError(
                    "out of memory with a single (draw, timestep) pair; use a machine with more memory, or fewer "
                    "quantities"
                ) from None
            if not halving:
                raise IncompleteError(
                    f"out of memory with a micro-batch of {batch} pairs, which --deterministic keeps as it is; give a "
                    "smaller --batch and another --out"
                ) from None
        released()  # outside of the handler, whose traceback keeps tensors alive
        batch = max(1, batch // 2)
