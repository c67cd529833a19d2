"""Log-SNR as the axis of time, over which models that count time differently are compared.

2 log(alpha / sigma) is what an input tells of itself; an index, sigma or t are names for it. A rate per timestep
becomes one per log-SNR by d timestep / d log-SNR, a quotient of two timesteps by their distance in log-SNR.
"""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from .run import Run, read

if TYPE_CHECKING:
    import xarray as xr

PER_TIMESTEP = "1/timestep"


def over_logsnr(dataset: "xr.Dataset") -> "xr.Dataset":
    """A run whose timestep is log-SNR; where blocks of shared timesteps lie is no longer marked.

    Args:
        dataset: What `measure` returned.

    Returns:
        The same draws, where log-SNR is finite; what was per timestep is per log-SNR.

    Raises:
        UsageError: If it is no run, log-SNR is finite at none of its timesteps, or for K at a single one.
    """
    (whole,) = read([dataset])
    known = np.isfinite(whole.time("logsnr")) & np.isfinite(whole.time("dlogsnr_dtimestep"))
    least = 2 if whole.has("time_difference") else 1
    if known.sum() < least:
        raise UsageError(
            f"log-SNR is finite at {known.sum()} of the {known.size} timesteps of {whole.label}, and as the axis of "
            f"time it takes {least} or more; measure others, or show it over the model's own time"
        )
    dataset = dataset.isel(time=np.flatnonzero(known))
    run = read([dataset], [whole.label])[0]
    rate = run.time("dlogsnr_dtimestep")
    moved = dataset.copy()
    for name, variable in dataset.data_vars.items():
        if variable.attrs.get("units") == PER_TIMESTEP:
            scale = distances(run) if name == "time_difference" else 1 / np.abs(rate)
            shape = (-1, *[1] * (variable.ndim - 1))
            moved[name] = variable.copy(data=variable.values * scale.reshape(shape))
            moved[name].attrs["units"] = "1/logsnr"
    frozen = dict(dataset.attrs.get("frozen", {}))
    frozen["model"] = {**frozen.get("model", {}), "clock": "log_snr()"}
    moved.attrs = {**dataset.attrs, "frozen": frozen, "axis": "logsnr", "edges": []}
    moved = moved.drop_vars(["other_timestep", "other_t"], errors="ignore")
    unit = {**dataset["timestep"].attrs, "units": "logsnr"}
    return moved.assign_coords(
        time=("time", run.time("logsnr"), unit),
        timestep=("time", run.time("logsnr"), unit),
        dt_dtimestep=("time", run.time("dt_dtimestep") / rate, dataset["dt_dtimestep"].attrs),
        dlogsnr_dtimestep=("time", np.ones_like(rate), dataset["dlogsnr_dtimestep"].attrs),
    )


def distances(run: Run) -> np.ndarray:
    """How far the two times of K are apart in timesteps, over how far in log-SNR."""
    from scipy.interpolate import CubicHermiteSpline

    t, logsnr = run.time("t"), run.time("logsnr")
    slope = run.time("dlogsnr_dtimestep") / run.time("dt_dtimestep")
    other, other_t = run.other
    # where the signal is not scaled log-SNR is smooth in t, elsewhere it is infinite at t = 0 and smooth in log t
    unscaled = bool((run.time("alpha") == 1).all())
    place, slopes = (t, slope) if unscaled else (np.log(t), slope * t)
    later = CubicHermiteSpline(place, logsnr, slopes)(other_t if unscaled else np.log(other_t))
    return np.abs(other - run.timestep) / np.abs(later - logsnr)
