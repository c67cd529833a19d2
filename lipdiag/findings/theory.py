"""What the target of training would show, from the schedule alone.

Write eps* for the exact noise prediction and ' for d/dt. At fixed x, d eps*/dt = sigma' d eps*/d sigma.
Smooth data: as sigma -> 0 it tends to sigma' E|grad log q0|, the schedule's own factor at a height the data set.
Data near a manifold: every direction in which the data are thinner than sigma adds (sigma'/sigma)^2, so that points
in d dimensions give sqrt(d) sigma'/sigma (root mean square); for the quotient of times t and t',
eps* = (x - alpha x0) / sigma gives sqrt(d) |1 - sigma_t / sigma_t'| / |t' - t|. Both leave out the data's own part,
|alpha' x0| / sigma, which is small where alpha' -> 0 or alpha^2 + sigma^2 = 1 and is not for a straight path.

sigma' comes from the stored d logsnr/dt: sigma'/sigma = alpha'/alpha - logsnr'/2, where alpha'/alpha =
-sigma^2 (sigma'/sigma) / alpha^2 if alpha^2 + sigma^2 = 1, hence sigma'/sigma = -alpha^2 logsnr'/2 exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..results.clock import second_times
from ..results.run import Run

GRID = 200
"""Times at which a line of theory is drawn, besides the measured ones."""

LEAST_TIMES = 4
"""Below this many timesteps the schedule between them is unknown."""


@dataclass(frozen=True)
class Theory:
    """Curves over timesteps, of the target rather than of the network.

    Attributes:
        timestep: Where they are known.
        schedule: sigma' per timestep (or the quotient of sigma): the shape for smooth data, its height unknown.
        points: sqrt(d) sigma'/sigma per timestep (or the quotient's value): isolated points in d dimensions.
    """

    timestep: np.ndarray
    schedule: np.ndarray
    points: np.ndarray


def theory(run: Run, variable: str, between: bool = False) -> Theory | None:
    """The curves for `time_difference` or `time_derivative` of eps; None where the run does not tell enough.

    Args:
        run: The run.
        variable: Which of them.
        between: Whether they are also wanted between the measured timesteps, as lines through them are drawn. Where
            the axis is the noise level that is not known, and they are at these alone.
    """
    if run.raw or run.over_logsnr or run.dimension is None or run.timestep.size < LEAST_TIMES:
        return None
    log_sigma, slope = noise_level(run)
    root = np.sqrt(run.dimension)
    timestep, sigma, rate, (other, other_t) = run.timestep, run.time("sigma"), run.time("dt_dtimestep"), run.other
    if between and not run.by_noise:
        t, timestep, rate = grid(run)
        sigma, slope = np.exp(log_sigma(t)), log_sigma(t, 1)
        other, other_t = second_times(timestep, t, rate, run.step, run.count if run.discrete else None)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if variable == "time_derivative":
            speed = slope * rate
            return Theory(timestep, np.abs(speed * sigma), root * np.abs(speed))
        later = np.exp(log_sigma(other_t))
        distance = np.abs(other - timestep)
        return Theory(timestep, np.abs(later - sigma) / distance, root * np.abs(1 - sigma / later) / distance)


def grid(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times t from the first measured one above 0 to the last, the timesteps there, and dt / d timestep."""
    from scipy.interpolate import CubicHermiteSpline

    order = np.argsort(run.time("t"))
    measured = run.time("t")[order]
    t = np.union1d(measured[measured > 0], np.geomspace(measured[measured > 0][0], measured[-1], GRID)[1:-1])
    timestep = CubicHermiteSpline(measured, run.timestep[order], 1 / run.time("dt_dtimestep")[order])
    return t, timestep(t), 1 / timestep(t, 1)


def noise_level(run: Run) -> tuple[Callable[..., np.ndarray], np.ndarray]:
    """log sigma as a function of t, or given t and 1 its derivative, and d log sigma / dt at the run's times.

    The slopes are exact where alpha^2 + sigma^2 = 1 or alpha = 1. Where alpha = 1 sigma begins above 0, and its
    logarithm is smooth in t; elsewhere it begins at 0, and its logarithm is smooth in log t.
    """
    from scipy.interpolate import CubicHermiteSpline, CubicSpline

    t, alpha, sigma = run.time("t"), run.time("alpha"), run.time("sigma")
    unscaled = bool((alpha == 1).all())
    with np.errstate(invalid="ignore", divide="ignore"):
        place, inner = (t, np.ones_like(t)) if unscaled else (np.log(t), 1 / t)
        # alpha = 0 at t = 1 leaves 0 * infinity, where sigma stands still
        rate = np.where(alpha > 0, -(alpha**2) * run.time("dlogsnr_dtimestep") / run.time("dt_dtimestep") / 2, 0.0)
        known, slopes = np.log(sigma), rate / inner
    keep = np.isfinite(place) & np.isfinite(known)
    if unscaled or run.variance_preserving:
        keep &= np.isfinite(slopes)
        spline = CubicHermiteSpline(place[keep], known[keep], slopes[keep])
    else:
        spline = CubicSpline(place[keep], known[keep])
        rate = spline(place, 1) * inner

    def level(t: np.ndarray, order: int = 0) -> np.ndarray:
        inner = 1.0 if unscaled or not order else 1 / t
        return np.asarray(spline(t if unscaled else np.log(t), order) * inner)

    return level, rate
