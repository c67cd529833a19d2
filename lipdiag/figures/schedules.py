"""Noise schedules as the runs recorded them: amplitudes, log-SNR and its ends, rates, steps of the model's own time.

Nothing here is sampled: every value comes from coordinates of the run, which are exact. The rates follow from the
stored d logsnr / d timestep; see theory.py.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..printing import Row, shortened
from ..results.run import Run, read
from ..results.theory import LEAST_TIMES, noise_level
from . import captions as wording
from . import marks
from .canvas import Picture, blank
from .style import Style, applied, preset

if TYPE_CHECKING:
    import xarray as xr


def schedules(*datasets: "xr.Dataset", labels: Sequence[str] | None = None, style: str = "iclr") -> Picture:
    """The noise schedules of one or several runs.

    Args:
        datasets: What `measure` returned.
        labels: What to call them.
        style: A preset's name.

    Raises:
        UsageError: If a run has too few timesteps to tell how its schedule goes between them.
    """
    look, runs = preset(style), read(datasets, labels)
    found = [columns(run) for run in runs]
    with applied(look):
        picture, (level, snr, rate, step) = blank(look, 4)
        for number, (run, column) in enumerate(zip(runs, found, strict=True)):
            t, width = column["t"], 1.2 * look.scale
            look_of = {**marks.stroke(number, look), "markevery": max(1, t.size // 8)}
            level.plot(t, column["sigma"], **look_of)
            level.plot(t, column["alpha"], **{**look_of, "linewidth": 0.5 * width})
            snr.plot(t, column["logsnr"], **look_of)
            rate.plot(t, column["sigma_rate"], **look_of)
            rate.plot(t, np.abs(column["alpha_rate"]), **{**look_of, "linewidth": 0.5 * width})
            step.plot(run.x, np.abs(column["dlogsnr_dtimestep"]), **look_of)
        finish(level, snr, rate, step, runs)
        marks.legend(picture, entries(runs, look), look)
    picture.rows = [row for run, column in zip(runs, found, strict=True) for row in rows(run, column)]
    picture.caption = wording.caption(
        [
            "Noise schedules x_t = alpha x_0 + sigma eps over unit time t (0 = data, 1 = noise), all without unit or "
            "norm; exact values, nothing is sampled (n does not apply)",
            "Log-SNR = 2 log(alpha / sigma); rates are per unit t; (d) per timestep of the model's own time",
            *(ends(run) for run in runs),
        ]
    )
    return picture


def columns(run: Run) -> dict[str, np.ndarray]:
    """The schedule at the run's timesteps, with its rates per unit t."""
    if run.timestep.size < LEAST_TIMES:
        raise UsageError(
            f"{run.label} has {run.timestep.size} timesteps, too few to draw its schedule; `lipdiag measure "
            f"{run.checkpoint} --timesteps log:64 --quantity loss --out NEW.zarr` makes a run with 64"
        )
    found = {name: run.time(name) for name in ("timestep", "t", "alpha", "sigma", "logsnr", "dlogsnr_dtimestep")}
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = noise_level(run)[1]
        snr_rate = found["dlogsnr_dtimestep"] / run.time("dt_dtimestep")
        rates = {
            "sigma_rate": found["sigma"] * relative,
            "alpha_rate": found["alpha"] * (snr_rate / 2 + relative),  # (log alpha)' = (log SNR)' / 2 + (log sigma)'
        }
    return found | rates


def finish(level: Any, snr: Any, rate: Any, step: Any, runs: Sequence[Run]) -> None:
    for axes in (level, snr):
        axes.set_xlabel("time $t$")
    rate.set_xlabel("time $t$")
    for axes in (rate, step):
        axes.set_xscale("log")
        axes.set_yscale("log")
    step.set_xlabel(runs[0].axis)
    level.set_ylabel(r"$\alpha_t$, $\sigma_t$  [1]")
    snr.set_ylabel(r"$2\log(\alpha_t/\sigma_t)$  [1]")
    rate.set_ylabel(r"$\sigma_t^\prime$, $|\alpha_t^\prime|$  [1/$t$]")
    step.set_ylabel(f"|d log-SNR|  [{runs[0].unit}]")
    level.set_title("(a) signal and noise")
    snr.set_title("(b) log-SNR")
    rate.set_title("(c) rates")
    step.set_title("(d) log-SNR a timestep")
    bottom, top = rate.get_ylim()
    rate.set_ylim(max(bottom, top / 1e6), top)  # a rate that vanishes would flatten all others


def entries(runs: Sequence[Run], look: Style) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    found = [marks.entry(n, look, named(run)) for n, run in enumerate(runs)]
    widths = ((r"noise: $\sigma$, $\sigma^\prime$", 1.2), (r"signal: $\alpha$, $|\alpha^\prime|$", 0.6))
    return found + [(Line2D([], [], color="0.2", linewidth=w * look.scale), text) for text, w in widths]


def named(run: Run) -> str:
    """A run with its schedule as it is spelled, where that is short."""
    spelled = str(run.model.get("schedule") or "")
    return f"{run.label}: {spelled}" if 0 < len(run.label) + len(spelled) < marks.LONGEST else run.label


def ends(run: Run) -> str:
    """The first and the last timestep measured, in words."""
    said = [
        f"timestep {run.timestep[i]:.4g}: alpha = {run.time('alpha')[i]:.4g}, sigma = {run.time('sigma')[i]:.4g}, "
        f"log-SNR = {run.time('logsnr')[i]:.4g}"
        for i in (0, -1)
    ]
    spelled = shortened(str(run.model.get("schedule") or ""))
    return f"{run.label}{f' ({spelled})' if spelled else ''} from {said[0]}, to {said[1]}"


def rows(run: Run, column: dict[str, np.ndarray]) -> list[Row]:
    return [
        {"series": run.label, **{name: float(values[i]) for name, values in column.items()}}
        for i in range(run.timestep.size)
    ]
