"""Why K grows towards t = 0: the exponent of its power law, and what of it is the schedule's and what the data's.

K = |d ln sigma / dt| |d eps / d ln sigma|. The first factor is the schedule's clock and grows as 1/t, whatever it is.
The second is the data's: it goes as sigma^0 where the data are thinner than sigma in some directions (points, a
manifold), each of which adds 1 to its square, and as sigma^1 where they are smooth on that scale. With sigma ~ t^a,

    K ~ t^-1 sigma^q ~ t^(a q - 1):  -1 near a manifold;  for smooth data -1/2 where sigma^2 ~ t, 0 where sigma ~ t.

With T timesteps the first lies at t = 1/T, so that the largest K per unit of t grows as T to minus the exponent. For a
quotient of two times the same holds with |1 - sigma / sigma'| / |t' - t| for the first factor and sigma' for sigma.
"""

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..printing import WIDTH, plain
from ..results.run import Run, read
from ..statistics import LEVEL, Estimate, half_width, mean
from .geometry import derived
from .theory import Theory, noise_level, theory

if TYPE_CHECKING:
    import xarray as xr

DECADE = 10.0
"""The law is fitted from the first time measured up to so many times it."""

LEAST_TIMES = 4
HALF = 0.5
"""Half of the way from a manifold's exponent, 0, to that of smooth data, 1."""

BENT = 0.3
"""Two halves of the fit whose exponents are so far apart are no single power law."""

APART = 0.1
"""By such a share of all directions two counts of the thin ones may differ: they weigh differently those that are about
as thin as the noise, r (1 - r)^2 / (1 + r)^3 and r / (1 + r) for a Gaussian direction of variance sigma^2 / r."""

VARIABLES = ("time_derivative", "time_difference")
"""In the order of preference: a quotient sees nothing nearer than its step."""


