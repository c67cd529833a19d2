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

from .run import Run

LEAST_TIMES = 4
"""Below this many timesteps the schedule between them is unknown."""


@dataclass(frozen=True)
class Theory:
    """Curves over a run's timesteps, of the target rather than of the network.

    Attributes:
        schedule: sigma' per timestep (or the quotient of sigma): the shape for smooth data, its height unknown.
        points: sqrt(d) sigma'/sigma per timestep (or the quotient's value): isolated points in d dimensions.
    """

    schedule: np.ndarray
    points: np.ndarray


def theory(run: Run, variable: str) -> Theory | None:
    """The curves for `time_difference` or `time_derivative`; None where the run does not tell enough."""
    if run.dimension is None or run.timestep.size < LEAST_TIMES:
        return None
    log_sigma, speed = noise_level(run)
    root = np.sqrt(run.dimension)
    sigma = run.time("sigma")
    if variable == "time_derivative":
        rate = speed / run.time("t") * run.time("dt_dtimestep")
        return Theory(np.abs(rate * sigma), root * np.abs(rate))
    other, other_t = run.other
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        later = np.exp(log_sigma(np.log(other_t)))
        distance = np.abs(other - run.timestep)
        return Theory(np.abs(later - sigma) / distance, root * np.abs(1 - sigma / later) / distance)


def noise_level(run: Run) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """log sigma as a function of log t, and d log sigma / d log t at the run's times."""
    from scipy.interpolate import CubicHermiteSpline, CubicSpline

    t, alpha, sigma = run.time("t"), run.time("alpha"), run.time("sigma")
    with np.errstate(invalid="ignore", divide="ignore"):
        logsnr_speed = run.time("dlogsnr_dtimestep") / run.time("dt_dtimestep") * t
        place, level = np.log(t), np.log(sigma)
        # alpha = 0 at t = 1 leaves 0 * infinity, where sigma stands still
        speed = np.where(alpha > 0, -(alpha**2) * logsnr_speed / 2, 0.0)
    keep = np.isfinite(place) & np.isfinite(level)
    if not run.variance_preserving:
        spline = CubicSpline(place[keep], level[keep])
        return spline, spline(place, 1)
    keep &= np.isfinite(speed)
    return CubicHermiteSpline(place[keep], level[keep], speed[keep]), speed
