"""Log-SNR as the common axis: one model that is told its time in two ways has one curve over it."""

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.diffusion.clock import Clock, LogSigma, Timesteps, Unit
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import VP, Linear
from lipdiag.errors import UsageError
from lipdiag.results.axis import over_logsnr
from lipdiag.results.run import read

DATA = np.random.default_rng(0).normal(size=(20, 6)) * 0.3
INDEX = (0, 3, 10, 50, 200, 600, 998)


def run_of(schedule, clock: Clock, timesteps):
    variances = torch.full((6,), 0.09, dtype=torch.float64)
    model = Gaussian(torch.zeros(6, dtype=torch.float64), variances, schedule, clock)
    quantities = ("time_derivative", "time_difference", "spectral_norm")
    plan = lipdiag.Plan(timesteps=timesteps, draws=4, quantities=quantities, dtype="float64")
    return lipdiag.measure(model, DATA, plan, progress=False)


def test_derivatives_of_one_model_agree_whatever_it_is_told():
    told = run_of(Linear(), Timesteps(), INDEX)
    clock = LogSigma(Linear())
    t = (torch.tensor(INDEX, dtype=torch.float64) + 1) / 1000
    other = run_of(Linear(), clock, tuple(clock(t).tolist()))
    a, b = over_logsnr(told), over_logsnr(other)
    np.testing.assert_allclose(a["timestep"], b["timestep"], rtol=1e-9)
    np.testing.assert_allclose(a["time_derivative"], b["time_derivative"], rtol=1e-7)
    np.testing.assert_allclose(a["spectral_norm"], told["spectral_norm"], rtol=1e-12)
    assert a["time_derivative"].attrs["units"] == "1/logsnr"
    with pytest.raises(UsageError, match="axis='logsnr'"):
        lipdiag.plot([told, other])
    drawn = lipdiag.plot([a, b])
    assert "unit 1/logsnr" in drawn.caption
    assert "theory" not in drawn.caption


def test_a_quotient_is_divided_by_its_own_distance():
    """Between an index and the next one log-SNR moves by what the schedule says, which its slope alone does not."""
    for schedule, clock, timesteps in ((Linear(), Timesteps(), "log:40"), (VP(), Unit(), "log:40")):
        run = run_of(schedule, clock, timesteps)
        (known,) = read([run])
        other, other_t = known.other
        moved = schedule.logsnr(torch.from_numpy(other_t)) - schedule.logsnr(torch.from_numpy(known.time("t")))
        expected = run["time_difference"].values * (np.abs(other - known.timestep) / moved.abs().numpy())[:, None]
        np.testing.assert_allclose(over_logsnr(run)["time_difference"], expected, rtol=1e-3)
