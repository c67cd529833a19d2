"""What numbers of the Jacobian and of the loss say of the data and of the sampler, with nothing measured anew.

For the exact eps* at x = alpha x0 + sigma eps, J = d eps*/dx = (1 - (alpha/sigma)^2 Cov[x0 | x]) / sigma, so that

    d - sigma tr J = (alpha/sigma)^2 tr Cov[x0 | x],    E|eps - eps*|^2 = d - E|eps*|^2 = the mean of that.

Each direction in which the data are wide against the noise adds 1, a thin one 0: as sigma -> 0 it tends to the
dimension of the data about x. Of a trained model the trace tells the dimension that it has learned, and the loss, which
holds its error too, a bound from above.

The probability-flow ODE dx/dt = alpha' x0 + sigma' eps has the Jacobian alpha'/alpha - (sigma logsnr'/2) J: where its
largest symmetric eigenvalue is positive towards the data, two trajectories may part there. Per unit of log-SNR,

    growth towards the data = alpha'/alpha / logsnr' - (sigma/2) lambda, for each lambda of the symmetric part of J;

the smallest lambda decides where trajectories part, the largest how fast they meet: the stiffness of the ODE.

With the loss in all noise levels the data's density is known (I-MMSE). Between log-SNR a and b, for data y = x0 + e
noised by sigma/alpha as at b, -E log q(y) = d/2 log(2 pi e (1 + 1/snr)) - 1/2 int (d snr/(1 + snr) - d loss) dlogsnr,
if at a the data are hardly seen. A model's loss in the place of the exact one adds what its predictions miss. Of a run
with `log_density` the probability flow's own density is taken instead.

References:
    Kong, Brekelmans & Ver Steeg, Information-theoretic diffusion, 2023. https://arxiv.org/abs/2302.03792
    Kamkari et al., A geometric view of data complexity, 2024. https://arxiv.org/abs/2406.03537
"""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..results.command import again
from ..results.run import Run, read
from ..statistics import Estimate, mean
from .theory import noise_level

if TYPE_CHECKING:
    import xarray as xr

HARDLY_SEEN = -4.0
"""Log-SNR from which on data of about unit variance add little to the likelihood."""

ALONE, DOUBT = 1.0, 2.0
"""Below such a dimension there is none, beyond so many standard errors."""

SOURCES = "--quantity trace --quantity squared_frobenius_norm --quantity spectral_norm --quantity one_sided_lipschitz"


def geometry(run: "xr.Dataset") -> "xr.Dataset":
    """Numbers of each draw at each timestep that follow from those measured, as many as the run allows.

    `summarize` tells their means with intervals, as of what was measured.

    Args:
        run: What `measure` returned, with any of `trace`, `loss`, `squared_frobenius_norm` (with `spectral_norm`) and
            `one_sided_lipschitz` or `flipd`.

    Returns:
        A dataset of the same axes with the variables `dimension_by_trace`, `dimension_by_loss`, `stable_rank`,
        `fastest_contraction` (per unit of log-SNR, towards the data) and `memorized`.

    Raises:
        UsageError: If the run has none of these, or is of the network's own output.

    Example:
        >>> run = lipdiag.open_run("digits-ddpm.zarr")
        >>> "dimension_by_loss" in lipdiag.geometry(run)
        True
    """
    import xarray as xr

    one = read([run])[0]
    readings = derived(one)
    if not readings:
        raise UsageError(
            f"{one.label} has nothing that tells of geometry; measure it with `{again(one.dataset, SOURCES)}`"
        )
    variables = {
        name: (("time", "draw"), values, {"long_name": what, "units": unit, "norm": norm})
        for name, (values, what, unit, norm) in readings.items()
    }
    return xr.Dataset({**variables, "done": run["done"]}, run.coords, run.attrs)


