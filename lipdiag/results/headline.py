"""What stands out in curves, as numbers and in words."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..printing import plain, with_half_width
from ..statistics import ratio
from .curve import Curve
from .distribution import Statistics
from .run import Run

SPEEDS = {"time_difference": "K", "time_derivative": "|d eps/dt|"}
REFERENCE = 0.1
"""Where on the time axis a peak near t = 0 is compared: timestep 100 of 1000."""


def peak(curve: Curve) -> int | None:
    """Where the mean is largest; None where nothing was measured."""
    mean = curve.statistics.mean
    return int(np.nanargmax(mean)) if np.isfinite(mean).any() else None


def hedge(s: Statistics, top: int) -> str:
    """What to say behind the timestep of a largest mean, as far as others are not shown to have less."""
    others = np.delete(s.high, top)
    others = others[~np.isnan(others)]
    near = int((others >= s.low[top]).sum())
    if not others.size:
        return ", the only one measured"
    if near == others.size:
        return ", and no timestep is shown to have less"
    return f", not shown to be above {near} of the {others.size} others" if near else ""


def spectral_norm(run: Run) -> Curve:
    """The spectral norm over time, in an interval of its mean that holds the error of the draws and of each draw.

    Each draw's norm lies between its lower and its upper bound, so that the mean of all does between the low end of
    Student's interval of the lower bounds and the high end of that of the upper ones; told is the middle of both means.
    """
    lower = run.statistics("spectral_norm")
    upper = run.statistics("spectral_norm_upper") if run.has("spectral_norm_upper") else lower
    middle = (lower.mean + upper.mean) / 2
    half = (upper.mean - lower.mean) / 2 + np.maximum(lower.half_width, upper.half_width)
    return Curve(run, "spectral_norm", replace(lower, mean=middle, low=middle - half, high=middle + half))


def reference(curve: Curve) -> int | None:
    """The measured point nearest to timestep 100 of 1000 that is neither 0 nor a jump."""
    usable = curve.line & (curve.statistics.mean > 0)
    if not usable.any():
        return None
    run = curve.run
    distance = np.abs(run.timestep / run.count - REFERENCE) if run.discrete else np.abs(run.time("t") - REFERENCE)
    return int(np.where(usable, distance, np.inf).argmin())


def total(curve: Curve, end: float) -> float | None:
    """The sum of a quotient over the timesteps 0, 1, ... below `end`, linear between those measured.

    None where it cannot be told: a jump was not measured, the time is no index, or the ends of the range are missing.
    """
    run = curve.run
    if not run.discrete or (run.shared and (run.missing_jumps or run.end != end)):
        return None
    inside = (run.timestep < end) & np.isfinite(curve.statistics.mean)
    if run.shared:
        still = (curve.zero | curve.jump)[inside].all()
        return float(curve.statistics.mean[inside & curve.jump].sum()) if still else None
    if not inside.any() or run.timestep[inside][0] > 0 or run.timestep.max() < end - 1:
        return None
    return float(np.interp(np.arange(end), run.timestep, curve.statistics.mean).sum())


def sentences(curves: Sequence[Curve]) -> list[str]:
    """What stands out in each run, and between a run without shared timesteps and one with."""
    said = [words for curve in curves for words in (shared_words(curve) if curve.run.shared else peak_words(curve))]
    for number, curve in enumerate(curves):
        if curve.run.shared:
            # the twin is the nearest before it, else the first after it
            twins = [*reversed(curves[:number]), *curves[number + 1 :]]
            said += next((moved_words(twin, curve) for twin in twins if not twin.run.shared), [])
    return said


def peak_words(curve: Curve) -> list[str]:
    """How much faster a model changes at its peak than at timestep 100."""
    top, far = peak(curve), reference(curve)
    name = SPEEDS[curve.variable].replace("eps", curve.run.output)
    if top is None:
        return [f"{curve.run.label}: {name} was measured nowhere."]
    where = f"{curve.run.timestep[top]:.4g} with {value(curve, top)}"
    doubt = hedge(curve.statistics, top)
    if doubt.startswith((", and no", ", the only")):
        return [f"{curve.run.label}: {name} is largest at timestep {where}{doubt}."]
    said = f"{curve.run.label}: {name} peaks at timestep {where}"
    if far is not None and far != top:
        a, b = curve.run.values(curve.variable)[[top, far]]
        kept = np.isfinite(a + b)
        times = str(ratio(a[kept], b[kept])).partition(", n")[0]
        said += f", {times} times its value at timestep {curve.run.timestep[far]:.4g} ({value(curve, far)})"
    return [said + "."]


def shared_words(curve: Curve) -> list[str]:
    """A model that shares timesteps is judged by its jumps, never by the zeros between them."""
    run, mean = curve.run, curve.statistics.mean
    inside = run.before(run.end) & np.isfinite(mean)
    still, moving = inside & curve.zero, inside & curve.line
    name = SPEEDS[curve.variable].replace("eps", curve.run.output)
    said = [
        f"{run.label}: {name} is exactly 0 inside its {len(run.edges) - 1} blocks below timestep {run.end:g}, "
        f"by construction ({still.sum()} of {(inside & ~curve.jump).sum()} measured timesteps)."
    ]
    if moving.any():
        said.append(f"It is not 0 at {moving.sum()} timesteps inside blocks (at most {plain(mean[moving].max())}).")
    if curve.variable != "time_difference":
        said.append(f"Where the change went is seen in time_difference alone: measure that of {run.label}.")
    elif curve.jump.any():
        places = ", ".join(f"{k:g}" for k in run.timestep[curve.jump])
        heights = ", ".join(plain(value) for value in mean[curve.jump])
        said.append(f"It jumps between blocks, at {places}, by {heights}.")
    if run.missing_jumps and curve.variable == "time_difference":
        said.append(f"Its jumps at {', '.join(map(str, run.missing_jumps))} were not measured.")
    everything = total(curve, run.end) if curve.variable == "time_difference" else None
    if everything is not None:
        average, largest = plain(everything / run.end), plain(mean[curve.jump].max())
        said.append(f"Mean over the timesteps below {run.end:g}: {average}; largest: {largest}.")
    return [" ".join(said)]


def moved_words(twin: Curve, shared: Curve) -> list[str]:
    """How much of the change below the end of sharing is left, and how its largest value compares."""
    if shared.variable != "time_difference" or not shared.jump.any():
        return []
    end = shared.run.end
    before, after = total(twin, end), total(shared, end)
    said = []
    if before is not None and after is not None and before > 0:
        said.append(
            f"Summed over the timesteps below {end:g}, K is {plain(before)} in {twin.run.label} and {plain(after)} "
            f"in {shared.run.label}: {after / before:.0%}, all of it in the jumps."
        )
    top = peak(twin) if shared.run.all_jumps else None
    if top is not None and twin.statistics.mean[top] > 0:
        ratio = shared.statistics.mean[shared.jump].max() / twin.statistics.mean[top]
        said.append(f"The largest jump is {plain(ratio)} times the peak of {twin.run.label}.")
    return [" ".join(said)] if said else []


def spectral_words(run: Run) -> list[str]:
    """Where the Jacobian is largest, and how well that is known."""
    if not run.has("spectral_norm"):
        return []
    curve = spectral_norm(run)
    top = peak(curve)
    if top is None:
        return []
    upper = run.dataset["spectral_norm_upper"]
    with np.errstate(divide="ignore", invalid="ignore"):
        width = float((upper / run.dataset["spectral_norm"] - 1).max())
    confidence = float(upper.attrs.get("confidence", "0.99").split()[0])
    most = run.plan.get("certified_width")
    missed = f", where {most:.1%} was asked for" if isinstance(most, float) and width > most * (1 + 1e-6) else ""
    wide = f"each draw's certified interval is at most {width:.1%} wide{missed}"
    if not np.isfinite(width):
        wide = "of some draws rounding leaves an upper bound alone, --dtype float64 both"
    return [
        f"{run.label}: the spectral norm of d {run.output}/dx is largest at timestep {run.timestep[top]:.4g} with "
        f"{value(curve, top)}{hedge(curve.statistics, top)}; {wide} (at {confidence:.0%} confidence)."
    ]


def value(curve: Curve, i: int) -> str:
    """The mean at a timestep with the half-width of its interval."""
    return with_half_width(curve.statistics.mean[i], curve.statistics.half_width[i])
