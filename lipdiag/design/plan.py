"""What is to be measured: which quantities, at which times, on how many draws.

A plan is frozen into the run it made. Two runs of one plan see the same data, noise and random vectors, whatever
the model, so that their differences are paired.
"""

import dataclasses
import json
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..diffusion.clock import Clock, Reversed, Shared, Timesteps, Unit
from ..diffusion.schedule import Schedule
from ..errors import UsageError, unknown
from ..linalg.products import PRODUCTS
from ..quantities.accuracy import Accuracy
from ..quantities.catalogue import OWNERS, QUANTITIES, passes
from ..quantities.quantity import Work

COUNTS = {"draws": 1, "max_draws": 1, "krylov_steps": 1, "ranks": 1, "probes": 1, "batch": 1, "seed": 0}
"""Fields of a plan that are whole numbers, and the least that each may be."""

MOST_TIMES = 2**16
"""Timesteps of a run."""

CONTINUOUS_RANGE = (1e-3, 0.999)
"""Where `log:N` starts and ends in t for a model of continuous time: its ends proper have no log-SNR."""


@dataclass(frozen=True)
class Plan(Accuracy):
    """What to measure, on what, how well: beside what follows it takes the fields of an `Accuracy`, by name.

    Attributes:
        timesteps: In the model's own unit: numbers, or text: `0,10,20`, `start:stop:step`, `log:N` (N of them, evenly
            spaced in the logarithm of an index, in log-SNR for a model of continuous time), `pairs:N` (these and the
            next one to each, or `log:2N` for a model of continuous time).
        draws: Samples x0 with their noise, at each timestep; under `tolerance` the first look.
        quantities: Names in `QUANTITIES`.
        tolerance: Keep drawing until the relative half-width of every mean's 95 % interval is below it.
        max_draws: Where drawing stops under `tolerance`.
        seed: Of data, noise and random vectors.
        dtype: Of the network's arithmetic, `float32` or `float64`.
        batch: (draw, timestep) pairs in a unit and a micro-batch. By default, or for `auto`, units follow from the size
            of x, and as many are measured at once as fill the device and fit into its memory.

    Example:
        >>> plan = lipdiag.Plan(timesteps="0,10,100", draws=16, quantities=("time_difference", "loss"))
        >>> plan.replace(draws=32).draws
        32
    """

    timesteps: str | tuple[float, ...] = "log:64"
    draws: int = 64
    quantities: tuple[str, ...] = ("time_derivative", "time_difference", "spectral_norm", "loss")
    tolerance: float | None = None
    max_draws: int = 4096
    seed: int = 0
    dtype: str = "float32"
    batch: int | str | None = None

    def __post_init__(self) -> None:
        named, times = self.quantities, self.timesteps
        named = (named,) if isinstance(named, str) or not isinstance(named, Iterable) else named
        object.__setattr__(self, "quantities", tuple(dict.fromkeys(OWNERS.get(name, name) for name in named)))
        if not isinstance(times, str):
            times = times if isinstance(times, Iterable) else (times,)
            object.__setattr__(self, "timesteps", tuple(decimal("a timestep", k) for k in times))
        for name in self.quantities:
            if name not in QUANTITIES:
                raise unknown("quantity", name, sorted(QUANTITIES))
        if not self.quantities:
            raise UsageError("a plan needs at least one quantity")
        if self.batch == "auto":
            object.__setattr__(self, "batch", None)
        for name in (*COUNTS, "step", "tolerance", "confidence", "certified_width"):
            if (value := getattr(self, name)) is not None or name not in ("batch", "step", "tolerance"):
                number = integer(name, value) if name in COUNTS else decimal(name, value)
                object.__setattr__(self, name, number)
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise UsageError(f"tolerance is {self.tolerance}, it must lie between 0 and 1 (0.05 is 5 %)")
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence is {self.confidence}, it must lie between 0 and 1")
        if self.certified_width <= 0:
            raise UsageError(f"certified_width is {self.certified_width}, it must be positive (0.05 is 5 %)")
        if self.dtype not in ("float32", "float64"):
            raise UsageError(f"dtype is {self.dtype!r}, it must be float32 or float64")
        if self.products not in (*PRODUCTS, "auto"):
            raise UsageError(f"products are {self.products!r}, they must be {', '.join(PRODUCTS)} or auto")
        if self.products in PRODUCTS[1:] and self.dtype != "float32":
            raise UsageError(
                f"{self.products} products are of float32 and dtype is {self.dtype}; leave one of them out"
            )
        if self.step is not None and self.step == 0:
            raise UsageError("step is 0, the two times of time_difference must differ")

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def accuracy(self) -> Accuracy:
        """What a point needs of the plan."""
        return Accuracy(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Accuracy)})

    def passes(self, krylov_steps: int, shape: tuple[int, ...] = ()) -> int:
        """The floor: forward passes that a (draw, timestep) pair needs at least, after that many Krylov steps.

        Args:
            krylov_steps: Taken.
            shape: A sample's.
        """
        times = self.timesteps if isinstance(self.timesteps, tuple) else _read(self.timesteps, Unit())
        return passes(self.quantities, Work(krylov_steps, self.probes, len(times), math.prod(shape)))

    def replace(self, **changes: Any) -> "Plan":
        """The same plan with some fields changed."""
        return dataclasses.replace(self, **changes)

    def json(self) -> str:
        """Canonical text, the same for equal plans."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def integer(name: str, value: Any) -> int:
    """A field of a plan that is a whole number, of numpy's kind or Python's, as Python's.

    Raises:
        UsageError: If it is none, or too small.
    """
    least, integral = COUNTS[name], isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if integral and value >= least:
        return int(value)
    kind = "" if integral else "a whole number, "
    raise UsageError(f"{name} is {value!r}, it must be {kind}at least {least}{', or auto' if name == 'batch' else ''}")


def decimal(name: str, value: Any) -> float:
    """A field of a plan that is a number, of numpy's or torch's kind or Python's, as Python's.

    Raises:
        UsageError: If it is none.
    """
    single = isinstance(value, torch.Tensor) and value.ndim == 0
    if (single or isinstance(value, numbers.Real)) and not isinstance(value, bool):
        return float(value)
    raise UsageError(f"{name} is {value!r}, it must be a number")


def refuse_planned(words: Mapping[str, Any]) -> None:
    """Refuse what belongs into a plan among the words for a model."""
    planned = [field.name for field in dataclasses.fields(Plan) if field.name in words]
    if planned:
        given = ", ".join(f"{name}={words[name]!r}" for name in planned)
        raise UsageError(f"got {given}, which is of the plan and not of the model; give plan=Plan({given})")


def resolve_timesteps(timesteps: str | tuple[float, ...], clock: Clock, schedule: Schedule | None = None) -> np.ndarray:
    """Timesteps in the model's own unit that a plan's `timesteps` stands for, increasing in t.

    Args:
        timesteps: Numbers, or text.
        clock: The model's.
        schedule: The model's, over whose log-SNR `log:N` is even for a model of continuous time.

    Raises:
        UsageError: For text that is no list, range or `log:N`, or for times outside [0, 1].
    """
    asked = _read(timesteps, clock, schedule) if isinstance(timesteps, str) else np.asarray(timesteps, dtype=np.float64)
    bounded(asked.size, timesteps)
    if asked.size == 0 or not np.isfinite(asked).all():
        raise UsageError(f"timesteps {timesteps!r} are not a list of finite numbers")
    t = clock.time(torch.from_numpy(asked)).numpy()
    first, last = (float(clock.base(torch.tensor(end, dtype=torch.float64, device="cpu"))) for end in _ends(clock))
    outside = asked[~((t >= 0) & (t <= 1))]
    if outside.size:
        raise UsageError(
            f"timestep {outside[0]:g} is out of range; this model's timesteps run from {first:g} to {last:g}"
        )
    order = np.argsort(t, kind="stable")
    asked = asked[order]
    if (np.diff(t[order]) == 0).any():
        raise UsageError(f"timesteps {timesteps!r} name the same time twice")
    return asked


def bounded(number: float, timesteps: object) -> None:
    """Refuse more timesteps than a run can have, before they are counted out."""
    if not number <= MOST_TIMES:
        raise UsageError(
            f"timesteps {str(timesteps)[:60]!r} are {number:.4g} times and a run has at most {MOST_TIMES}; give a "
            "larger step, or log:64"
        )


def _ends(clock: Clock) -> tuple[float, float]:
    """First and last t of a default grid."""
    index = _index(clock)
    return CONTINUOUS_RANGE if index is None else (1 / index.count, 1.0)


def _index(clock: Clock) -> Timesteps | None:
    """The index that a clock counts, forwards or backwards; None for one of continuous time."""
    inner = clock.base.clock if isinstance(clock.base, Reversed) else clock.base
    return inner if isinstance(inner, Timesteps) else None


def _read(text: str, clock: Clock, schedule: Schedule | None = None) -> np.ndarray:
    try:
        if text.startswith("log:"):
            number = int(text[4:])
            if number < 1:
                raise UsageError(f"timesteps {text!r} ask for {number} times, at least 1 is needed")
            bounded(number, text)
            return logarithmic(number, clock, schedule)
        if text.startswith("pairs:"):
            return pairs(_read(f"log:{int(text[6:]) * (1 if _index(clock) else 2)}", clock, schedule), clock)
        if ":" in text:
            start, stop, step = (float(part) for part in text.split(":"))
            bounded((stop - start) / step, text)
            return np.arange(start, stop, step)
        return np.array([float(part) for part in text.split(",")])
    except (ValueError, ZeroDivisionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"timesteps {text!r} are neither a list `0,10,20`, a range `0:1000:10`, nor `log:64`"
        ) from error


def logarithmic(number: int, clock: Clock, schedule: Schedule | None = None) -> np.ndarray:
    """`number` distinct timesteps, the first and the last included.

    Of an index they are integers evenly spaced in log t (all of them where it has fewer). Where the clock shares
    timesteps in blocks, those are among them at which K reaches over an edge: that is where the model jumps. Of a
    continuous time they are evenly spaced in log-SNR, and in log t where no schedule tells it.
    """
    index = _index(clock)
    if index is None:
        t = torch.from_numpy(np.geomspace(*CONTINUOUS_RANGE, number) if number > 1 else np.array(CONTINUOUS_RANGE[:1]))
        if schedule is not None and number > 1:
            first, last = schedule.logsnr(t[[0, -1]]).tolist()
            t[1:-1] = schedule.time(torch.linspace(first, last, number, dtype=torch.float64, device="cpu"))[1:-1]
        return clock.base(t).numpy()
    places = whole(number, index.count)
    if isinstance(clock, Shared):
        edges = np.asarray(clock.bounds[1:])
        places = with_jumps(places, index.count - 1 - edges if isinstance(clock.base, Reversed) else edges - 1)
    return index.count - 1 - places if isinstance(clock.base, Reversed) else places


def whole(number: int, count: int) -> np.ndarray:
    """`number` of the integers below `count`, from 0 on, evenly spaced in the logarithm of one more."""
    if number >= count:
        return np.arange(count, dtype=np.float64)
    places = [1]
    for left in range(number - 1, 0, -1):
        here = places[-1]
        places.append(max(here + 1, round(here * (count / here) ** (1 / left))))
    return np.array(places, dtype=np.float64) - 1


def pairs(timesteps: np.ndarray, clock: Clock) -> np.ndarray:
    """Timesteps, of an index each with the next one."""
    index = _index(clock)
    return timesteps if index is None else np.union1d(timesteps, np.minimum(timesteps + 1, index.count - 1))


def with_jumps(timesteps: np.ndarray, jumps: np.ndarray) -> np.ndarray:
    """Timesteps of which the nearest to each jump is moved to it; the first and the last stay."""
    free = np.ones(timesteps.size, dtype=bool)
    free[[0, -1]] = False
    for jump in jumps:
        if jump in timesteps:
            free[timesteps == jump] = False
    for jump in jumps:
        if jump not in timesteps and free.any():
            distance = np.where(free, np.abs(np.log1p(timesteps) - np.log1p(jump)), np.inf)
            nearest = int(distance.argmin())
            timesteps[nearest], free[nearest] = jump, False
    return np.sort(timesteps)


def gone_on(timesteps: np.ndarray, plan: Plan, clock: Clock, frozen: Any) -> np.ndarray:
    """A plan's timesteps, or those that `log:N` stood for, even in log t, where a run to be gone on with has them."""
    asked = plan.timesteps
    if not (isinstance(asked, str) and asked.startswith("log:")) or isinstance(clock.base, Timesteps):
        return timesteps
    former = clock.base(torch.from_numpy(np.geomspace(*CONTINUOUS_RANGE, int(asked[4:])))).numpy()
    return former if frozen.get("plan", {}).get("timesteps") == former.tolist() else timesteps
