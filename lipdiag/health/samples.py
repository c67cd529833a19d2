"""Whether a model's samples look like its data: finite, in their range, no copies of them, and data to the model."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from scipy.special import bdtrc
from torch import Tensor

from ..design.description import Source
from ..diffusion.predictor import Predictor
from ..diffusion.schedule import Table
from ..errors import LipdiagError
from ..printing import plain
from ..quality.metric import COPY, nearest, own_distance
from ..sampling.doubt import FEWEST, doubt
from ..sampling.sampler import sample
from ..statistics import Estimate, mean
from .checks import SAMPLED
from .fault import Fault
from .laws import Test, above

COUNT, STEPS = 16, 50
"""Samples, and steps of DDIM for each."""

MOST = 1024
"""Draws of the data among which near-copies are looked for."""

FEW_DATA = 8
"""Different data of fewer of which it cannot be said how near two are."""

OUTSIDE = 0.25
"""How far beyond the data's range, in parts of it, no sample lies."""


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


def comparable(found: Drawn, source: Source) -> bool:
    """Whether some samples are numbers, and there are data of another origin to hold them against."""
    return found.finite and source.fingerprint != "model"


def are_data(predictor: Predictor, found: Drawn | None, source: Source) -> bool:
    """Whether a model that knows nothing of some data knows samples of its own: then it is no data of its own kind."""
    if found is None or not comparable(found, source):
        return False
    return found.x.numel() >= FEWEST and not doubt(predictor, found.x)


def copies(found: Drawn | None, source: Source, threshold: float) -> list[Test]:
    """How many samples are nearer to a datum than a quarter of what lies between data, by the binomial test."""
    if found is None or not comparable(found, source):
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


def size(found: Drawn | None, source: Source, thresholds: Mapping[str, float]) -> Iterator[Test]:
    """Whether samples keep to the range of some data, and are as large, by Student's test over samples."""
    if found is None or not comparable(found, source):
        return
    x, data = found.x.double().flatten(1), torch.stack([source.sample(i).double() for i in range(64)])
    low, high = float(data.min()), float(data.max())
    room = OUTSIDE * (high - low)
    out = ((x < low - room) | (x > high + room)).double().mean(1).numpy()
    said = f", outside [{plain(low - room)}, {plain(high + room)}]"
    yield Test("range", None, mean(out), *above(out - thresholds["range"]), said=said)
    larger = (x.square().mean(1) / data.square().mean()).sqrt().numpy()
    yield Test("power", None, mean(larger), *above(larger - thresholds["power"]))


def samples(predictor: Predictor, found: Drawn | None, source: Source) -> list[Fault]:
    """Whether some samples are numbers, and data to the model where there are no others."""
    if found is None:
        return []
    if not found.finite:
        evidence = f"of {COUNT} samples by DDIM in {found.steps} steps some are not finite"
        return [Fault("diverging_samples", (), evidence, SAMPLED)]
    if source.fingerprint == "model":
        reason = doubt(predictor, found.x)
        return [Fault("doubtful_samples", (), reason, SAMPLED)] if reason else []
    return []
