"""Log-SNR as the common axis: one model that is told its time in two ways has one curve over it."""

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.diffusion.clock import Clock, LogSigma, Timesteps, Unit
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import VP, Linear, Straight
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


def test_time_0_has_a_place_on_a_logarithmic_axis_and_none_over_log_snr():
    run = run_of(Straight(), Unit(), (0.0, 0.01, 0.1, 0.5))
    (known,) = read([run])
    np.testing.assert_allclose(known.x, [0.01 / 3, 0.01, 0.1, 0.5])
    np.testing.assert_array_equal(known.logarithmic(np.array([0, 0.001, 0.02])), [0.01 / 3, np.nan, 0.02])
    np.testing.assert_array_equal(known.position(known.timestep), known.timestep)
    for figure in ("singularity", "distribution", "jacobian"):
        axes = lipdiag.plot([run], figure=figure).axes[0]
        assert [text.get_text() for text in axes.texts if text.xy[0] == known.nought] == ["0"]
        drawn = next(line for line in axes.lines if len(line.get_xdata()) == 4)
        np.testing.assert_allclose(drawn.get_xdata(), known.x)
    near = lipdiag.plot([run], figure="singularity").axes[1]
    np.testing.assert_allclose(near.lines[0].get_xdata(), known.timestep)
    assert over_logsnr(run)["timestep"].size == 3
    with pytest.raises(UsageError, match="finite at 1 of the 2 timesteps"):
        over_logsnr(run.isel(time=[0, 3]))
    assert over_logsnr(run.isel(time=[0, 3]).drop_vars("time_difference"))["timestep"].values == pytest.approx(0)
    with pytest.raises(UsageError, match="finite at 0 of the 1 timesteps"):
        over_logsnr(run.isel(time=[0]))
    with pytest.raises(UsageError, match="no finished draws"):
        over_logsnr(run.assign(done=0 * run["done"]))
