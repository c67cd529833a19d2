"""The cheapest way to cut a line into a given number of pieces, by dynamic programming: exact, not greedy.

References:
    Bellman, On the approximation of curves by line segments using dynamic programming, 1961.
"""

from collections.abc import Callable

import numpy as np


def cheapest(cost: np.ndarray, pieces: int, combine: Callable[..., np.ndarray] = np.add) -> np.ndarray:
    """Places of the edges, from the first place to the last, between which all pieces together cost least.

    Args:
        cost: Of a piece from a place (row) to a later one (column); infinite where there can be none.
        pieces: How many.
        combine: What many cost together: `np.add` their sum, `np.maximum` the dearest of them.
    """
    cost = np.where(np.triu(np.ones_like(cost, dtype=bool), 1), cost, np.inf)
    best, origins = np.where(np.arange(len(cost)) == 0, 0.0, np.inf), []
    for _ in range(pieces):
        total = combine(best[:, None], cost)
        origins.append(total.argmin(0))
        best = total.min(0)
    edges = [len(cost) - 1]
    for origin in reversed(origins):
        edges.append(int(origin[edges[-1]]))
    return np.array(edges[::-1])
