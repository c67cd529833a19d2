"""Whether a model's samples look like its data: finite, in their range, and data to the model itself."""

import torch
from torch import Tensor

from ..diffusion.predictor import Predictor
from ..diffusion.schedule import Table
from ..errors import LipdiagError
from ..printing import plain
from ..sampling.doubt import FEWEST, doubt
from ..sampling.sampler import sample
from ..study.description import Source
from .fault import Fault

COUNT, STEPS = 16, 50
"""Samples, and steps of DDIM for each."""

OUTSIDE = 0.25
"""How far beyond the data's range, in parts of it, no sample lies."""

LARGER = 1.5
"""How many times the data's root mean square that of samples is, at most."""


def drawn(predictor: Predictor) -> tuple[Tensor, int]:
    """Some samples by DDIM, and in how many steps; 800 passes."""
    table = predictor.schedule.timesteps if isinstance(predictor.schedule, Table) else STEPS
    steps = max(k for k in range(1, STEPS + 1) if table % k == 0)
    return sample(predictor, COUNT, steps).cpu(), steps


def own_samples_are_data(predictor: Predictor, source: Source) -> bool:
    """Whether a model that knows nothing of some data knows samples of its own: then it is no data of its own kind."""
    if source.fingerprint == "model":
        return False
    try:
        found, _ = drawn(predictor)
    except LipdiagError:
        return False
    return bool(found.isfinite().all()) and found.numel() >= FEWEST and not doubt(predictor, found)


def samples(predictor: Predictor, source: Source) -> list[Fault]:
    """What is wrong with some samples beside some data."""
    try:
        found, steps = drawn(predictor)
    except LipdiagError:
        return []
    found = found.double()
    how = f"of {COUNT} samples by DDIM in {steps} steps"
    remedy = "look at the faults near the noise, at the schedule, and at the limit of x0 in sampling"
    if not found.isfinite().all():
        return [Fault("diverging_samples", (), f"{how}, some are not finite", remedy)]
    if source.fingerprint == "model":
        reason = doubt(predictor, found.float())
        return [Fault("doubtful_samples", (), reason, remedy)] if reason else []
    data = torch.stack([source.sample(i).double() for i in range(64)])
    size, own = (float(z.square().mean().sqrt()) for z in (found, data))
    low, high = float(data.min()), float(data.max())
    room = OUTSIDE * (high - low)
    out = float(((found < low - room) | (found > high + room)).double().mean())
    if size > LARGER * own or out > 0.01:
        evidence = (
            f"{how}, {out:.1%} of the entries lie outside [{plain(low - room)}, {plain(high + room)}], and the data "
            f"reach from {plain(low)} to {plain(high)}; root mean squares are {plain(size)} and {plain(own)}"
        )
        return [Fault("samples_out_of_range", (), evidence, remedy)]
    return []
