"""Verdicts: a sentence about a run, and the number it rests on with its interval and how many draws.

Ratios of means over the same draws have the interval of their logarithm, r exp(+-h): to first order
log(a/b) varies as the mean of a_i / a - b_i / b, with Student's half-width h over the draws.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import UsageError
from ..findings.anatomy import of_run
from ..findings.geometry import derived, likelihood
from ..findings.modules import modules
from ..findings.steps import highest
from ..printing import plain
from ..results.curve import DERIVATIVES, QUOTIENTS, Curve, curves
from ..results.headline import SPEEDS, hedge, peak, reference, shared_words, spectral_norm
from ..results.run import Run
from ..statistics import Estimate, mean, ratio

if TYPE_CHECKING:
    from ..comparison.comparison import Comparison


RIGHT = 0.1
"""A slope is told to be right where all intervals are so near to 1."""

HARMLESS = 2.0
"""No singularity is told where K at its peak is shown to be at most so many times that of timestep 100."""


class Verdict(NamedTuple):
    """One finding about a run: a sentence and the number behind it.

    Attributes:
        words: A sentence.
        quantity: What the number is.
        estimate: The number.
    """

    words: str
    quantity: str
    estimate: Estimate

    def to_dict(self) -> dict[str, object]:
        return {"words": self.words, "quantity": self.quantity, **self.estimate.to_dict()}


def measured(*values: np.ndarray) -> list[np.ndarray]:
    """Draws that all of them have."""
    kept = np.logical_and.reduce([np.isfinite(v) for v in values])
    return [v[kept] for v in values]


def verdicts(run: Run) -> list[Verdict]:
    """What stands out in one run."""
    speeds = [name for name in DERIVATIVES if run.has(name)]
    said = list(of_speed(curves([run], speeds[0])[0])) if speeds else []
    for judge in (of_space, of_bound, of_slope, of_symmetry, of_loss, of_modules):
        said += judge(run)
    said += of_geometry(run)
    with suppress(UsageError):  # which is said where it is asked for
        growth = of_run(run)
        if growth.lawful:
            said.append(Verdict(growth.words, "p of K ~ t^p towards t = 0", growth.exponent))
        else:
            said.append(Verdict(growth.words, "by how much q changes between halves of the timesteps", growth.bend))
    return said


def of_speed(curve: Curve) -> Iterator[Verdict]:
    """How much faster than at timestep 100 the prediction changes at its peak; of a shared clock, the jumps."""
    run, s = curve.run, curve.statistics
    name = SPEEDS[curve.variable].replace("eps", run.output)
    if run.shared:
        heights = np.where(curve.jump, s.mean, -np.inf)
        if curve.jump.any():
            at, seen = int(heights.argmax()), "" if run.all_jumps else "measured "
            yield Verdict(
                shared_words(curve)[0],
                f"the largest {seen}jump, {name} at timestep {run.timestep[at]:g}, per timestep",
                mean(*measured(run.values(curve.variable)[at])),
            )
        else:
            where = "" if curve.variable not in QUOTIENTS or run.all_jumps else " apart from its jumps"
            yield Verdict(shared_words(curve)[0], f"{name}, the largest mean{where}", _largest(curve))
        return
    top, far = peak(curve), reference(curve)
    if top is None:
        return
    place = f"timestep {run.timestep[top]:.4g}"
    if far is None or far == top:
        yield Verdict(f"{name} is largest at {place}.", f"{name} there, {run.unit}", _largest(curve))
        return
    a, b = measured(*run.values(curve.variable)[[top, far]])
    growth, other = ratio(a, b), f"timestep {run.timestep[far]:.4g}"
    if growth.low > 1:
        early = "near the data" if top < far else "away from the data"
        what = "Its own output" if run.raw else "The noise prediction"
        words = f"{what} changes fastest at {place}, {early}: {plain(growth.value)} times as fast as at "
        words += f"{other} ({name} {plain(a.mean())} against {plain(b.mean())} {run.unit})."
    elif growth.high <= HARMLESS:
        words = f"No singularity was seen: {name} is largest at {place}, not measurably above its value at {other}."
    else:
        words = f"Whether there is a singularity is not decided: {name} is largest at {place}, but these draws do not "
        words += f"tell it from its value at {other}."
    what = f"{name} at {place} over {name} at {other} (the same draws chose the peak's place; of these two timesteps "
    yield Verdict(words, what + "alone: it varies from one to the next)", growth)


def _largest(curve: Curve) -> Estimate:
    top = peak(curve) or 0
    return mean(*measured(curve.run.values(curve.variable)[top]))


def _extreme(run: Run, variable: str) -> tuple[int, Estimate] | None:
    """Where the mean of a variable is largest, and that mean."""
    at = highest(run, variable)
    return None if at is None else (at, mean(*measured(run.values(variable)[at])))


def of_space(run: Run) -> Iterator[Verdict]:
    """Where the Jacobian in x is largest."""
    if not run.has("spectral_norm") or (at := peak(curve := spectral_norm(run))) is None:
        return
    s = curve.statistics
    low, high = (float(end) if np.isfinite(end) else np.nan for end in (s.low[at], s.high[at]))
    words = f"In space it is most sensitive at timestep {run.timestep[at]:.4g}{hedge(s, at)}: a small change of x "
    words += f"changes the {'output' if run.raw else 'predicted noise'} up to {plain(s.mean[at])} times as much, on "
    what = f"spectral norm of d {run.output}/dx, mean over draws; the interval holds the error of the draws"
    if run.has("spectral_norm_upper"):
        confidence = str(run.dataset["spectral_norm_upper"].attrs.get("confidence", "0.99")).split()[0]
        what += f" and the certified interval of each (confidence {confidence} a draw)"
    yield Verdict(words + "average over draws.", what, Estimate(float(s.mean[at]), low, high, int(s.count[at])))


def of_bound(run: Run) -> Iterator[Verdict]:
    """A true model's posterior covariance is no less than 0, so that sigma mu is at most 1."""
    if not run.has("denoising_bound") or (top := _extreme(run, "denoising_bound")) is None:
        return
    at, estimate = top
    where = f"at timestep {run.timestep[at]:.4g}"
    if estimate.low > 1:
        words = f"It breaks the bound of every true model, sigma times the largest eigenvalue at most 1, most {where}."
    elif estimate.high <= 1:
        words = f"It keeps the bound of every true model, sigma times the largest eigenvalue at most 1, also {where}."
    else:
        words = f"Whether it keeps the bound of every true model, at most 1, is not decided {where}."
    yield Verdict(words, "sigma times the largest eigenvalue of the symmetric part of d eps/dx", estimate)


