"""What every true model obeys, checked on the draws of a run without knowing the truth.

For x = alpha x0 + sigma eps and the best prediction eps* = E[eps | x]:
    E <eps, eps*> = E |eps*|^2 (Stein, Tweedie), so that no multiple of it would do better;
    E <eps, f(x)> = sigma E tr df/dx for every f, so that its loss is 1 - sigma E tr J / d, and what is above is excess;
    J = (I - (alpha/sigma)^2 Cov[x0 | x]) / sigma is symmetric, and sigma times its largest eigenvalue at most 1;
    the error in x0, (sigma/alpha)^2 times the loss, grows with the noise;
    told another time than its own, it errs more;
    predictions at different times obey one Fokker-Planck equation.
A trained network obeys them nearly. So each check has a threshold, wider than what good networks show, and its p-value
is that of Student's test that the true mean is beyond the threshold, over draws; several places are judged by Holm.

References:
    Efron, Tweedie's formula and selection bias, 2011.
    Guo, Wu, Shamai & Verdu, Estimation in Gaussian noise: properties of the minimum mean-square error, 2011.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

from ..results.run import Run
from ..statistics import Estimate, mean, moments, ratio

FEWEST = 8
"""Draws below which Student's test says nothing."""


class Test(NamedTuple):
    """One comparison with a threshold.

    Attributes:
        check: Name of the check.
        place: Row of the run's time axis; None where it is over several.
        estimate: What is compared.
        t: Student's statistic of how far it is beyond the threshold.
        p: How likely so much or more is where the truth is at the threshold.
        other: Row that it was compared with.
        slope: Of the noise on the prediction, where that was compared.
        said: What else was seen.
        at: Timestep, where that is no row's.
    """

    check: str
    place: int | None
    estimate: Estimate
    t: float
    p: float
    other: int | None = None
    slope: float | None = None
    said: str = ""
    at: float | None = None

    def timestep(self, run: Run) -> float | None:
        """At which timestep; None where it is over several."""
        return self.at if self.place is None else float(run.timestep[self.place])


def above(excess: np.ndarray, tries: int = 1) -> tuple[float, float]:
    """Student's statistic, and the p-value of his one-sided test that the true mean of some draws is above 0.

    Args:
        excess: The draws.
        tries: How many such tests this one is the best of.
    """
    if excess.size < FEWEST or not np.isfinite(excess).all():
        return 0.0, 1.0
    middle, error = (float(z) for z in moments(excess))
    t = middle / error if error > 0 else np.copysign(np.inf, middle or -1.0)
    return t, min(1.0, tries * float(stdtr(excess.size - 1, -t)))