def derived(run: Run) -> dict[str, tuple[np.ndarray, str, str, str]]:
    """Name -> (time, draw) numbers, what they are, their unit and norm."""
    more = {}
    d, sigma = run.dimension, run.time("sigma")[:, None]
    if d is not None and not run.raw and run.has("trace"):
        what = "d - sigma tr J: dimension of the learned data at this noise level"
        more["dimension_by_trace"] = d - sigma * run.values("trace"), what, "1", "count"
    if d is not None and not run.raw and run.has("loss"):
        what = "d times the loss: dimension of the data at this noise level, at most"
        more["dimension_by_loss"] = d * run.values("loss"), what, "1", "count"
    if run.has("squared_frobenius_norm") and run.has("spectral_norm"):
        what = "squared Frobenius over squared spectral norm: how many directions J is spread over"
        rank = run.values("squared_frobenius_norm") / run.values("spectral_norm") ** 2
        more["stable_rank"] = rank, what, "1", "Frobenius and operator norm, squared"
    if not run.raw and run.has("one_sided_lipschitz") and run.timestep.size > 1:
        what = "fastest contraction of the probability-flow ODE towards the data"
        signal = alpha_rate(run)[:, None]
        rate = sigma * run.values("one_sided_lipschitz") / 2 - signal
        more["fastest_contraction"] = rate, what, "1/logsnr", "signed"
    if run.has("flipd"):
        what = "whether the model knows x0 as an isolated point, by heart; its mean over draws is their share"
        most = run.values("flipd") + DOUBT * run.values("flipd_standard_error")
        alone = np.where(np.isfinite(most), most < ALONE, np.nan)
        more["memorized"] = alone, what, "1", f"1 where flipd and {DOUBT:g} of its standard errors are below {ALONE:g}"
    return more


def alpha_rate(run: Run) -> np.ndarray:
    """d ln alpha / d log-SNR: log-SNR is twice ln alpha - ln sigma."""
    rate = noise_level(run)[1] * run.time("dt_dtimestep") / run.time("dlogsnr_dtimestep")
    return np.asarray(0.5 + rate)


def likelihood(run: "xr.Dataset") -> Estimate:
    """Minus the mean log-density of the data, noised as at the first timestep, in nats per number, with its interval.

    Divided by ln 2 these are bits per dimension of the model's own scale of x. With `log_density` it is that of the
    probability flow, at the first timestep. Else it is from the loss at all timesteps, of each draw: exact for an exact
    model, for a trained one above it by what its predictions miss; that integral is a trapezoid, so give enough
    (`--timesteps log:64`), down to where the data are hardly seen. The interval is over draws.

    Args:
        run: What `measure` returned, with `log_density`, or with `loss` at many timesteps.

    Raises:
        UsageError: If the run has no loss, or not at timesteps from the data to the noise.

    Example:
        >>> run = lipdiag.open_run("digits-ddpm.zarr")
        >>> nats = lipdiag.likelihood(run)
        >>> nats.low < nats.value < nats.high
        True
    """
    one = read([run])[0]
    if one.has("log_density") and one.dimension is not None:
        density = one.values("log_density")[np.argmin(one.time("t"))]
        return mean(-density[np.isfinite(density)] / one.dimension)
    one.demand(["loss"], "loss", " --timesteps log:64")
    logsnr, loss = one.time("logsnr"), one.values("loss")
    known = np.isfinite(logsnr)
    if known.sum() < 2 or logsnr[known].min() > HARDLY_SEEN:
        raise UsageError(
            f"{one.label} has no loss where the data are hardly seen, at a log-SNR below {HARDLY_SEEN:g}; measure it "
            "at timesteps up to the last"
        )
    order = np.argsort(logsnr[known])
    snr, loss = logsnr[known][order], loss[known][order]
    loss = loss[:, np.isfinite(loss).all(0)]
    gained = np.trapezoid(1 / (1 + np.exp(-snr))[:, None] - loss, snr, axis=0) / 2
    return mean(0.5 * np.log(2 * np.pi * np.e * (1 + np.exp(-snr[-1]))) - gained)