def of_slope(run: Run) -> Iterator[Verdict]:
    """E <eps, eps_theta> = E |eps_theta|^2 for a true model."""
    if not (run.has("stein_product") and run.has("stein_square")):
        return
    slopes = []
    for place, both in enumerate(zip(run.values("stein_product"), run.values("stein_square"), strict=True)):
        a, b = measured(*both)
        if a.size and a.mean() > 0 and b.mean() > 0:
            slopes.append((place, ratio(a, b)))
    if not slopes:
        return
    place, worst = max(slopes, key=lambda pair: abs(np.log(pair[1].value)))
    where = f"timestep {run.timestep[place]:.4g}"
    if worst.low > 1 or worst.high < 1:
        size = "too small" if worst.value > 1 else "too large"
        words = f"Its predictions are {size} at {where}: the slope of the noise on them, 1 for a true model, is "
        words += f"{plain(worst.value)}."
    elif all(slope.low > 1 - RIGHT and slope.high < 1 + RIGHT for _, slope in slopes):
        words = f"Its predictions have the right size, within {RIGHT:.0%}, at every timestep that was measured; the "
        words += f"slope is farthest from 1 at {where}."
    else:
        words = "Whether its predictions have the right size is not decided: the slope, 1 for a true model, is "
        words += f"farthest from it at {where}, and the intervals do not lie within {RIGHT:.0%} of it."
    yield Verdict(words, f"<eps, eps_theta> over |eps_theta|^2 at {where} (of means; the worst of all)", worst)


