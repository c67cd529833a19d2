"""Runs as text for a terminal: a row for each of a dozen timesteps, then what stands out in words."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..findings.modules import modules
from ..printing import WIDTH, Column, abbreviated, cut, lines, plain
from ..results.curve import DERIVATIVES, Curve, curves
from ..results.headline import SPEEDS, sentences, spectral_norm, spectral_words, value
from ..results.places import pick, time_column
from ..results.run import Run, read

if TYPE_CHECKING:
    import xarray as xr

SIDE_BY_SIDE = 3
"""Runs in one table."""

INTERVAL = "; means, +- half of the 95 % interval"
CERTIFIED = ", in which the spectral norm's holds the certified interval of each draw"


def table(datasets: "Sequence[xr.Dataset]", labels: Sequence[str] | None = None) -> str:
    """Text of at most 80 columns about one or several runs.

    Args:
        datasets: What `measure` returned.
        labels: What to call them; by default the checkpoints' names.

    Raises:
        UsageError: If there is no run, none of its draws is done, or the runs' time axes differ.
    """
    runs = read(datasets, labels)
    speeds = [name for name in DERIVATIVES if all(run.has(name) for run in runs)]
    if len(runs) == 1:
        tables = [alone(runs[0])]
    else:
        # several runs are compared by their speed, which `curves` misses with a sentence where one lacks it
        speed = curves(runs)
        tables = [compared(speed[i : i + SIDE_BY_SIDE]) for i in range(0, len(speed), SIDE_BY_SIDE)]
    said = sentences(curves(runs, speeds[0])) if speeds else []
    said += [word for run in runs for word in spectral_words(run)]
    said += [f"{run.label}: {word[0]}" for run in runs for m in modules(run) if (word := m.sentence()) is not None]
    return "\n\n".join(filter(None, [cautions(runs), *tables, wrapped(said)])).rstrip()


def wrapped(sentences: Sequence[str]) -> str:
    """Each on lines of its own."""
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=True) for line in sentences)


def cautions(runs: Sequence[Run]) -> str:
    """What may change the meaning of runs' numbers, a paragraph each; nothing where nothing may."""
    return wrapped([f"Warning, {run.label}: {caution}" for run in runs for caution in run.remarks("warnings")])


def alone(run: Run) -> str:
    """One run: its speed in time, its spectral norm, its loss, and what else fits."""
    times = pick([run])
    columns = [time_column(run, times)]
    for name in DERIVATIVES:
        if run.has(name):
            columns.append(Column(symbol(run, name), run.unit, means(Curve(run, name, run.statistics(name)), times)))
    if run.has("spectral_norm"):
        columns.append(Column("spectral norm", "", means(spectral_norm(run), times)))
    shown = {*DERIVATIVES, "spectral_norm", "spectral_norm_upper", "spectral_norm_steps", "done"}
    left_out = []
    for name in sorted(map(str, run.dataset.data_vars), key=lambda name: name != "loss"):
        variable = run.dataset[name]
        if name in shown or name.endswith(("_standard_error", "_residual")):
            continue
        room = WIDTH - sum(column.width + 2 for column in columns)
        fitting = (column for column in narrower(run, name, times) if column.width + 2 <= room)
        column = next(fitting, None) if variable.dims == ("time", "draw") else None
        columns += [column] if column else []
        left_out += [] if column else [name]
    note = "" if len(columns) == 1 else "; one draw has no interval" if run.draws == "1 draw" else INTERVAL
    note += CERTIFIED if note == INTERVAL and run.has("spectral_norm") else ""
    what = f"; f is the network's own output, {run.model.get('parameterization')}" if run.raw else ""
    heading = f"{run.label}: {run.draws} of {run.data}{note}{_after(run.own_time)}{what}"
    above = textwrap.fill(heading, WIDTH)
    text = lines(above, columns) if len(columns) > 1 else above
    return "\n".join([text, textwrap.fill(f"Not shown: {', '.join(left_out)}.", WIDTH)] if left_out else [text])


def narrower(run: Run, name: str, times: np.ndarray) -> Iterator[Column]:
    """A variable's means in its unit with their intervals, and without."""
    unit = str(run.dataset[name].attrs.get("units", "1"))
    for cells in (means(Curve(run, name, run.statistics(name)), times), of_times(run, name, times)):
        yield Column(name, "" if unit == "1" else unit, cells)


def compared(speed: Sequence[Curve]) -> str:
    """Runs side by side: the speed of each, of two also the ratio, and of each the spectral norm and loss."""
    runs = [curve.run for curve in speed]
    times = pick(runs)
    shared = next((run for run in runs if run.shared), runs[0])
    columns = [time_column(shared, times)]
    short = abbreviated([run.label for run in runs])
    for curve, label in zip(speed, short, strict=True):
        columns.append(Column(cut(label, 16), "", means(curve, times)))
    if len(speed) == 2:
        columns.append(Column("ratio", "2nd/1st", ratios(speed[0], speed[1], times)))
    for name, title in (("spectral_norm", "sp. norm"), ("loss", "loss")):
        measured = [(run, label) for run, label in zip(runs, short, strict=True) if run.has(name)]
        extra = [Column(title, cut(label, 6), of_times(run, name, times)) for run, label in measured]
        if sum(column.width + 2 for column in [*columns, *extra]) <= WIDTH + 2:
            columns += extra
    kind = symbol(runs[0], speed[0].variable)
    heading = f"{kind} in {runs[0].unit}, Euclidean norm: mean +- half of its 95 % interval{_after(runs[0].own_time)}. "
    heading += "; ".join(f"{label}: {run.draws} of {run.data}" for run, label in zip(runs, short, strict=True))
    return lines(textwrap.fill(heading, WIDTH), columns)


def _after(note: str) -> str:
    return f"; {note}" if note else ""


def symbol(run: Run, variable: str) -> str:
    if variable == "time_difference":
        return f"K(t, t{run.step:+g})" if run.discrete else "K(t, t')"
    return SPEEDS.get(variable, variable).replace("eps", run.output)


def means(curve: Curve, times: np.ndarray) -> list[str]:
    return _at(curve.run, times, lambda i: value(curve, i))


def of_times(run: Run, name: str, times: np.ndarray) -> list[str]:
    """Means of a variable."""
    mean = run.statistics(name).mean
    return _at(run, times, lambda i: plain(mean[i]))


def ratios(first: Curve, second: Curve, times: np.ndarray) -> list[str]:
    """The second run's mean over the first one's."""
    a, b = ({float(k): m for k, m in zip(c.run.timestep, c.statistics.mean, strict=True)} for c in (first, second))
    return [plain(b[k] / a[k]) if k in a and k in b and a[k] else "" for k in times.tolist()]


def _at(run: Run, times: np.ndarray, text: Callable[[int], str]) -> list[str]:
    place = {k: i for i, k in enumerate(run.timestep.tolist())}
    return [text(place[k]) if k in place else "" for k in times.tolist()]
