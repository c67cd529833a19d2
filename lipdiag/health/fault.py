"""A fault of a model, and the causes that findings of several checks have in common."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ..printing import plain
from ..results.run import Run
from .checks import CHECKS
from .laws import Test

SAME = 0.75
"""Distance of slopes that are one scale, in logarithms, relative to that of the scale from 1."""

MOST = 2 / 3
"""Share of the timesteps that is nearly all."""


class Finding(NamedTuple):
    """A test that is rejected, and its p-value among all."""

    test: Test
    p: float


@dataclass(frozen=True)
class Fault:
    """Something that is wrong.

    Attributes:
        name: One word.
        timesteps: At which it was seen; empty where it is none of times.
        evidence: What was seen, how far it is from what is allowed, and how sure that is.
        remedy: What to do.
        p_value: Among all that was tested (Holm); None where it is no matter of chance.
        also: Other checks that it fails there, as is to be expected.
    """

    name: str
    timesteps: tuple[float, ...]
    evidence: str
    remedy: str
    p_value: float | None = None
    also: tuple[str, ...] = field(default=())

    @property
    def where(self) -> str:
        """At which timesteps, in a few words."""
        if not self.timesteps:
            return ""
        first, last = min(self.timesteps), max(self.timesteps)
        many = f"{len(self.timesteps)} timesteps from {first:.4g} to {last:.4g}"
        return f" at timestep {first:.4g}" if first == last else f" at {many}"

    @property
    def told(self) -> list[str]:
        """Evidence, what else is seen with it, and what to do."""
        also = f"with it go: {', '.join(self.also)}" if self.also else ""
        return [text for text in (self.evidence, also, f"to do: {self.remedy}") if text]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "timesteps": list(self.timesteps), "also": list(self.also)}


def not_finite(run: Run) -> list[Fault]:
    """Where the model's answers are not numbers."""
    done = run.dataset["done"].values == 1
    names = [name for name in ("loss", "stein_square", "time_difference", "spectral_norm") if run.has(name)]
    bad = [(~np.isfinite(run.dataset[name].values) & done).any(1) for name in names]
    places = np.flatnonzero(np.logical_or.reduce(bad)) if bad else np.array([], dtype=int)
    places = places[run.time("alpha")[places] > 0]  # without signal eps tells nothing of x0
    if not places.size:
        return []
    evidence = f"{names[[b.any() for b in bad].index(True)]} is not finite at {places.size} timesteps"
    remedy = "check the weights, and the schedule and clock that `lipdiag inspect` shows"
    return [Fault("not_finite", tuple(float(run.timestep[place]) for place in places), evidence, remedy)]


def explained(run: Run, found: Sequence[Finding], tests: Sequence[Test]) -> list[Fault]:
    """The faults behind some findings: what follows from another is named with it alone."""
    by = {name: [f for f in found if f.test.check == name] for name in CHECKS}
    place = {name: {f.test.place for f in findings if f.test.place is not None} for name, findings in by.items()}
    if len(place["nothing"]) >= MOST * run.timestep.size:
        return [with_others(of(run, "untrained", by["nothing"]), found)]
    faults = [of(run, name, by[check]) for check, name in EMBEDDED.items() if by[check]]
    if faults and by["plateau"] and by["plateau"][0].test.estimate.value == 1:
        faults[0] = replace(faults[0], name="ignored_time")
    scaled = by["scale"] or (by["size"] if one_scale(by["size"], tests) else [])
    if scaled:  # what is told cannot be judged by losses of a wrong size
        return [with_others(of(run, "wrong_scale", scaled), found), *faults]
    band = place["order"] | place["nothing"]
    ends = [k for f in by["band"] if (k := f.test.at) is not None]
    far = [f for f in by["told"] if not next_to(run, f.test)]
    shifted = [] if band or ends or far else by["shift"]  # whose change at the edge of a band is one of time to it
    outside = {row for f in by["told"] if f.test.other not in place["told"] and (row := f.test.place) is not None}
    if outside and not shifted and one_piece(outside | band):
        band |= outside
    if shifted:
        faults.append(of(run, "shifted_time", shifted))
    if ends:
        band |= set(np.flatnonzero((run.timestep >= min(ends)) & (run.timestep <= max(ends))).tolist())
    if band or ends:
        inside = [f for name in ("nothing", "order", "told") for f in by[name] if f.test.place in band] + by["band"]
        faults.append(of(run, "untrained_band", inside))
    unmoved = [f for f in by["still"] if f.test.place not in band and not by["plateau"]]
    free = np.count_nonzero((run.block(run.timestep) < 0) & (run.block(run.other[0]) < 0))
    if len(unmoved) > 1 or len(unmoved) == free > 0:  # one alone may be an end, where there is no other time to be told
        faults.append(of(run, "ignored_time" if len(unmoved) == free else "rounded_time", unmoved))
    if rest := [f for f in by["told"] if f.test.place not in band and not shifted]:
        faults.append(of(run, "miscalibrated_time", rest))
    if rest := [f for f in by["size"] if f.test.place not in band]:
        faults.append(of(run, "wrong_size", rest))
    if faults:
        return [with_others(faults[0], found), *faults[1:]]
    names = {
        "excess": "excess_loss",
        "expansion": "expanding",
        "symmetry": "asymmetric",
        "speed": "too_fast",
        "jump": "jump",
        "equation": "inconsistent_times",
        "range": "samples_out_of_range",
        "power": "samples_out_of_range",
        "copies": "memorised",
    }
    return [of(run, names[name], findings) for name, findings in by.items() if findings and name in names]