def rows(run: Run, *names: str) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Each row with the draws of some variables, those that all of them have; rows of too few are left out."""
    every = [run.values(name) for name in names]
    for place in range(run.timestep.size):
        here = [values[place] for values in every]
        kept = np.logical_and.reduce([np.isfinite(v.reshape(len(v), -1)).all(1) for v in here])
        if kept.sum() >= FEWEST:
            yield place, tuple(v[kept] for v in here)


def size(run: Run, threshold: float) -> Iterator[Test]:
    """The share of the loss that a multiple of the answer would save, (E q - E p)^2 / (E q d L)."""
    for place, (p, q, loss) in rows(run, "stein_product", "stein_square", "loss"):
        if q.mean() > 0 < loss.mean():
            gap = np.sign(p.mean() - q.mean()) * (p - q)
            whole = q.mean() * (run.dimension or 1) * loss.mean()
            found = mean(gap)
            value, low, high = (max(z, 0.0) ** 2 / whole for z in found[:3])
            share = Estimate(value, low, high, found.draws)
            beyond = above(gap - np.sqrt(threshold * whole), 2)
            yield Test("size", place, share, *beyond, slope=float(p.mean() / q.mean()))


def excess(run: Run, threshold: float) -> Iterator[Test]:
    """What the loss is above 1 - sigma tr J / d; |noise|^2 - d, whose mean is 0, takes away of its spread."""
    d = run.dimension or 1
    for place, (p, q, loss, trace) in rows(run, "stein_product", "stein_square", "loss", "trace"):
        found = loss - 1 + run.time("sigma")[place] * trace / d
        control = loss + (2 * p - q) / d - 1
        found = found - (np.cov(found, control)[0, 1] / max(control.var(ddof=1), 1e-300)) * control
        yield Test("excess", place, mean(found), *above(found - threshold))


def order(run: Run, threshold: float) -> Iterator[Test]:
    """The error in x0 over that at a noisier time, of the same draws."""
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = (run.time("sigma") / run.time("alpha")) ** 2
    level = -run.time("logsnr")
    found = {place: factor[place] * loss for place, (loss,) in rows(run, "loss")}
    for place, here in found.items():
        noisier = [
            other
            for other, there in found.items()
            if level[other] > level[place] and here.size == there.size and np.isfinite(there).all()
        ]
        if noisier:
            (t, p), other = max((above(here - threshold * found[o], len(noisier)), o) for o in noisier)
            yield Test("order", place, ratio(here, found[other]), t, p, other)


def nothing(run: Run, threshold: float) -> Iterator[Test]:
    """The loss, 1 of a model that always answers 0."""
    for place, (loss,) in rows(run, "loss"):
        yield Test("nothing", place, mean(loss), *above(loss - threshold))


def expansion(run: Run, threshold: float) -> Iterator[Test]:
    """Sigma times the largest eigenvalue of the symmetric part of the Jacobian."""
    for place, (bound,) in rows(run, "denoising_bound"):
        said = f", and above 1 in {(bound > 1).mean():.0%} of the draws"
        yield Test("expansion", place, mean(bound), *above(bound - threshold), said=said)


def symmetry(run: Run, threshold: float) -> Iterator[Test]:
    """|J - J^T| over |J + J^T|."""
    for place, (asymmetry,) in rows(run, "asymmetry"):
        yield Test("symmetry", place, mean(asymmetry), *above(asymmetry - threshold))


def speed(run: Run, threshold: float) -> Iterator[Test]:
    """K over that of isolated points in log(sigma / alpha), sqrt(d) |d log(sigma/alpha) / d timestep|."""
    points = np.sqrt(run.dimension or 1) * np.abs(run.time("dlogsnr_dtimestep")) / 2
    for place, (K,) in rows(run, "time_difference"):
        if run.block(run.timestep)[place] < 0 and points[place] > 0:
            yield Test("speed", place, mean(K / points[place]), *above(K / points[place] - threshold))


def jump(run: Run, threshold: float) -> Iterator[Test]:
    """K over the larger of its neighbours, away from edges of blocks."""
    found = {place: K for place, (K,) in rows(run, "time_difference") if run.block(run.timestep)[place] < 0}
    for place, K in found.items():
        beside = [found[o] for o in (place - 1, place + 1) if o in found and found[o].size == K.size]
        if len(beside) == 2:
            high = max(beside, key=np.mean)
            yield Test("jump", place, ratio(K, high), *above(K - threshold * high))


def certain(check: str, value: float, threshold: float, n: int, place: int | None = None, said: str = "") -> Test:
    """What is no matter of chance: beyond the threshold or not."""
    return Test(
        check, place, Estimate(value, np.nan, np.nan, n), value - threshold, float(not value > threshold), said=said
    )


def still(run: Run, threshold: float) -> Iterator[Test]:
    """The share of draws whose answer is the same at two timesteps to the last bit, away from shared blocks."""
    for place, (K,) in rows(run, "time_difference"):
        if run.block(run.timestep)[place] < 0 and run.block(run.other[0])[place] < 0:
            yield certain("still", float((K == 0).mean()), threshold, K.size, place)


def told(run: Run, threshold: float) -> Iterator[Test]:
    """The loss of a network that is told another time, over that of one that is told its own."""
    for place, (swap,) in rows(run, "swap_loss"):
        own = swap[:, place]
        others = [o for o in range(swap.shape[1]) if o != place and not np.array_equal(swap[:, o], own)]
        if others and own.mean() > 0:
            other = min(others, key=lambda o: swap[:, o].mean())
            beyond = above(threshold * own - swap[:, other], len(others))
            yield Test("told", place, ratio(swap[:, other], own), *beyond, other)


def equation(run: Run, threshold: float) -> Iterator[Test]:
    """The squared residual of the Fokker-Planck equation, away from shared blocks, where time stands still."""
    for place, (residual,) in rows(run, "fokker_planck_residual"):
        if run.block(run.timestep)[place] < 0:
            yield Test("equation", place, mean(residual), *above(residual - threshold))
