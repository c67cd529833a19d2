"""Many times between those of a run, one pass at each: bands that no plan of a few meets, and the scale of all answers.

The error in x0 grows with the noise for every true model, so at no time is it larger than at those that are a little
noisier; in a band that was never trained it is, at its noisy end. And whatever it is that a network predicts, no
multiple of its own words is better; where the same one is better at all times, they have a wrong scale.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..design.plan import resolve_timesteps
from ..design.points import points
from ..diffusion.parameterization import Parameterization, convert, eps
from ..diffusion.predictor import NetworkPredictor
from ..printing import plain
from ..quantities.point import Point
from ..statistics import Estimate, mean, ratio
from ..study.state import Study
from .laws import Test, above

EVEN, DRAWS = 64, 32
"""Timesteps even in t, and as many even in their logarithm; draws at each."""

SETS = 4
"""Sets of draws, which take turns, so that what is told of all times is told by more data and noise."""

BESIDE = 12
"""How far away the noisier ones are that each is compared with, those of the same draws."""

SLACK = 0.05
"""Share of what is predicted that good networks err more than a guess where there is nothing but noise."""

PARTS = 2
"""Parts of the time in each of which a scale has to be the same that is wrong."""


class Scan(NamedTuple):
    """What a model says at many times, in rows of as many draws.

    Attributes:
        timestep: Rising in t.
        error: Mean square of the error in x0.
        product: Of what the network predicts and what it should.
        square: Of what it predicts with itself.
        left: Mean square of what it should predict, and does not.
        guess: That of the best guess of it by x that knows the data's mean and variance alone; a number a time.
    """

    timestep: np.ndarray
    error: np.ndarray
    product: np.ndarray
    square: np.ndarray
    left: np.ndarray
    guess: np.ndarray


def seen(ready: Study, timesteps: Sequence[float], draws: range) -> Point:
    """Some timesteps by some draws of a study, timestep-major."""
    source = ready.source
    return points(ready.predictor, ready.plan, source.sample, timesteps, draws, record=False, told=source.told)


@torch.no_grad()
def scanned(ready: Study) -> Scan:
    """The model at 128 times by 32 draws, 4,000 passes."""
    predictor = ready.predictor
    clock, schedule = predictor.clock, predictor.schedule
    own = predictor.parameterization if isinstance(predictor, NetworkPredictor) else eps
    even = clock.base(torch.linspace(0.001, 0.999, EVEN, dtype=torch.float64, device="cpu")).numpy()
    even = even.round() if clock.base.discrete else even
    every = np.union1d(even, resolve_timesteps(f"log:{EVEN}", clock, schedule))
    t = clock.base.time(torch.from_numpy(every)).numpy()
    order = np.argsort(t)[np.sort(t) > 1e-9]
    every, t = every[order], t[order]
    few, found = max(1, ready.batch // DRAWS), np.empty((4, len(every), DRAWS))
    for turn in range(SETS):
        mine = np.arange(turn, len(every), SETS)
        for first in range(0, len(mine), few):
            some = mine[first : first + few]
            at = seen(ready, every[some].tolist(), range(turn * DRAWS, (turn + 1) * DRAWS))
            found[:, some] = asked(at, own).view(4, -1, DRAWS).cpu().numpy()
    error, product, square, left = found
    return Scan(every, error, product, square, left, guessed(ready, own, t))


def guessed(ready: Study, own: Parameterization, t: np.ndarray) -> np.ndarray:
    """The error of Wiener's filter in what a network predicts, a x0 + b eps."""
    data = torch.stack([ready.source.sample(i).double() for i in range(SETS * DRAWS)])
    schedule, time = ready.predictor.schedule, torch.from_numpy(t)
    (alpha, sigma), (a, b) = schedule(time), own(schedule, time)
    known = data.var(0).mean().cpu() * alpha**2
    return (known / (known + sigma**2) * (b - a * sigma / alpha) ** 2).numpy()


def asked(at: Point, own: Parameterization) -> Tensor:
    """What a scan notes of each pair."""
    schedule = at.predictor.schedule
    x, said, noise = (z.double() for z in (at.x, at.predictor(at.x, at.t), at.noise))
    alpha, sigma = schedule(at.t)
    error = (said - noise).flatten(1).square().mean(1) * (sigma / alpha) ** 2
    predicted, truth = (convert(z, x, at.t, schedule, eps, own).flatten(1) for z in (said, noise))
    terms = predicted * truth, predicted.square(), (predicted - truth).square()
    return torch.stack([error, *(z.mean(1) for z in terms)])


def scan(found: Scan, thresholds: Mapping[str, float]) -> Iterator[Test]:
    """Whether errors grow with the noise, and whether a multiple would be better at all times."""
    for k, here in enumerate(found.error):
        noisier = range(k + SETS, min(k + 1 + BESIDE, len(found.error)), SETS)
        later = [o for o in noisier if np.isfinite(found.error[o]).all()]
        if later and np.isfinite(here).all():
            threshold = thresholds["band"]
            (s, p), other = max((above(here - threshold * found.error[o], len(later)), o) for o in later)
            said = f" that in x0 at timestep {plain(found.timestep[other])}"
            estimate = ratio(here, found.error[other])
            yield Test("band", None, estimate, s, p, said=said, at=float(found.timestep[k]))
    yield from ignorant(found, thresholds["band"])
    yield from scale(found, thresholds["scale"])


def ignorant(found: Scan, threshold: float) -> Iterator[Test]:
    """Whether it errs more than a guess, by a part of what it should predict: the last times have no noisier ones."""
    whole = (found.left + 2 * found.product - found.square).mean(1)
    for timestep, left, guess, least in zip(found.timestep, found.left, found.guess, SLACK * whole, strict=True):
        if np.isfinite(left).all() and np.isfinite(guess) and guess > 0:
            times = left / (guess + least)
            said = " that of a guess from the data's mean and variance"
            yield Test("band", None, mean(times), *above(times - threshold), said=said, at=float(timestep))


def scale(found: Scan, threshold: float) -> Iterator[Test]:
    """Whether the slope is beyond the threshold, on the same side, in each of some parts of time that tell as much."""
    left = found.left.mean(1)
    known = np.isfinite(np.stack([found.product, found.square])).all((0, 2)) & (left > 0)
    if not known.any():
        return
    product, square = (z[known] / left[known, None] for z in (found.product, found.square))
    told = np.cumsum(square.mean(1))
    part = np.minimum((PARTS * told / told[-1]).astype(int), PARTS - 1)
    sums = [[z[part == i].sum(0) for z in (product, square)] for i in range(PARTS)]
    tried = []
    for sign in (-1, 1):  # every part has to be beyond, so that the least sure of them counts
        tried.append(min(above(sign * (p - (1 + sign * threshold) * q), 2) for p, q in sums))
    slope = float(product.sum() / square.sum())
    yield Test("scale", None, Estimate(abs(slope - 1), np.nan, np.nan, DRAWS), *max(tried), slope=slope)
