"""What stands out in curves, as numbers and in words."""

from collections.abc import Sequence

import numpy as np

from ..printing import plain, with_half_width
from .curve import Curve

SPEEDS = {"time_difference": "K", "time_derivative": "|d eps/dt|"}
REFERENCE = 0.1
"""Where on the time axis a peak near t = 0 is compared: timestep 100 of 1000."""


def peak(curve: Curve) -> int | None:
    """Where the mean is largest; None where nothing was measured."""
    mean = curve.statistics.mean
    return int(np.nanargmax(mean)) if np.isfinite(mean).any() else None


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
    where = f"{curve.run.timestep[top]:.4g} with {_value(curve, top)}"
    others = np.arange(len(curve.statistics.mean)) != top
    if not (curve.statistics.high[others] < curve.statistics.low[top]).any():
        return [f"{curve.run.label}: {name} is largest at timestep {where}, and no timestep is shown to have less."]
    said = f"{curve.run.label}: {name} peaks at timestep {where}"
    if far is not None and far != top:
        ratio = curve.statistics.mean[top] / curve.statistics.mean[far]
        said += f", {plain(ratio)} times its value at timestep {curve.run.timestep[far]:.4g} ({_value(curve, far)})"
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


def _value(curve: Curve, i: int) -> str:
    return with_half_width(curve.statistics.mean[i], curve.statistics.half_width[i])
