"""Ways to use a network: schedule, prediction, time it is told, range of its data; and the ways that are in use."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import UsageError
from .clock import CLOCKS, Clock, LogSigma, Reversed, Shared, Sigma, Timesteps, Unit
from .parameterization import (
    PARAMETERIZATIONS,
    Edm,
    Parameterization,
    data_velocity,
    eps,
    minus_eps,
    score,
    v,
    velocity,
    x0,
)
from .schedule import (
    SCHEDULES,
    VE,
    VP,
    Karras,
    Linear,
    Normalized,
    ScaledLinear,
    Schedule,
    SquaredCosine,
    Straight,
    Table,
)
from .spelling import parse, spell

PREDICTIONS: tuple[Parameterization, ...] = (eps, minus_eps, x0, v, velocity, data_velocity, score)

PARTS: Mapping[str, Mapping[str, Any]] = {"schedule": SCHEDULES, "parameterization": PARAMETERIZATIONS, "clock": CLOCKS}
"""The parts of a convention that are told by name, and where the names are looked up."""


class Whole(NamedTuple):
    """The parts of a convention that lacks none."""

    schedule: Schedule
    parameterization: Parameterization
    clock: Clock


@dataclass(frozen=True)
class Convention:
    """One way to use a network, as far as its user, its files or a guess tell it.

    Attributes:
        schedule: Amplitudes of signal and noise; None where nobody tells, as of the next two.
        parameterization: What its output is.
        clock: What it is told.
        scale: The data are multiplied by this,
        shift: and then shifted by this, before noise is added.
    """

    schedule: Schedule | None = None
    parameterization: Parameterization | None = None
    clock: Clock | None = None
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def of(cls, schedule: Any = None, parameterization: Any = None, clock: Any = None) -> "Convention":
        """The convention that texts as on the command line, or objects, tell; None tells nothing.

        Raises:
            UsageError: If a text spells nothing, or an object is of another kind.
        """
        parts: dict[str, Any] = {"schedule": schedule, "parameterization": parameterization, "clock": clock}
        fits = isinstance(schedule, Schedule), callable(parameterization), isinstance(clock, Clock)
        for (name, part), fit in zip(parts.items(), fits, strict=True):
            if isinstance(part, str):
                parts[name] = parse(part, PARTS[name])
            elif part is not None and not fit:
                raise UsageError(f"got a {type(part).__name__} as the {name}: give a text or an object of lipdiag's")
        return cls(**parts)

    @property
    def parts(self) -> dict[str, Any]:
        """The parts that are told, by name."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}

    @property
    def whole(self) -> Whole:
        """All three parts of a convention that lacks none."""
        if self.schedule is None or self.parameterization is None or self.clock is None:
            raise ValueError(
                f"got a convention of {' and '.join(self.parts) or 'nothing'}, which lacks a part: tell it"
            )
        return Whole(self.schedule, self.parameterization, self.clock)

    @property
    def spelled(self) -> dict[str, str | None]:
        """The parts as the command line takes them."""
        return {name: spell(self.parts[name]) if name in self.parts else None for name in PARTS}

    def over(self, other: "Convention") -> "Convention":
        """This convention, completed by what the other tells."""
        return replace(other, **self.parts)


UNTOLD = Convention()
"""A convention of which nobody tells anything."""

FLOW = Convention(Straight(), data_velocity, Reversed(Unit()))
"""Flow matching as its papers write it: time 0 is noise and 1 data, and the velocity points to the data."""


def flags(stated: Convention, best: Convention) -> str:
    """The options that lead from one convention to the other."""
    names = [name for name, part in best.parts.items() if part != getattr(stated, name)]
    return " ".join(f'--{name} "{best.spelled[name]}"' for name in names)


def changes(stated: Convention, other: Convention) -> int:
    """How many things the user would have to set."""
    return sum(getattr(stated, name) != getattr(other, name) for name in (*PARTS, "scale"))


def unique(items: Iterable) -> list:
    """Items in order, each once."""
    kept: list = []
    for item in items:
        if item not in kept:
            kept.append(item)
    return kept


def length(schedule: Schedule) -> int:
    return schedule.timesteps if isinstance(schedule, Table) else 1000


def common_clocks(schedule: Schedule) -> list[Clock]:
    """What networks are told, in any convention that is in use."""
    count = length(schedule)
    return [
        Timesteps(count),
        Unit(),
        Unit(float(count)),
        Sigma(schedule),
        LogSigma(schedule),
        LogSigma(schedule, 1.0),
        Reversed(Timesteps(count)),
        Reversed(Unit()),
        Reversed(Unit(float(count))),
    ]


def common_schedules(stated: Schedule) -> list[Schedule]:
    """The schedules in use, but for the stated one."""
    basic: list[Schedule] = [Linear(), ScaledLinear(), SquaredCosine(), VP(), VE(), Karras(), Straight()]
    known = [*basic, Normalized(Karras())]
    return [schedule for schedule in known if schedule != stated]


def natural_predictions(schedule: Schedule) -> list[Parameterization]:
    """What networks trained with a schedule predict beside the common predictions."""
    if isinstance(schedule, Normalized):
        return [Edm(schedule.sigma_data)]
    return [Edm()] if isinstance(schedule, VE | Karras) else []


def natural_clocks(schedule: Schedule) -> list[Clock]:
    """What networks trained with a schedule are told as a rule."""
    if isinstance(schedule, Table):
        return [Timesteps(length(schedule))]
    if isinstance(schedule, Straight):
        return [Unit(), Unit(1000.0), Reversed(Unit())]
    if isinstance(schedule, VE | Karras):
        return [Sigma(schedule), LogSigma(schedule)]
    if isinstance(schedule, Normalized):
        return [LogSigma(schedule.of)]
    return [Unit(), Unit(999.0)]


def rebuilt(clock: Clock, schedule: Schedule) -> Clock | None:
    """The same kind of clock on another schedule."""
    if isinstance(clock, Sigma | LogSigma):
        return replace(clock, schedule=schedule)
    return None if isinstance(clock, Shared) else clock


def other_range(data: Tensor) -> tuple[float, float]:
    """Scale and shift from [0, 1] to [-1, 1], or back where the data have more than a few negative values."""
    return (2.0, -1.0) if float(data.min()) >= -0.25 * float(data.max()) else (0.5, 0.5)
