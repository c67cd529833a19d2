"""What a run says of itself: the model, the data and the plan it belongs to, its axes and its columns."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.clock import Clock, Shared
from ..diffusion.continuous import slope
from ..diffusion.predictor import NetworkPredictor, Predictor, RawOutput
from ..diffusion.spelling import spell
from ..quantities.catalogue import QUANTITIES
from ..quantities.modules import listed
from ..quantities.time import other_time
from ..store import store
from ..text import sound
from .plan import Plan

NUMERICS = 2
"""Raised whenever the same plan gives other numbers than before; runs of different numerics do not mix."""

GROWS = ("draws", "max_draws", "tolerance")
"""Fields of a plan that may change when a run is gone on with."""


Axis = tuple[np.ndarray, dict[str, Any]]
"""Values along time, and their attributes."""


@dataclass(frozen=True)
class Source:
    """Where x0 comes from.

    Attributes:
        sample: The x0 of each draw.
        name: What to call it.
        fingerprint: What a run goes on with alone.
        passes: Forward passes of the model that making one sample takes.
        stored: Whether x0 are read, and no network makes them, so that it may be done while one is measured.
        stand_in: In its place where the model is checked and timed, and samples would first have to be made.
        told: What the model is told with each draw's x0, its class among it; None where that is the same throughout.
        labels: What a run goes on with alone: a fingerprint of the classes.
        conditions: The names of what is told beside a class.
        notes: What has to be known of it; more may come while samples are made.
    """

    sample: Callable[[int], Tensor]
    name: str
    fingerprint: str
    passes: int = 0
    stored: bool = False
    stand_in: Callable[[int], Tensor] | None = None
    told: Callable[[int], dict[str, Tensor]] | None = None
    labels: str = ""
    conditions: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def fingerprint(predictor: Predictor) -> str:
    """SHA-256 over the names, types, shapes and bytes of a model's weights; compiled or not, it is the same model."""
    return digest({name.replace("_orig_mod.", ""): value for name, value in predictor.state_dict().items()})


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 over names and values; of tensors the types, shapes and bytes."""
    hashed = hashlib.sha256()
    for name, value in sorted(values.items()):
        if isinstance(value, Tensor):
            tensor = value.detach().cpu().contiguous()
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hashed.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        else:
            hashed.update(f"{name} {value!r}".encode())
    return hashed.hexdigest()


def describe(predictor: Predictor) -> dict[str, Any]:
    """What a model is, for the record: everything that changes its numbers."""
    bare = predictor.predictor if isinstance(predictor, RawOutput) else predictor
    network = getattr(bare, "network", bare)
    network = getattr(network, "_orig_mod", network)
    described = {
        "network": type(network).__name__,
        "weights_sha256": fingerprint(predictor),
        "schedule": spell(predictor.schedule),
        "parameterization": spell(bare.parameterization) if isinstance(bare, NetworkPredictor) else "eps",
        "clock": spell(predictor.clock),
        "shape": list(predictor.shape),
    }
    # What most models lack is left out, so that runs made before it existed can be gone on with.
    if predictor.function != "eps":
        described["function"] = predictor.function
    if inputs := getattr(bare, "conditioning", {}):
        described["conditioning_sha256"] = digest(inputs)
    return described


def frozen(predictor: Predictor, source: Source, plan: Plan, timesteps: np.ndarray) -> dict[str, Any]:
    """All that must be the same for a run to be gone on with."""
    asked = {key: value for key, value in json.loads(plan.json()).items() if key not in (*GROWS, "timesteps")}
    if plan.products == "ieee":
        del asked["products"]
    record = {
        "model": describe(predictor),
        "data": {
            "name": source.name,
            "sha256": source.fingerprint,
            **({"labels_sha256": source.labels} if source.labels else {}),
        },
        "plan": {**asked, "timesteps": timesteps.tolist()},
        "numerics": NUMERICS,
    }
    return dict(sound(record))


def coordinates(predictor: Predictor, timesteps: np.ndarray) -> dict[str, Axis]:
    """The time axis in every unit, and the factors between them."""
    clock = predictor.clock.base
    timestep = torch.from_numpy(timesteps)
    t = clock.time(timestep)
    alpha, sigma = predictor.schedule(t)
    clock_rate = slope(clock, t)
    logsnr, logsnr_rate = predictor.schedule.logsnr(t), slope(predictor.schedule.logsnr, t)
    described = {
        "timestep": (timestep, "the model's own time", clock.unit),
        "t": (t, "unit time, 0 = data, 1 = noise", "1"),
        "alpha": (alpha, "signal amplitude", "1"),
        "sigma": (sigma, "noise level", "1"),
        "logsnr": (logsnr, "2 log(alpha / sigma)", "1"),
        "dt_dtimestep": (1 / clock_rate, "multiplies a derivative per t into one per timestep", "1/timestep"),
        "dlogsnr_dtimestep": (
            logsnr_rate / clock_rate,
            "divides a derivative per timestep into one per log-SNR",
            "1/timestep",
        ),
    }
    return {
        name: (value.detach().numpy(), {"long_name": what, "units": unit})
        for name, (value, what, unit) in described.items()
    }


def second_times(clock: Clock, timesteps: np.ndarray, step: float | None) -> dict[str, Axis]:
    """The other time of each difference quotient, in the model's own unit and in unit time."""
    other = other_time(clock, torch.from_numpy(timesteps), step)
    what = "the second time of time_difference"
    return {
        "other_timestep": (other.numpy(), {"long_name": what, "units": clock.unit}),
        "other_t": (clock.time(other).numpy(), {"long_name": f"{what} in unit time", "units": "1"}),
    }


def edges(clock: Clock) -> list[float]:
    """The edges of the blocks that share a timestep, as the clock has them."""
    return list(clock.bounds) if isinstance(clock, Shared) else []


def columns(plan: Plan, predictor: Predictor, timesteps: np.ndarray) -> dict[str, store.Column]:
    """Every variable the plan fills, with its attributes."""
    filled = {}
    entries = int(np.prod(predictor.shape))
    sizes = {"rank": plan.accuracy.kept(entries), "other": len(timesteps), "entry": entries}
    for quantity in plan.quantities:
        for name, variable in QUANTITIES[quantity].variables.items():
            attributes: dict[str, Any] = {
                "long_name": variable.long_name,
                "units": variable.units,
                "norm": variable.norm,
                "quantity": quantity,
            }
            if "module" in variable.dimensions:
                sizes["module"] = len(inside := listed(predictor))
                attributes["modules"] = list(inside)
            attributes |= variable.facts(predictor.clock, plan.accuracy, torch.from_numpy(timesteps[:1]))
            filled[name] = store.Column(attributes, {extra: sizes[extra] for extra in variable.dimensions})
    return filled
