"""Whether a model's samples look like its data: finite, in their range, no copies of them, and data to the model."""

from typing import NamedTuple

import torch
from scipy.special import bdtrc
from torch import Tensor

from ..diffusion.predictor import Predictor
from ..diffusion.schedule import Table
from ..errors import LipdiagError
from ..printing import plain
from ..quality.metric import COPY, nearest, own_distance
from ..sampling.doubt import FEWEST, doubt
from ..sampling.sampler import sample
from ..statistics import Estimate
from ..study.description import Source
from .fault import Fault
from .laws import Test

COUNT, STEPS = 16, 50
"""Samples, and steps of DDIM for each."""

MOST = 1024
"""Draws of the data among which near-copies are looked for."""

FEW_DATA = 8
"""Different data of fewer of which it cannot be said how near two are."""

OUTSIDE = 0.25
"""How far beyond the data's range, in parts of it, no sample lies."""

LARGER = 1.5
"""How many times the data's root mean square that of samples is, at most."""

REMEDY = "look at the faults near the noise, at the schedule, and at the limit of x0 in sampling"


class Drawn(NamedTuple):
    """Some samples of a model, and in how many steps."""

    x: Tensor
    steps: int

    @property
    def finite(self) -> bool:
        return bool(self.x.isfinite().all())


def drawn(predictor: Predictor) -> Drawn | None:
    """Some samples by DDIM, 800 passes; None where the model cannot be sampled so."""
    table = predictor.schedule.timesteps if isinstance(predictor.schedule, Table) else STEPS
    steps = max(k for k in range(1, STEPS + 1) if table % k == 0)
    try:
        return Drawn(sample(predictor, COUNT, steps).cpu(), steps)
    except LipdiagError:
        return None


def are_data(predictor: Predictor, found: Drawn | None, source: Source) -> bool:
    """Whether a model that knows nothing of some data knows samples of its own: then it is no data of its own kind."""
    if source.fingerprint == "model" or found is None:
        return False
    return found.finite and found.x.numel() >= FEWEST and not doubt(predictor, found.x)


def copies(found: Drawn | None, source: Source, threshold: float) -> list[Test]:
    """How many samples are nearer to a datum than a quarter of what lies between data, by the binomial test."""
    if found is None or not found.finite or source.fingerprint == "model":
        return []
    data = torch.stack([source.sample(i) for i in range(MOST)]).double().unique(dim=0)
    apart = own_distance(data) if len(data) >= FEW_DATA else 0.0
    if apart == 0:
        return []
    hits = nearest(found.x, data) < COPY * apart
    count, n = int(hits.sum()), len(hits)
    p = float(bdtrc(count - 1, n, threshold)) if count > 0 and threshold < 1 else 1.0
    said = f", nearer to one of {len(data)} than {COPY:g} of the median distance between them"
    return [
        Test("copies", None, Estimate(count / n, float("nan"), float("nan"), n), count - n * threshold, p, said=said)
    ]


def samples(predictor: Predictor, found: Drawn | None, source: Source) -> list[Fault]:
    """What is wrong with some samples beside some data."""
    if found is None:
        return []
    x, how = found.x.double(), f"of {COUNT} samples by DDIM in {found.steps} steps"
    if not found.finite:
        return [Fault("diverging_samples", (), f"{how}, some are not finite", REMEDY)]
    if source.fingerprint == "model":
        reason = doubt(predictor, found.x)
        return [Fault("doubtful_samples", (), reason, REMEDY)] if reason else []
    data = torch.stack([source.sample(i).double() for i in range(64)])
    size, own = (float(z.square().mean().sqrt()) for z in (x, data))
    low, high = float(data.min()), float(data.max())
    room = OUTSIDE * (high - low)
    out = float(((x < low - room) | (x > high + room)).double().mean())
    if size > LARGER * own or out > 0.01:
        evidence = (
            f"{how}, {out:.1%} of the entries lie outside [{plain(low - room)}, {plain(high + room)}], and the data "
            f"reach from {plain(low)} to {plain(high)}; root mean squares are {plain(size)} and {plain(own)}"
        )
        return [Fault("samples_out_of_range", (), evidence, REMEDY)]
    return []
