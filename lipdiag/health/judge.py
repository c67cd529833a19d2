"""A run judged: every check at every timestep, all of them together at one false-alarm rate, by Holm's procedure.

References:
    Holm, A simple sequentially rejective multiple test procedure, 1979.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError, unknown
from ..printing import counted
from ..results.command import again, examining
from ..results.run import Run, read
from .checks import CHECKS
from .diagnosis import Diagnosis, Line
from .fault import Finding, explained, not_finite
from .laws import FEWEST, Test

if TYPE_CHECKING:
    import xarray as xr

LEVEL = 0.01
"""How often a model is blamed that is at the thresholds of all checks: less where it is within."""


def judge(
    dataset: "xr.Dataset",
    thresholds: Mapping[str, float] | None = None,
    level: float = LEVEL,
    label: str | None = None,
    further: Sequence[Test] = (),
) -> Diagnosis:
    """What is wrong with a model by a run of it, as far as the run tells.

    Args:
        dataset: What `measure` returned.
        thresholds: In the place of those in `CHECKS`, by name.
        level: Of all tests together.
        label: What to call the run; by default the checkpoint's name.
        further: Tests of the model itself, which are judged with those of the run.

    Raises:
        UsageError: If a threshold is of no check, or the run is of a network's own output.
    """
    (run,) = read([dataset], None if label is None else [label])
    if run.raw:
        raise UsageError(
            f"{run.label} holds the network's own output, and what is checked holds for predicted noise: measure it "
            "without --function raw"
        )
    limits = limited(thresholds or {}, level)
    able = [name for name, check in CHECKS.items() if all(run.has(v) for v in check.variables)]
    tests = [test for name in able if (made := CHECKS[name].tests) for test in made(run, limits[name])] + [*further]
    many = Counter(test.check for test in tests)
    p = holm([test.p for test in tests], [1 / many[test.check] for test in tests])  # a check counts once
    found = [Finding(test, float(q)) for test, q in zip(tests, p, strict=True) if q <= level]
    lines = [line(run, name, limits[name], tests, p) for name in able]
    lacking = [name for name in CHECKS if name not in able]
    return Diagnosis(
        label=run.label,
        about=about(run),
        level=level,
        faults=tuple(not_finite(run) or explained(run, found, tests)),
        lines=tuple(kept for kept in lines if kept is not None),
        missing=(missing(run, lacking),) if lacking else (),
        undecided=() if tests else (f"there are too few draws to tell anything, at least {FEWEST} are needed",),
    )


def limited(given: Mapping[str, float], level: float) -> dict[str, float]:
    """The thresholds of all checks."""
    if not 0 < level < 1:
        raise UsageError(f"the false-alarm rate is {level:g}, it must lie between 0 and 1 (0.01 is 1 %)")
    for name, value in given.items():
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
        if not 0 <= value < np.inf:
            raise UsageError(f"the threshold of {name} is {value:g}, it must be a number from 0 on")
    return {name: given.get(name, check.threshold) for name, check in CHECKS.items()}


def holm(p: Sequence[float], weights: Sequence[float]) -> np.ndarray:
    """P-values by Holm: each at most a level where its hypothesis is rejected at that level, of all together.

    Args:
        p: Of each hypothesis alone.
        weights: Shares of the level, as a heavier one takes more of it.
    """
    values, shares = np.asarray(p, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    order = np.argsort(values / shares, kind="stable")
    left = np.cumsum(shares[order][::-1])[::-1]
    found = np.empty_like(values)
    found[order] = np.maximum.accumulate(np.minimum(1, values[order] * left / shares[order]))
    return found


def line(run: Run, name: str, threshold: float, tests: Sequence[Test], p: np.ndarray) -> Line | None:
    """Where a check came nearest to its threshold, or farthest beyond it; None where it was tried nowhere."""
    mine = [(test.t, float(q), test) for test, q in zip(tests, p, strict=True) if test.check == name]
    if not mine:
        return None
    _, q, test = max(mine, key=lambda found: found[0])
    return Line(name, threshold, test.estimate, test.timestep(run), q, len(mine), CHECKS[name].looks)


def about(run: Run) -> str:
    """What was looked at."""
    draws = int((run.dataset["done"] == 1).sum("draw").max())
    return f"{counted(draws, 'draw')} of {run.data} at {counted(run.timestep.size, 'timestep')}"


def missing(run: Run, names: Sequence[str]) -> str:
    """What was not judged, and the command that measures it."""
    quantities = dict.fromkeys(q for name in names for q in CHECKS[name].quantities)
    command = " ".join(f"--quantity {quantity}" for quantity in quantities)
    *questions, last = (CHECKS[name].question for name in names)
    asked = f"{', '.join(questions)} and {last}" if questions else last
    return (
        f"Of {run.label} it is not judged {asked}: measure it with `{again(run.dataset, command)}`, or ask "
        f"`{examining(run.dataset)}`."
    )
