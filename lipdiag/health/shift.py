"""By how many timesteps what a network is told is off: training leaves nothing to gain by another time.

A network that is told k + s at noise level k errs by L(s), and a trained one errs least at s = 0: to add a number to
all timesteps is among what training can do (it turns the waves that embed them), so the slope of its loss is 0 there.
Near its least L is a parabola, curved by the square of d, the change of the answer with the timestep it is told. So
all timesteps are off by -E <noise - answer, d> / E |d|^2, over all times and in the loss that is trained. Of that the
times of little noise tell most and are learned worst; so they are weighed up, and only so far. d is over an eighth of
the time to the data: what answers of a small network tremble from a timestep to the next is no change with time.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from ..design.points import joined
from ..diffusion.clock import Clock, Shared
from ..statistics import Estimate, mean
from ..study.state import Study
from .laws import Test, above

FIRST = 128
"""Draws for each of the plan's by which it is seen whether there is anything to decide; three passes each."""

SUSPECT, SURE, FRESH = 0.6, 0.22, 1536
"""Shares of the threshold: from which on it is decided, by other draws, and their standard error; draws at most."""

HOPELESS = 2
"""Times as many draws as these at most, of which it takes more to be sure: then none are made."""

STEP, LONGEST = 1 / 8, 32
"""Distance of the two times that are told beside the own one: this part of the way to the data, so many at most."""

PARTS = 32
"""Parts of the time in each of which draws weigh the same: one over their mean error,"""

LEARNED = 0.01
"""or over this, the share of the noise beyond which a network's errors are hardly trained away."""

NEAR = 0.25
"""Share of the first draws that looks for what changes near the data alone."""

ANYWHERE = 0.2
"""Share of the further draws that are spread as the first ones are."""

GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, less whole ones, fill the unit interval evenly."""


class Nudged(NamedTuple):
    """What a network makes of being told later and earlier times than its own, draw by draw.

    Attributes:
        place: Of the timestep.
        product: Of its error with its change per timestep.
        square: Of its change.
        error: Mean square.
    """

    place: np.ndarray
    product: np.ndarray
    square: np.ndarray
    error: np.ndarray


def apart(clock: Clock) -> np.ndarray:
    """The timesteps that have neighbours on both sides and are not shared, in order of t; none of no index."""
    if not clock.discrete:
        return np.empty(0)
    first, last = clock.base.ends
    t = torch.linspace(0, 1, round(abs(last - first)) + 1, dtype=torch.float64, device="cpu")[1:]
    every = clock.base(t).round()[1:-1]
    if isinstance(clock, Shared):
        every = every[(clock.block(every + torch.tensor([[-1.0], [1.0]], device="cpu")) == clock.blocks).all(0)]
    return every.numpy()


@torch.no_grad()
def nudged(ready: Study, timesteps: np.ndarray, density: np.ndarray, draws: range) -> Nudged:
    """Some draws, each at a timestep, as often as a density says; three passes a draw."""
    place = np.searchsorted(np.cumsum(density)[:-1], np.array(draws) * GOLDEN % 1, "right")
    blocks = [([float(timesteps[k])], range(i, i + 1)) for k, i in zip(place, draws, strict=True)]
    index = np.arange(1, len(timesteps) + 1)
    steps = np.minimum(np.clip((STEP * index).round(), 1, LONGEST), index[::-1])
    source, rows = ready.source, []
    for some in range(0, len(blocks), ready.batch):
        part = blocks[some : some + ready.batch]
        at = joined(ready.predictor, ready.plan, source.sample, part, record=False, told=source.told)
        step = torch.from_numpy(steps[place[some : some + ready.batch]]).to(at.t.device)
        told = (at.timestep + sign * step for sign in (-1, 0, 1))
        less, own, more = (at.predictor.conditioned(at.x, at.t, k).double().flatten(1) for k in told)
        error, change = at.noise.double().flatten(1) - own, (more - less) / (2 * step[:, None])
        terms = (error * change).sum(1), change.square().sum(1), error.square().mean(1)
        rows.append(torch.stack(terms).cpu())
    return Nudged(place, *torch.cat(rows, 1).numpy())


def spread(count: int) -> np.ndarray:
    """How often each timestep is looked at at first: evenly, and some of the draws evenly in the logarithm."""
    log = 1 / np.arange(1, count + 1)
    return (1 - NEAR) / count + NEAR * log / log.sum()


def averaged(values: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Means over the parts of time."""
    count, total = (np.bincount(part, z, PARTS) for z in (None, values))
    return total / np.maximum(count, 1)


def tested(found: Nudged, density: np.ndarray, part: np.ndarray, threshold: float) -> Test | None:
    """Whether what is told is off by more than the threshold on either side; None where that changes no answer."""
    mine = part[found.place]
    weight = 1 / (density[found.place] * (averaged(found.error, mine) + LEARNED)[mine])
    saved, square = -found.product * weight, found.square * weight
    if not (np.isfinite(saved).all() and square.mean() > 0):
        return None
    offset = float(saved.mean() / square.mean())
    around = mean((saved - offset * square) / square.mean())
    estimate = Estimate(offset, offset + around.low, offset + around.high, saved.size)
    return Test("shift", None, estimate, *above(np.sign(offset) * saved - threshold * square, 2))


def telling(found: Nudged, part: np.ndarray) -> np.ndarray:
    """How often a timestep is best looked at: as much as what is learned there strays."""
    mine = part[found.place]
    error, stray = averaged(found.error, mine), np.sqrt(averaged(found.product**2, mine))
    return (stray / (error + LEARNED))[part]


def shift(ready: Study, threshold: float) -> list[Test]:
    """Whether timesteps are off by more than the threshold, where they are indices; where it seems so, by new draws."""
    timesteps = apart(ready.predictor.clock)
    if len(timesteps) < PARTS:
        return []
    density = spread(len(timesteps))
    part = np.minimum(np.cumsum(density) * PARTS, PARTS - 1).astype(int)
    first, most = FIRST * ready.plan.draws, FRESH * ready.plan.draws
    found = nudged(ready, timesteps, density, range(first))
    test = tested(found, density, part, threshold)
    if test and abs(test.estimate.value) > SUSPECT * threshold:
        error = (test.estimate.high - test.estimate.low) / 4
        enough = math.ceil(first * (error / (SURE * max(threshold, 0.1))) ** 2)
        if enough > HOPELESS * most:
            return [test]
        best = telling(found, part)
        density = ANYWHERE * density + (1 - ANYWHERE) * best / best.sum()
        found = nudged(ready, timesteps, density, range(first, first + min(max(first, enough), most)))
        test = tested(found, density, part, threshold)
    return [test] if test else []
