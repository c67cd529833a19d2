"""Dimension, rank, contraction and likelihood of Gaussians, which are known in closed form."""

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.diffusion.clock import Timesteps, Unit
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import VE, VP, Linear, Straight
from lipdiag.errors import UsageError
from lipdiag.pages.verdict import verdicts
from lipdiag.results.run import read

D, K = 12, 5
QUANTITIES = ("trace", "loss", "squared_frobenius_norm", "spectral_norm", "one_sided_lipschitz")


def measured(variances, schedule, timesteps, quantities=QUANTITIES, clock=None, draws=64):
    spread = torch.as_tensor(variances, dtype=torch.float64)
    model = Gaussian(torch.full((len(spread),), 0.3, dtype=torch.float64), spread, schedule, clock or Unit())
    data = model.draw(4096, torch.Generator().manual_seed(0)).numpy()
    exact = {"krylov_steps": D, "certified_width": 1e-9, "probes": 8, "dtype": "float64"}
    plan = Plan(timesteps=timesteps, draws=draws, quantities=quantities, **exact)
    return lipdiag.measure(model, data, plan, progress=False, probe=False)


def within(values, truth, widest: float) -> None:
    """The mean over draws is the truth, to four and a half standard errors: wrong once in 10^4."""
    values = values.values
    error = values.std(1, ddof=1) / np.sqrt(values.shape[1])
    assert (np.abs(values.mean(1) - truth) <= 4.5 * error + 1e-9).all(), (values.mean(1), truth, error)
    assert (error < widest).all()


@pytest.mark.parametrize("schedule", [VP(), Straight()], ids=["vp", "straight"])
def test_a_plane_has_its_dimension(schedule):
    """Wide in K directions against the noise, flat in the others."""
    plane = [1.0] * K + [0.0] * (D - K)
    found = lipdiag.geometry(measured(plane, schedule, (1e-5, 1e-4)))
    within(found["dimension_by_trace"], K, widest=0.2)
    within(found["dimension_by_loss"], K, widest=2.0)


@pytest.mark.parametrize("schedule", [VP(), VE(0.01, 50.0), Straight()], ids=["vp", "ve", "straight"])
def test_rank_dimension_and_contraction_follow_from_the_variances(schedule):
    variances, t = np.geomspace(1e-2, 4, D), (0.2, 0.4, 0.6, 0.8)
    found = lipdiag.geometry(measured(variances, schedule, t, draws=32))
    alpha, sigma = (s.numpy() for s in schedule(torch.tensor(t, dtype=torch.float64)))
    alpha_rate, sigma_rate = (s.numpy() for s in schedule.rates(torch.tensor(t, dtype=torch.float64)))
    V = alpha[:, None] ** 2 * variances + sigma[:, None] ** 2
    J = sigma[:, None] / V  # diagonal
    within(found["dimension_by_trace"], D - (sigma[:, None] * J).sum(1), widest=0.05)
    within(found["stable_rank"], (J**2).sum(1) / (J**2).max(1), widest=0.3)
    # of the probability-flow ODE every axis keeps x / sqrt(V): it moves at V' / 2 V, per unit of log-SNR
    growth = (alpha * alpha_rate)[:, None] * variances + (sigma * sigma_rate)[:, None]
    logsnr_rate = 2 * (alpha_rate / alpha - sigma_rate / sigma)
    fastest = -(growth / V / logsnr_rate[:, None]).min(1)
    tolerance = 1e-3 if isinstance(schedule, Straight) else 1e-6  # whose rates are those of a spline
    np.testing.assert_allclose(found["fastest_contraction"].mean("draw"), fastest, atol=tolerance)


@pytest.mark.parametrize("variance", [0.25, 4.0])
def test_the_likelihood_is_the_entropy_of_the_noised_data(variance):
    run = measured([variance] * D, Linear(), "log:48", ("loss",), Timesteps(), draws=128)
    noise = float(np.exp(-run["logsnr"].values[0]))
    found = lipdiag.likelihood(run)
    entropy = 0.5 * np.log(2 * np.pi * np.e * (variance + noise))
    assert found.low <= entropy <= found.high
    assert found.high - found.low < 1


def test_a_worse_model_is_less_likely():
    run = measured([1.0] * D, Linear(), "log:32", ("loss",), Timesteps(), draws=8)
    worse = run.assign(loss=run["loss"] + 0.1 * (run["logsnr"] < 0))
    reach = float(-run["logsnr"].where(run["logsnr"] < 0).min())
    gap = lipdiag.likelihood(worse).value - lipdiag.likelihood(run).value
    assert 0.045 * reach < gap < 0.055 * reach + 0.05  # half of 0.1 over these noise levels


def test_what_is_lacking_is_said_with_the_command_that_measures_it():
    short = measured([1.0] * D, VP(), (0.01, 0.02), ("time_derivative", "loss"), draws=2)
    with pytest.raises(UsageError, match=r"no loss where the data are hardly seen, at a log-SNR below -4; measure it"):
        lipdiag.likelihood(short)
    with pytest.raises(UsageError, match="nothing that tells of geometry; measure it with `lipdiag measure CKPT --qu"):
        lipdiag.geometry(short.drop_vars("loss"))
    assert set(lipdiag.geometry(short).data_vars) == {"dimension_by_loss", "done"}


def test_it_is_said_in_the_report():
    run = measured([1.0] * K + [0.0] * (D - K), Linear(), "log:16", ("trace", "loss"), Timesteps(), draws=16)
    said = {verdict.quantity: verdict for verdict in verdicts(read([run])[0])}
    learned = said["d - sigma tr J: dimension of the learned data at this noise level"]
    assert learned.words.startswith("By its trace the model has learned data of ")
    assert learned.words.endswith(f" of {D} dimensions at the noise of timestep 0.")
    assert learned.estimate.low - 0.05 < K < learned.estimate.high + 0.05
    density = said["nats per number of a sample, from the loss at all noise levels"]
    assert density.estimate == lipdiag.likelihood(run)  # in the one unit


def test_what_is_known_by_heart_and_how_likely_along_the_flow_are_said_too():
    run = measured([1.0] * K + [0.0] * (D - K), Linear(), (0.0, 9.0), ("flipd", "log_density"), Timesteps(), draws=4)
    said = {verdict.quantity: verdict for verdict in verdicts(read([run])[0])}
    heart = said["whether the model knows x0 as an isolated point, by heart; its mean over draws is their share"]
    assert heart.words == "At the noise of timestep 0 the model knows 0% of these x0 by heart."
    density = said["nats per number of a sample, along the probability flow"]
    assert density.estimate == lipdiag.likelihood(run)
    assert ", along its flow, -" in density.words
