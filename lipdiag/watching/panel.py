"""What is looked at while a network is trained: always the same draws at the same timesteps, so that steps compare."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..data.dataset import Data
from ..design.arithmetic import arithmetic, differentiable, evaluating
from ..design.plan import Plan
from ..design.points import points
from ..diffusion.predictor import Predictor
from ..quantities.catalogue import QUANTITIES
from ..shared_network import lifted
from .difference import TIMESTEPS, count, differences, edges

SPECTRAL = 100
"""The timestep, of a thousand, at which the spectral norm is certified: near the data, and not where sigma is 0."""


@dataclass(frozen=True)
class Panel:
    """What is looked at.

    Attributes:
        timesteps: Where K and the loss are measured; the edges of shared blocks come by themselves.
        draws: Of data and noise, at each of them.
        spectral: Whether a spectral norm is certified too, at one timestep on one draw.
        seed: Of the draws.

    Example:
        >>> lipdiag.Panel(timesteps=(0, 10, 100)).draws
        64
    """

    timesteps: tuple[int, ...] = TIMESTEPS
    draws: int = 64
    spectral: bool = True
    seed: int = 0


class Reading(NamedTuple):
    """A row of a panel: `Difference`, and the spectral norm with its bound at 99 %, where it was certified."""

    timestep: int
    time_difference: float
    standard_error: float
    loss: float
    loss_standard_error: float
    spectral_norm: float = math.nan
    spectral_norm_upper: float = math.nan


class Seen(NamedTuple):
    """What a panel shows: a reading for each timestep, and which of these are edges of shared blocks."""

    readings: list[Reading]
    edges: list[int]


COLUMNS = ("step", *Reading._fields)


def observe(predictor: Predictor, data: Data, panel: Panel) -> Seen:
    """The panel of a model, in float32; mode, gradients, random numbers and switches are as they were afterwards.

    Cost: two evaluations of the model on each draw at each timestep, and some thirty on one sample.
    """
    with undisturbed(predictor):
        readings = [Reading(*row) for row in differences(predictor, data, panel.draws, panel.timesteps, panel.seed)]
        if panel.spectral and readings:
            wanted = SPECTRAL * count(predictor) // 1000
            k = min((reading.timestep for reading in readings), key=lambda k: abs(k - wanted))
            norm, upper = spectral_norm(predictor, data, k, panel.seed)
            readings = [
                r._replace(spectral_norm=norm, spectral_norm_upper=upper) if r.timestep == k else r for r in readings
            ]
        return Seen(readings, edges(predictor))


@contextmanager
def undisturbed(predictor: Predictor) -> Iterator[None]:
    """The model and the processor in the state for measuring, and as they were afterwards."""
    home = next((parameter.device for parameter in predictor.parameters()), torch.device("cpu"))
    with ExitStack() as state:
        state.enter_context(torch.random.fork_rng(devices=[home] if home.type == "cuda" else []))
        state.enter_context(differentiable(predictor))
        state.enter_context(arithmetic())
        state.enter_context(evaluating(predictor, Plan()))
        state.enter_context(lifted(predictor, torch.float32))
        yield


def spectral_norm(predictor: Predictor, data: Data, k: int, seed: int) -> tuple[float, float]:
    """The largest singular value of d eps / d x on one draw at timestep k, to 5 %, and its upper bound."""
    base = predictor.clock.base
    timestep = base(torch.tensor([(k + 1) / count(predictor)], dtype=torch.float64, device="cpu")).tolist()
    plan = Plan(timesteps=tuple(timestep), draws=1, quantities=("spectral_norm",), seed=seed)
    point = points(predictor, plan, lambda i: data[i], timestep, range(1), record=False)
    norms = QUANTITIES["spectral_norm"].measure(point)
    return norms["spectral_norm"].item(), norms["spectral_norm_upper"].item()


def numbers(seen: Seen) -> dict[str, float]:
    """The readings by name, as trackers take them; `jump` is the largest K at the edges of shared blocks."""
    columns: dict[str, float] = {}
    for reading in seen.readings:
        columns |= {f"{name}/{reading.timestep}": getattr(reading, name) for name in ("time_difference", "loss")}
        if math.isfinite(reading.spectral_norm):
            columns |= {name: getattr(reading, name) for name in ("spectral_norm", "spectral_norm_upper")}
    jumps = [reading.time_difference for reading in seen.readings if reading.timestep in seen.edges]
    return columns | ({"jump": max(jumps)} if jumps else {})
