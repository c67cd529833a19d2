"""A measured time axis cut into pieces, with the change of the prediction over each, on which blocks are laid."""

from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from ..results.curve import Curve
from ..results.run import Run

LEAST_TIMES = 4
AWAY = (0.2, 0.8)
"""The part of the time axis that is away from the data, and from pure noise."""

CELLS = 4000
"""Pieces of a continuous time axis."""


@dataclass(frozen=True)
class Cells:
    """A time axis cut into pieces, with the change over each.

    Attributes:
        bounds: Timesteps between the pieces, from the data on.
        t: The time t of each piece's middle.
        x: The place of that middle on the run's logarithmic axis.
        known: Places of the measured times on that axis.
        change: K times the piece's length, for each draw (draws, cells).
        loss: Mean in each piece; None where it was not measured.
    """

    bounds: np.ndarray
    t: np.ndarray
    x: np.ndarray
    known: np.ndarray
    change: np.ndarray
    loss: np.ndarray | None

    @property
    def mean(self) -> np.ndarray:
        return self.change.mean(0)

    @property
    def widths(self) -> np.ndarray:
        return np.abs(np.diff(self.bounds))

    @property
    def speed(self) -> np.ndarray:
        """K, the mean over draws."""
        return self.mean / self.widths

    def place(self, timestep: float) -> int:
        """The number of the bound nearest to a timestep."""
        return int(np.abs(self.bounds - timestep).argmin())

    def after(self, t: float) -> int:
        """The number of the bound behind the piece whose middle is nearest to a t in [0, 1]."""
        return int(np.abs(self.t - t).argmin()) + 1

    def __str__(self) -> str:
        return f"{self.bounds[0]:g} to {self.bounds[-1]:g}"


def cut(curve: Curve) -> Cells:
    """Single timesteps of an index, or many geometric pieces; between measured times K is a power of the axis."""
    run = curve.run
    values = run.dataset[curve.variable].values
    whole = (run.dataset["done"].values == 1).all(0) & np.isfinite(values).all(0)
    if run.timestep.size < LEAST_TIMES or not whole.any():
        raise UsageError(
            f"{run.label} has {run.timestep.size} timesteps and {whole.sum()} draws done at all of them; advice needs "
            f"{LEAST_TIMES} and 1, so measure with `--timesteps log:64`"
        )
    if run.index:
        known, bounds, middle = whole_timesteps(run)
        if known[0] > 1:
            first = f"{run.timestep[0] - run.direction * (known[0] - 1):g}"
            raise UsageError(f"{run.label} was not measured at timestep {first}; measure it with `--timesteps log:64`")
    else:
        known, x = run.x, np.geomspace(run.x[0], run.x[-1], CELLS + 1)
        bounds, middle = timesteps_at(run, x), np.sqrt(x[1:] * x[:-1])
    speed = np.stack([interpolate(middle, known, draw) for draw in values[:, whole].T])
    loss = interpolate(middle, known, run.statistics("loss").mean) if run.has("loss") else None
    t = interpolate(middle, known, run.time("t"))
    return Cells(bounds, t, middle, known, speed * np.abs(np.diff(bounds)), loss)


def whole_timesteps(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For an index: places of the measured timesteps, 1 at the data; bounds of the cells; places of their K.

    K(k, k + 1) is that of the cell from k to k + 1, whichever of them is nearer to the data.
    """
    count, falls = round(1 / abs(run.time("dt_dtimestep")[0])), run.direction < 0
    known = count - run.timestep if falls else run.timestep + 1
    steps = np.arange(known[-1] + (not falls))
    return known, count - 1 - steps if falls else steps, steps[1:] + falls


def timesteps_at(run: Run, x: np.ndarray) -> np.ndarray:
    """The model's own time at places of the axis: a noise level is one, its logarithm linear in its own, t in t."""
    if run.clock.startswith("sigma"):
        return interpolate(x, run.x, run.timestep)
    return np.interp(np.log(x), np.log(run.x), run.timestep) if run.by_noise else np.interp(x, run.x, run.timestep)


def interpolate(x: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A power of x between known places; where values are not positive, linear in its logarithm."""
    if (values > 0).all():
        return np.exp(np.interp(np.log(x), np.log(known), np.log(values)))
    return np.interp(np.log(x), np.log(known), values)


def away(cells: Cells) -> float:
    """Median of K over the time away from the data."""
    t = np.linspace(*AWAY, 601)
    inside = (t >= cells.t[0]) & (t <= cells.t[-1])
    return float(np.median(np.interp(t[inside], cells.t, cells.speed))) if inside.any() else np.nan