def of_largest(run: Run, variable: str, words: str, what: str) -> Iterator[Verdict]:
    """Where the mean of a variable is largest, in words with {} for the timestep and how far it is shown."""
    if run.has(variable) and (top := _extreme(run, variable)) is not None:
        at, estimate = top
        yield Verdict(words.format(f"{run.timestep[at]:.4g}{hedge(run.statistics(variable), at)}"), what, estimate)


def of_symmetry(run: Run) -> Iterator[Verdict]:
    """A score is a gradient, so that its Jacobian is symmetric."""
    words = "Its Jacobian is least symmetric at timestep {}; that of a true model is symmetric."
    return of_largest(run, "asymmetry", words, "|J - J^T| over |J + J^T| (0 for a true model)")


def of_loss(run: Run) -> Iterator[Verdict]:
    """Where the prediction is worst."""
    words = "Its loss is highest at timestep {}."
    return of_largest(run, "loss", words, "squared error of the predicted noise, averaged over entries")


def of_modules(run: Run) -> Iterator[Verdict]:
    """Where inside the network a change grows most, and where it dies."""
    for m in modules(run):
        if (said := m.sentence()) is not None:
            yield Verdict(said[0], f"|dy| / |dx| of that module for a change of {m.of}, geometric mean", said[1])


def of_geometry(run: Run) -> Iterator[Verdict]:
    """The dimension of the data where the noise is least, and how likely they are."""
    follows = derived(run)
    for name, so in (
        ("dimension_by_trace", "By its trace the model has learned data of"),
        ("dimension_by_loss", "By its loss the data have at most"),
    ):
        if name in follows and np.isfinite(follows[name][0][0]).any():
            estimate = mean(*measured(follows[name][0][0]))
            words = f"{so} {plain(estimate.value)} of {run.dimension} dimensions"
            if name == "dimension_by_loss" and estimate.value >= (run.dimension or np.inf):
                words = f"Its loss bounds the dimensions of the data by no fewer than all {run.dimension} that x has"
            yield Verdict(f"{words} at the noise of timestep {run.timestep[0]:.4g}.", follows[name][1], estimate)
    if "memorized" in follows:
        share = mean(*measured(follows["memorized"][0][0]))
        words = f"At the noise of timestep {run.timestep[0]:.4g} the model knows {share.value:.0%} of these x0 by "
        yield Verdict(f"{words}heart.", follows["memorized"][1], share)
    with suppress(UsageError):
        nats, flow = likelihood(run.dataset), run.has("log_density")
        by = "along its flow, " if flow else "by its loss, at most "
        words = f"Minus the log-density of the data at the least noise is, {by}{plain(nats.value)} nats a number on "
        words += "average (below 0 where the density is above 1)."
        source = "along the probability flow" if flow else "from the loss at all noise levels"
        yield Verdict(words, f"nats per number of a sample, {source}", nats)


def between(comparison: "Comparison") -> list[Verdict]:
    """What a comparison states of the second model."""
    first, second = comparison.labels
    said = []
    for s in comparison.statements:
        by, word = (s.effect.ratio, "over") if s.by_ratio else (s.effect.difference, "minus")
        numbers = f"{plain(float(s.effect.b))} against {plain(float(s.effect.a))} in {first}"
        value, low, high = map(float, by)
        estimate = Estimate(value, low, high, int(s.effect.count))
        said.append(Verdict(f"{s.name}: {s.verdict} in {second}, {numbers}.", f"{second} {word} {first}", estimate))
    return said