EMBEDDED = {"plateau": "rounded_time", "grain": "rounded_time", "alias": "aliased_time", "pace": "fast_embedding"}
"""What is wrong with the embedding of time, from which all else may follow."""


def one_scale(found: Sequence[Finding], tests: Sequence[Test]) -> bool:
    """Whether slopes are about the same at nearly every timestep, wherever it can be told for certain."""
    surest = max((f.test for f in found), key=lambda test: test.t).slope or 1.0 if found else 0.0
    slopes = np.array([test.slope for test in tests if test.check == "size" and (test.slope or 0) > 0])
    near = np.abs(np.log(slopes / surest)) <= SAME * abs(np.log(surest)) if surest > 0 else np.zeros(1)
    return bool(np.mean(near) >= MOST)


def next_to(run: Run, test: Test) -> bool:
    """Whether a timestep was compared with its neighbour, or one beside that."""
    return test.other is not None and bool(abs(run.timestep[test.other] - run.timestep[test.place]) <= 2)


def one_piece(places: set[int]) -> bool:
    """Whether rows lie next to each other."""
    return max(places) - min(places) < len(places)


def with_others(fault: Fault, found: Iterable[Finding]) -> Fault:
    """The fault with the names of the checks that are failed beside it."""
    return replace(fault, also=tuple(dict.fromkeys(f.test.check for f in found)))


WORDS = {
    "size": "{} of the loss would be saved by a multiple of the answer: the slope of the noise on the prediction, 1 "
    "for a true model, is {slope}",
    "excess": "the loss is {} above 1 - sigma tr J / d, which is that of the best model",
    "order": "the error in x0 is {} times that at the noisier timestep {other}",
    "nothing": "the loss is {}, where a model that always answers 0 has 1",
    "scale": "the slope of what should be predicted on what is differs from 1 by {}, in all parts of time: {slope}",
    "band": "the error is {} times",
    "range": "a share of {} of the numbers in samples lies far outside the range of the data",
    "power": "the root mean square of samples is {} times that of the data",
    "expansion": "sigma times the largest eigenvalue of the Jacobian's symmetric part is {}, at most 1 for a true one",
    "symmetry": "|J - J^T| is {} of |J + J^T|, 0 for a true model",
    "speed": "K is {} times that of isolated points",
    "jump": "K is {} times that of both neighbours",
    "still": "{} of the draws are answered the same at the next timestep, to the last bit",
    "told": "told timestep {other} the loss is {} of that told its own",
    "shift": "what it is told is off by {} timesteps, by the slope of its loss in them",
    "equation": "the squared residual of the Fokker-Planck equation is {}, 0 for a true model",
    "plateau": "of neighbouring timesteps a share of {} has the same embedding, to the last bit",
    "grain": "the embedding is rounded by {} of its change from one timestep to the next",
    "alias": "a share of {} of the timesteps looks like one far away",
    "pace": "the embedding changes to the next timestep by {} of what lies between any two",
    "copies": "a share of {} of the samples are near-copies of data",
}


def of(run: Run, name: str, found: Sequence[Finding]) -> Fault:
    """A fault by its findings; the surest is told."""
    surest = max(found, key=lambda f: f.test.t)
    test = surest.test
    other = "" if test.other is None else f"{run.timestep[test.other]:.4g}"
    timesteps = sorted({k for f in found if (k := f.test.timestep(run)) is not None})
    where = "" if (k := test.timestep(run)) is None else f"at timestep {k:.4g} "
    said = WORDS[test.check].format(number(test), other=other, slope=plain(test.slope or np.nan))
    sure = f"n = {test.estimate.draws}, p = {plain(surest.p, 2)} among all"
    return Fault(name, tuple(timesteps), f"{where}{said}{test.said} ({sure})", remedy(name, test), surest.p)


def number(test: Test) -> str:
    """The estimate with its interval."""
    return str(test.estimate).partition(", n")[0]


def remedy(name: str, test: Test) -> str:
    """What to do about a fault."""
    if name == "wrong_scale":
        by = plain(test.slope or np.nan)
        return f"multiply the output by {by}, or check --parameterization and the scale of data and output"
    if name == "untrained_band":
        return CHECKS["order"].remedy
    if name == "untrained":
        return CHECKS["nothing"].remedy
    if name == "ignored_time":
        return "check that the network gets its timestep, and that its embedding is trained"
    return CHECKS[test.check].remedy
