"""What runs say of their clock: the edges of its blocks and the second times of K, on record or, in older runs, not.

Where they are not on record they are worked out from the clock's spelling, as the clock itself has them.
"""

import ast
from typing import Any

import numpy as np

UNIT_STEP = 1e-3
"""Distance in t of the two times of K for a model of continuous time."""


def recorded(edges: Any, else_: tuple[float, ...]) -> tuple[float, ...]:
    """The edges of blocks that a run has on record, as its clock had them; those of older runs are worked out."""
    known = isinstance(edges, list) and all(isinstance(edge, int | float) and np.isfinite(edge) for edge in edges)
    return tuple(map(float, edges)) if known and len(edges) != 1 else else_


def sharing(clock: str) -> tuple[str, tuple[float, ...]]:
    """Base clock and block edges of a clock as it is spelled, `shared(timesteps(1000), 100, 5)`.

    Blocks of an index that do not divide are cut at the nearest integers.
    """
    try:
        call = ast.parse(clock, mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "shared"):
            return clock, ()
        given: dict[str, Any] = {"end": 100.0, "blocks": 5, "edges": ()}
        of = call.args[0] if call.args else next(k.value for k in call.keywords if k.arg == "clock")
        given |= zip(given, (ast.literal_eval(value) for value in call.args[1:]), strict=False)
        given |= {str(k.arg): ast.literal_eval(k.value) for k in call.keywords if k.arg != "clock"}
        base, blocks = ast.unparse(of), int(given["blocks"])
        uniform = [i * given["end"] / blocks for i in range(blocks + 1)]
        edges = given["edges"] or (map(round, uniform) if base.startswith("timesteps") else uniform)
        return base, tuple(float(edge) for edge in edges)
    except (SyntaxError, ValueError, TypeError, StopIteration):
        return clock, ()


def second_times(
    timestep: np.ndarray, t: np.ndarray, rate: np.ndarray, step: float | None, count: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """The second times of K, as timesteps and as t, of a run that has none on record.

    Args:
        timestep: In the model's own unit.
        t: Unit time of each.
        rate: d t / d timestep of each.
        step: Distance in timesteps; None where it is a thousandth of unit time.
        count: Timesteps of a whole index axis; None where the time is no index, and is interpolated between these.
    """
    if step is None:
        other_t = np.where(t + UNIT_STEP <= 1, t + UNIT_STEP, t - UNIT_STEP)
        return interpolate(other_t, t, timestep, 1 / rate), other_t

    def time(timesteps: np.ndarray) -> np.ndarray:
        return (timesteps + 1) / count if count else interpolate(timesteps, timestep, t, rate)

    later = time(timestep + step)
    inside = (later >= 0) & (later <= 1 + 1e-9)
    other = np.where(inside, timestep + step, timestep - step)
    return other, time(other)


def interpolate(x: np.ndarray, known: np.ndarray, values: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """A function of known values and slopes at x, cubic between them and beyond."""
    from scipy.interpolate import CubicHermiteSpline

    if known.size < 2:
        return values + slopes * (x - known)
    order = np.argsort(known)
    return np.asarray(CubicHermiteSpline(known[order], values[order], slopes[order])(x))
