"""Blocks that share a timestep, and what is known of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..statistics import LEVEL, Estimate, mean

SHARE = 0.25
"""What is hidden is to be at most this part of the error that the model makes anyway, sqrt(d loss)."""

BLOCKS = 5
"""Where the loss was not measured: the number of the paper."""

MOST_BLOCKS = 50


@dataclass(frozen=True)
class Partition:
    """Blocks that share a timestep, and what is known of them.

    Attributes:
        rule: How they were chosen.
        edges: In timesteps, the end included.
        jumps: At the end of each block: the mean change there, measured, or its bound.
        largest: Of the root mean squares that blocks hide, measured, or of the jumps' bounds, with its interval over
            draws; see `greatest`.
        error: Root mean square over the shared timesteps of what is hidden, or of its bound.
        part: The largest part of the model's error that is hidden at any timestep; None where it was not measured.
    """

    rule: str
    edges: tuple[float, ...]
    jumps: tuple[float, ...]
    largest: Estimate
    error: float
    part: float | None = None

    @property
    def spelled(self) -> list[str]:
        """The edges, with as many digits as keep the width of every block to a hundredth."""
        for digits in range(6, 17):
            texts = [f"{edge:.{digits}g}" for edge in self.edges]
            if np.allclose(np.diff([float(text) for text in texts]), np.diff(self.edges), rtol=0.01, atol=0):
                break
        return texts

    @property
    def etsdm(self) -> str:
        """The partition as `lipdiag train --etsdm` takes it."""
        return "edges:" + ",".join(self.spelled)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        known = {"rule": self.rule, "edges": self.edges, "jumps": self.jumps, "largest": self.largest.to_dict()}
        return {**known, "error": self.error, "part": self.part}


def greatest(values: np.ndarray) -> Estimate:
    """The largest of some means over draws (draws, means), with an interval that allows for its having been picked.

    If the largest true mean lies above every mean's upper end, it lies above its own: ends at the usual level are
    enough. If it lies below one's lower end, so does that one's true mean, and it may be any: those ends have
    Bonferroni's level. Where edges are fitted to the same draws this holds to first order: what they hide is predicted
    as equal, and the truth is not.
    """
    count = values.shape[1]
    picked = mean(values[:, values.mean(0).argmax()])
    low = max(mean(column, level=1 - (1 - LEVEL) / count).low for column in values.T)
    return picked._replace(low=low, high=max(mean(column).high for column in values.T))
