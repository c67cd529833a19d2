"""Ways to use a network: schedule, prediction, time it is told, range of its data; and the ways that are in use."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from .clock import Clock, LogSigma, Reversed, Shared, Sigma, Timesteps, Unit
from .parameterization import Edm, Parameterization, data_velocity, eps, minus_eps, score, v, velocity, x0
from .schedule import (
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
from .spelling import spell

PREDICTIONS: tuple[Parameterization, ...] = (eps, minus_eps, x0, v, velocity, data_velocity, score)


@dataclass(frozen=True)
class Convention:
    """One way to use a network.

    Attributes:
        schedule: Amplitudes of signal and noise.
        parameterization: What its output is.
        clock: What it is told.
        scale: The data are multiplied by this,
        shift: and then shifted by this, before noise is added.
    """

    schedule: Schedule
    parameterization: Parameterization
    clock: Clock
    scale: float = 1.0
    shift: float = 0.0


def flags(told: Convention, best: Convention) -> str:
    """The options that lead from one convention to the other."""
    names = [name for name in ("schedule", "parameterization", "clock") if getattr(best, name) != getattr(told, name)]
    return " ".join(f'--{name} "{spell(getattr(best, name))}"' for name in names)


def changes(told: Convention, other: Convention) -> int:
    """How many things the user would have to set."""
    names = ("schedule", "parameterization", "clock", "scale")
    return sum(getattr(told, name) != getattr(other, name) for name in names)


def unique(items: Iterable) -> list:
    """Items in order, each once."""
    found: list = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


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


def common_schedules(told: Schedule) -> list[Schedule]:
    """The schedules in use, but for the told one."""
    plain: list[Schedule] = [Linear(), ScaledLinear(), SquaredCosine(), VP(), VE(), Karras(), Straight()]
    known = [*plain, Normalized(Karras())]
    return [schedule for schedule in known if schedule != told]


def natural_predictions(schedule: Schedule) -> list[Parameterization]:
    """What networks trained with a schedule predict beside the common predictions."""
    return [Edm(schedule.sigma_data)] if isinstance(schedule, Normalized) else []


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
