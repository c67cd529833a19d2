"""Bands of time that no plan of a few timesteps would meet: the error in x0 at many, by one pass each.

It grows with the noise for every true model, so at no time is it larger than at those that are a little noisier; in a
band that was never trained it is, at its noisy end.
"""

from collections.abc import Iterator

import numpy as np
import torch

from ..printing import plain
from ..statistics import ratio
from ..study.plan import resolve_timesteps
from ..study.points import points
from ..study.study import Study
from .laws import Test, above
from .network import losses

EVEN, DRAWS = 64, 16
"""Timesteps even in t, and as many even in their logarithm; draws at each."""

BESIDE = 12
"""Noisier ones that each is compared with."""


def scan(ready: Study, threshold: float) -> Iterator[Test]:
    """The error in x0 over that at a noisier time, of the same draws, at many times; 2,000 passes."""
    predictor, source = ready.predictor, ready.source
    clock = predictor.clock
    even = clock.base(torch.linspace(0.001, 0.999, EVEN, dtype=torch.float64)).numpy()
    even = even.round() if clock.base.discrete else even
    every = np.union1d(even, resolve_timesteps(f"log:{EVEN}", clock, predictor.schedule))
    t = clock.base.time(torch.from_numpy(every)).numpy()
    every = every[np.argsort(t)][np.sort(t) > 1e-9]
    few, found = max(1, ready.batch // DRAWS), []
    for first in range(0, len(every), few):
        some = every[first : first + few].tolist()
        at = points(predictor, ready.plan, source.sample, some, range(DRAWS), record=False, label=source.label)
        found.append(losses(at.predictor, at, DRAWS))
    alpha, sigma = (c.numpy() for c in predictor.schedule(clock.base.time(torch.from_numpy(every))))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.concatenate(found) * ((sigma / alpha) ** 2)[:, None]
    for k, here in enumerate(error[:-1]):
        later = [o for o in range(k + 1, min(k + 1 + BESIDE, len(error))) if np.isfinite(error[o]).all()]
        if later and np.isfinite(here).all():
            (s, p), other = max((above(here - threshold * error[o], len(later)), o) for o in later)
            said = f" that at timestep {plain(every[other])}"
            yield Test("band", None, ratio(here, error[other]), s, p, said=said, at=float(every[k]))