@dataclass(frozen=True)
class Anatomy:
    """The singularity of one run, taken apart.

    Attributes:
        label: The run's.
        variable: What was fitted, `time_derivative` or `time_difference`.
        window: The first and the last t of the fit.
        times: Timesteps in it.
        exponent: p of K ~ t^p; this interval and the others allow for draws and for how K scatters about the law.
        schedule: The part of it that is the clock's.
        data: The rest.
        smoothness: q of |d eps / d ln sigma| ~ sigma^q: 0 near points or a manifold, 1 for smooth data.
        bend: By how much q is larger in the half of the window that is nearer to the data.
        codimension: Directions in which the data are thinner than the noise at the first time; None where the signal's
            own rate enters as well, which is so if neither alpha nor alpha^2 + sigma^2 is 1.
        counted: The same by the trace of the Jacobian, else by the loss (at least so many); None if neither is known.
        counter: By which.
        dimension: Numbers in a sample.
    """

    label: str
    variable: str
    window: tuple[float, float]
    times: int
    exponent: Estimate
    schedule: float
    data: Estimate
    smoothness: Estimate
    bend: Estimate
    codimension: Estimate | None
    counted: Estimate | None
    counter: str
    dimension: int

    @property
    def lawful(self) -> bool:
        """Whether K is shown to follow one power law."""
        return self.bend.low > -BENT and self.bend.high < BENT

    @property
    def contradicted(self) -> bool:
        """Whether K counts other directions than the trace or the loss does, as it cannot in an exact model."""
        mine, other = self.codimension, self.counted
        if mine is None or other is None:
            return False
        more = mine.low - other.high if self.counter == "trace" else -np.inf
        return bool(max(more, other.low - mine.high) > APART * self.dimension)

    @property
    def kind(self) -> str:
        """`smooth`, `manifold`, or `undecided` where the interval holds both, the law bends or K is contradicted."""
        if not self.lawful or self.contradicted:
            return "undecided"
        if self.smoothness.low > HALF:
            return "smooth"
        return "manifold" if self.smoothness.high < HALF else "undecided"

    def __str__(self) -> str:
        return textwrap.fill(self.words, WIDTH)

    @property
    def words(self) -> str:
        """What was found, in sentences on one line."""
        first, last = (plain(t) for t in self.window)
        where = f"(t from {first} to {last}, {self.times} timesteps)"
        if not self.lawful:
            said = f"Towards t = 0 K is not shown to follow one power of t {where}: q of its data's part, sigma^q, "
            said += f"changes by {ranged(self.bend)} between the halves of these timesteps. Neither an exponent nor a "
            return said + "dimension of the data can be told from it."
        said = f"Towards t = 0 K goes as t^p with p = {ranged(self.exponent)} {where}: {plain(self.schedule)} is the "
        said += f"schedule's clock, {ranged(self.data)} the data's, whose change per ln sigma goes as sigma^q with "
        said += f"q = {ranged(self.smoothness)} (0: points or a manifold, 1: smooth data). "
        power = -self.exponent.value
        growth = f" With T timesteps the largest K per unit of t grows as T^{plain(power) if power > 0 else 0}."
        return said + self.of_data() + growth

    def of_data(self) -> str:
        """What K says of the data, where it follows one law."""
        if self.contradicted and self.codimension is not None and self.counted is not None:
            least = "" if self.counter == "trace" else "at least "
            said = f"K counts {ranged(self.codimension)} of {self.dimension} directions that are thinner than the "
            said += f"noise, the {self.counter} {least}{ranged(self.counted)}: in an exact model they agree, so that "
            return said + "nothing is told of the data by the K of this one."
        said = {
            "manifold": "At this noise level the data that the model knows lie on a manifold or are points",
            "smooth": "At this noise level the data that the model knows are smooth",
            "undecided": "Which of the two the model's data are is not decided at this noise level",
        }[self.kind]
        if self.codimension is not None and self.kind != "undecided":
            said += f"; about {ranged(self.codimension)} of {self.dimension} directions are thinner than the noise"
        return said + "."

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__} | {"kind": self.kind}
        parts |= {"lawful": self.lawful, "contradicted": self.contradicted}
        return {name: part.to_dict() if isinstance(part, Estimate) else part for name, part in parts.items()}


def ranged(estimate: Estimate) -> str:
    """A number with its interval."""
    known = np.isfinite(estimate.low + estimate.high)
    return plain(estimate.value) + (f" [{plain(estimate.low)}, {plain(estimate.high)}]" if known else "")


def anatomy(run: "xr.Dataset", end: float | None = None) -> Anatomy:
    """Take the growth of K towards t = 0 apart.

    Args:
        run: What `measure` returned, with `time_derivative` or `time_difference` of eps near t = 0.
        end: The largest t of the fit; by default ten times the smallest one measured.

    Raises:
        UsageError: If the run has neither, shares timesteps, or has fewer than four timesteps so near to t = 0.

    Example:
        >>> run = lipdiag.open_run("digits-ddpm.zarr")
        >>> lipdiag.anatomy(run).exponent.value < 0  # K falls with t
        True
    """
    return of_run(read([run])[0], end)


def of_run(run: Run, end: float | None = None) -> Anatomy:
    """The anatomy of a run that was read; see `anatomy`."""
    variable = next((name for name in VARIABLES if run.has(name)), VARIABLES[0])
    run.demand([variable], variable, " --timesteps log:64")
    if run.shared:
        raise UsageError(
            f"{run.label} shares timesteps below {run.end:g}, where its K is 0 by construction; give a run of a model "
            "that does not"
        )
    law = theory(run, variable)
    if law is None or run.dimension is None:
        raise UsageError(f"{run.label} does not tell its noise level in time; give a run of eps over the model's time")
    t, places, sigma = axes(run, variable)
    last = DECADE * float(t.min()) if end is None else end
    near = (t <= last * (1 + 1e-9)) & (places * sigma > 0) & (law.points > 0) & np.isfinite(law.points)
    if near.sum() < LEAST_TIMES:
        raise UsageError(
            f"{run.label} has {near.sum()} timesteps up to t = {last:.3g}, at least {LEAST_TIMES} are needed; give a "
            "larger end, or measure more timesteps near t = 0"
        )
    return fitted(run, variable, law, near, (t, places, sigma))


