"""Noise schedules as the runs recorded them: amplitudes, log-SNR and its ends, rates, steps of the model's own time.

Nothing here is sampled: every value comes from coordinates of the run, which are exact. The rates follow from the
stored d logsnr / d timestep; see theory.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..findings.theory import LEAST_TIMES, noise_level
from ..printing import counted, shortened
from ..results.command import again
from ..results.run import Run
from . import marks
from .canvas import LONGEST, Picture


def schedules(canvas: Picture, runs: Sequence[Run]) -> None:
    """The noise schedules of one or several runs.

    Args:
        canvas: To draw on.
        runs: Of any models.

    Raises:
        UsageError: If a run has too few timesteps to tell how its schedule goes between them.
    """
    each, look, width = [columns(run) for run in runs], canvas.style, 1.2 * canvas.style.scale
    panels = canvas.panels(4)
    level, snr, rate, step = panels
    for number, (run, column) in enumerate(zip(runs, each, strict=True)):
        t = column["t"]
        stroke = {**marks.stroke(number, look), "markevery": max(1, t.size // 8)}
        thin = {**stroke, "linewidth": 0.5 * width}
        level.plot(t, column["sigma"], **stroke)
        level.plot(t, column["alpha"], **thin)
        snr.plot(t, column["logsnr"], **stroke)
        rate.plot(t, column["sigma_rate"], **stroke)
        rate.plot(t, np.abs(column["alpha_rate"]), **thin)
        step.plot(run.x, np.abs(column["dlogsnr_dtimestep"]), **stroke)
        spelled = str(run.model.get("schedule") or "")
        short = 0 < len(run.label) + len(spelled) < LONGEST
        marks.key(canvas, number, f"{run.label}: {spelled}" if short else run.label)
        canvas.rows += [
            {"series": run.label, **{name: float(values[i]) for name, values in column.items()}} for i in range(t.size)
        ]
    finish(panels, runs)
    for axes, title in zip(panels, ("signal and noise", "log-SNR", "rates", "log-SNR a timestep"), strict=True):
        canvas.title(axes, title)
    canvas.key(r"noise: $\sigma$, $\sigma^\prime$", color="0.2", linewidth=1.2 * look.scale)
    canvas.key(r"signal: $\alpha$, $|\alpha^\prime|$", color="0.2", linewidth=0.6 * look.scale)
    canvas.said = [
        "Noise schedules x_t = alpha x_0 + sigma eps over unit time t (0 = data, 1 = noise), all without unit or "
        "norm; exact at the timesteps measured, straight lines between them; nothing is sampled (n does not apply)",
        "Log-SNR = 2 log(alpha / sigma); rates are per unit t; (d) per timestep of the model's own time",
        *(ends(run) for run in runs),
    ]


def columns(run: Run) -> dict[str, np.ndarray]:
    """The schedule at the run's timesteps, with its rates per unit t."""
    if run.timestep.size < LEAST_TIMES:
        raise UsageError(
            f"{run.label} has {counted(run.timestep.size, 'timestep')}, too few to draw its schedule; "
            f"`{again(run.dataset, '--timesteps log:64 --quantity loss')}` makes a run with 64"
        )
    stored = {name: run.time(name) for name in ("timestep", "t", "alpha", "sigma", "logsnr", "dlogsnr_dtimestep")}
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = noise_level(run)[1]
        snr_rate = stored["dlogsnr_dtimestep"] / run.time("dt_dtimestep")
        rates = {
            "sigma_rate": stored["sigma"] * relative,
            "alpha_rate": stored["alpha"] * (snr_rate / 2 + relative),  # (log alpha)' = (log SNR)' / 2 + (log sigma)'
        }
    return stored | rates


def finish(panels: Sequence[Any], runs: Sequence[Run]) -> None:
    """Scales and labels."""
    level, snr, rate, step = panels
    for axes in (level, snr, rate):
        axes.set_xlabel("time $t$")
    for axes in (rate, step):
        axes.set(xscale="log", yscale="log")
    step.set_xlabel(runs[0].axis)
    level.set_ylabel(r"$\alpha_t$, $\sigma_t$  [1]")
    snr.set_ylabel(r"$2\log(\alpha_t/\sigma_t)$  [1]")
    rate.set_ylabel(r"$\sigma_t^\prime$, $|\alpha_t^\prime|$  [1/$t$]")
    step.set_ylabel(f"|d log-SNR|  [{runs[0].unit}]")
    bottom, top = rate.get_ylim()
    rate.set_ylim(max(bottom, top / 1e6), top)  # a rate that vanishes would flatten all others


def ends(run: Run) -> str:
    """The first and the last timestep measured, in words."""
    said = [
        f"timestep {run.timestep[i]:.4g}: alpha = {run.time('alpha')[i]:.4g}, sigma = {run.time('sigma')[i]:.4g}, "
        f"log-SNR = {run.time('logsnr')[i]:.4g}"
        for i in (0, -1)
    ]
    spelled = shortened(str(run.model.get("schedule") or ""))
    return f"{run.label}{f' ({spelled})' if spelled else ''} from {said[0]}, to {said[1]}"
