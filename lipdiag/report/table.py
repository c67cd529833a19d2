"""Runs as text for a terminal: a row for each of a dozen timesteps, and what stands out in words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .curve import Curve, curves
from .run import Run, read

if TYPE_CHECKING:
    import xarray as xr

WIDTH = 80
ROWS = 12
SPEEDS = {"time_difference": "K(t, t')", "time_derivative": "|d eps/dt|"}
REFERENCE = 0.1
"""Where on the time axis, of the whole, a peak is compared: timestep 100 of 1000."""


def table(datasets: "Sequence[xr.Dataset]", labels: Sequence[str] | None = None) -> str:
    """Text of at most 80 columns about one or several runs.

    Args:
        datasets: What `measure` returned.
        labels: What to call them; by default the checkpoints' names.

    Raises:
        UsageError: If there is no run, or nothing in one that can be tabled.
    """
    runs = read(datasets, labels)
    parts = [compared(runs)] if len(runs) > 1 else [alone(runs[0])]
    return "\n\n".join([*parts, *(words(run) for run in runs)])


def pick(run: Run) -> np.ndarray:
    """Indices of about a dozen timesteps, even on the logarithmic axis, with the jumps of a shared clock."""
    x = np.log(run.x)
    wanted = np.linspace(x[0], x[-1], ROWS)
    nearest = {int(np.abs(x - place).argmin()) for place in wanted}
    return np.array(sorted(nearest | set(np.flatnonzero(run.jumps).tolist())))


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def with_width(mean: float, half: float) -> str:
    """A mean and the half-width of its interval; exact zeros are said."""
    if mean == 0 and half == 0:
        return "0 exactly"
    return f"{number(mean)} ±{half:.2g}" if np.isfinite(half) else number(mean)


def alone(run: Run) -> str:
    """One run: time derivative, its quotient, spectral norm and loss."""
    columns: list[tuple[str, int, list[str]]] = [("timestep", 9, [f"{k:g}" for k in run.timestep])]
    for name, title in (("time_difference", "K(t, t')"), ("time_derivative", "|d eps/dt|")):
        if run.has(name):
            s = run.statistics(name)
            columns.append((title, 18, [with_width(*pair) for pair in zip(s.mean, s.half_width, strict=True)]))
    if run.has("spectral_norm"):
        lower, upper = run.statistics("spectral_norm").mean, run.statistics("spectral_norm_upper").mean
        cells = [f"[{number(a)}, {number(b)}]" for a, b in zip(lower, upper, strict=True)]
        columns.append(("|d eps/dx| mean", 19, cells))
    shown = {"time_difference", "time_derivative", "spectral_norm", "spectral_norm_upper", "spectral_norm_steps", "done"}
    for key, variable in run.dataset.data_vars.items():
        title = str(key)
        width = max(12, len(title) + 2)
        fits = sum(column[1] for column in columns) + width <= WIDTH
        if title not in shown and not title.endswith("_standard_error") and variable.dims == ("time", "draw") and fits:
            columns.append((title, width, [number(value) for value in run.statistics(title).mean]))
    return lines(run, columns)


def compared(runs: list[Run]) -> str:
    """Several runs side by side: the speed of each, and its ratio to the first one's."""
    found = curves(runs)
    first = found[0]
    common = np.array([k for k in pick(runs[-1]) if runs[-1].timestep[k] in runs[0].timestep])
    columns: list[tuple[str, int, list[str]]] = [("timestep", 9, [f"{k:g}" for k in runs[-1].timestep])]
    for curve in found:
        columns.append((curve.run.label[:16], 18, at_times(curve, runs[-1].timestep)))
    if len(found) == 2:
        a, b = (np.interp(runs[-1].timestep, c.run.timestep, c.statistics.mean) for c in found)
        columns.append(("ratio", 9, [number(y / x) if x else "" for x, y in zip(a, b, strict=True)]))
    lower = [f"{number(value)}" for value in spectral(runs[0], runs[-1].timestep)]
    if any(lower):
        columns.append(("|d eps/dx|", 12, lower))
    title = f"{SPEEDS[first.variable]} per timestep, mean over draws with its 95 % interval"
    return f"{title}\n{lines(runs[-1], columns, common)}"


def at_times(curve: Curve, timesteps: np.ndarray) -> list[str]:
    """A curve's means at the given timesteps; empty where it has none."""
    place = {k: i for i, k in enumerate(curve.run.timestep)}
    s = curve.statistics
    return [with_width(s.mean[place[k]], s.half_width[place[k]]) if k in place else "" for k in timesteps]


def spectral(run: Run, timesteps: np.ndarray) -> np.ndarray:
    """The mean spectral norm at the given timesteps; NaN where it was not measured."""
    if not run.has("spectral_norm"):
        return np.array([])
    place = {k: value for k, value in zip(run.timestep, run.statistics("spectral_norm").mean, strict=True)}
    return np.array([place.get(k, np.nan) for k in timesteps])


def lines(run: Run, columns: list[tuple[str, int, list[str]]], rows: np.ndarray | None = None) -> str:
    """The columns, right-aligned, at the rows to be shown; a jump between blocks has a mark."""
    text = ["".join(f"{title:>{width}}" for title, width, _ in columns).rstrip()]
    for i in pick(run) if rows is None else rows:
        mark = "  jump" if run.jumps[i] else ""
        text.append(("".join(f"{cells[i]:>{width}}" for _, width, cells in columns) + mark).rstrip())
    return "\n".join(line[:WIDTH] for line in text)


def words(run: Run) -> str:
    """What stands out in a run: its peak, its blocks and jumps, its error bars."""
    said = [f"{run.label}: x0 from {run.data}, {int(run.dataset['done'].sum('draw').max())} draws"]
    held = [name for name in SPEEDS if run.has(name)]
    if held:
        (curve,) = curves([run], held[0])
        title, mean = SPEEDS[held[0]], curve.statistics.mean
        peak = int(mean.argmax())
        far = int(np.abs(run.time("t") - REFERENCE).argmin())
        said.append(f"  {title} peaks at timestep {run.timestep[peak]:g}: {with_width(mean[peak], curve.statistics.half_width[peak])}")
        if mean[far] > 0 and not run.shared and peak != far:
            said.append(f"  {mean[peak] / mean[far]:.3g} times its value at timestep {run.timestep[far]:g} ({number(mean[far])})")
        if run.shared and curve.jump.any():
            inside = curve.zero & (run.timestep < run.end)
            said.append(
                f"  exactly 0 at {inside.sum()} of {(run.timestep < run.end).sum()} timesteps below {run.end:g}, by construction"
            )
            jumps = ", ".join(number(value) for value in mean[curve.jump])
            said.append(f"  jumps between blocks: {jumps}")
    if run.has("spectral_norm"):
        width = run.dataset["spectral_norm_upper"] / run.dataset["spectral_norm"] - 1
        said.append(f"  |d eps/dx| lies in each draw's interval at 99 % confidence, at most {float(width.max()):.1%} wide")
    return "\n".join(line[:WIDTH] for line in said)