def axes(run: Run, variable: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The run's t, the t that a number belongs to, and the sigma over which the data's factor is a power."""
    t = run.time("t")
    if variable == "time_derivative":
        return t, t, run.time("sigma")
    later = run.other[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return t, np.sqrt(t * later), np.exp(noise_level(run)[0](later))


def fitted(
    run: Run, variable: str, law: Theory, near: np.ndarray, places: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> Anatomy:
    """Exponents of each draw, as slopes of logarithms, and their means over draws."""
    counted, counter = thin(run, int(np.flatnonzero(near)[np.log(places[2][near]).argmin()]))
    clock = law.points[near] / np.sqrt(run.dimension or 1)
    values = run.values(variable)[near]
    values = values[:, np.isfinite(values).all(0) & (values > 0).all(0)]
    if not values.size:
        raise UsageError(f"{run.label} has no draw whose {variable} is positive near t = 0; nothing can be fitted")
    t, log_t, log_sigma = places[0][near], np.log(places[1][near]), np.log(places[2][near])
    rate = np.abs(run.time("dt_dtimestep")[near])
    factor = values / clock[:, None]
    order = np.argsort(log_sigma)
    lower, upper = order[: (len(order) + 1) // 2], order[len(order) // 2 :]
    halves = (slopes(log_sigma[part], np.log(factor[part])) for part in (lower, upper))
    unscaled = bool((run.time("alpha") == 1).all())
    return Anatomy(
        label=run.label,
        variable=variable,
        window=(float(t.min()), float(t.max())),
        times=int(near.sum()),
        exponent=exponent_of(log_t, np.log(values / rate[:, None])),
        schedule=float(slopes(log_t, np.log(clock / rate)[:, None])[0]),
        data=exponent_of(log_t, np.log(factor)),
        smoothness=exponent_of(log_sigma, np.log(factor)),
        bend=mean(next(halves) - next(halves)),
        codimension=mean(factor[order[0]] ** 2) if unscaled or run.variance_preserving else None,
        counted=counted,
        counter=counter,
        dimension=run.dimension or 1,
    )


def thin(run: Run, place: int) -> tuple[Estimate | None, str]:
    """How many directions are thinner than the noise at a timestep, and what counts them: the trace, else the loss."""
    follows = derived(run)
    for counter in ("trace", "loss"):
        if f"dimension_by_{counter}" in follows:
            wide = follows[f"dimension_by_{counter}"][0][place]
            return mean((run.dimension or 1) - wide[np.isfinite(wide)]), counter
    return None, ""


def exponent_of(x: np.ndarray, y: np.ndarray) -> Estimate:
    """The mean over draws of the slopes of y, with an interval that allows for draws and for the choice of times.

    Draws share their times, so that how the mean of y over draws scatters about its line is no noise of theirs. It is
    taken for independent from time to time: the half-width is the root of the sum of squares of Student's over draws,
    and of that of a fitted slope.
    """
    slope = mean(slopes(x, y))
    middle = y.mean(1)
    left = middle - middle.mean() - slope.value * (x - x.mean())
    error = np.sqrt(left @ left / (x.size - 2) / ((x - x.mean()) ** 2).sum())
    half = np.hypot((slope.high - slope.low) / 2, half_width(np.array(error), np.array(x.size - 1), LEVEL))
    return Estimate(slope.value, float(slope.value - half), float(slope.value + half), slope.draws)


def slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The slope of each column of y over x, by least squares."""
    centred = x - x.mean()
    return np.asarray(centred @ y / (centred @ centred))
