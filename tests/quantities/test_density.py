"""The density along the probability flow, against closed forms of it."""

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.design.points import points
from lipdiag.diffusion.clock import Shared, Timesteps, Unit
from lipdiag.diffusion.exact import Gaussian, GaussianMixture
from lipdiag.diffusion.schedule import VE, VP, Linear, Straight
from lipdiag.quantities.density import STEPS, log_densities, rising

D = 6
VARIANCES = torch.tensor(np.geomspace(0.05, 3, D))


def point(model, times, draws=4, probes=2):
    data = model.draw(64, torch.Generator().manual_seed(0))
    plan = Plan(quantities=("log_density",), dtype="float64", draws=draws, probes=probes)
    return points(model, plan, lambda i: data[i % 64], times, range(draws))


@pytest.mark.parametrize(
    ("schedule", "clock", "within"),
    [
        (VP(), Unit(), 0.02),
        (VE(0.01, 99.0), Unit(), 0.02),
        (Straight(), Unit(), 0.04),
        (Linear(), Timesteps(1000), 0.02),
    ],
    ids=["vp", "ve", "straight", "table"],
)
def test_it_is_the_density_of_a_gaussian(schedule, clock, within):
    """Of a diagonal J every vector of signs tells the trace, so that what is left is the step."""
    model = Gaussian(torch.full((D,), 0.3, dtype=torch.float64), VARIANCES, schedule, clock)
    at = point(model, [0.001, 0.3] if clock == Unit() else [0.0, 299.0], probes=1)
    truth = model.log_density(at.x, at.t)
    assert float((log_densities(at, STEPS) - truth).abs().max()) < within * D


def test_its_error_falls_with_the_square_of_the_step():
    model = Gaussian(torch.full((D,), 0.3, dtype=torch.float64), VARIANCES, VE(0.01, 1000.0))
    at = point(model, [0.01], probes=1)
    truth = model.log_density(at.x, at.t)
    coarse, fine = ((log_densities(at, steps) - truth).abs().mean() for steps in (16, 32))
    assert 3 < float(coarse / fine) < 5.5


def test_the_mean_over_draws_is_that_of_a_mixture():
    """Where J has no axes in common with the signs, whose error the interval over draws holds."""
    g = torch.Generator().manual_seed(5)
    squares = torch.randn(2, D, D, generator=g, dtype=torch.float64)
    covariances = squares @ squares.mT / D + 0.05 * torch.eye(D, dtype=torch.float64)
    model = GaussianMixture(torch.tensor([0.4, 0.6]), torch.randn(2, D, generator=g).double(), covariances, VP())
    at = point(model, [0.01], draws=48, probes=1)
    off = (log_densities(at, STEPS) - model.log_density(at.x, at.t)).numpy()
    assert off.std() > 0.01  # the signs are random
    assert abs(off.mean()) < 4.5 * off.std(ddof=1) / 48**0.5 + 0.02 * D


def test_the_likelihood_of_a_run_is_the_mean_of_it():
    model = Gaussian(torch.zeros(D, dtype=torch.float64), VARIANCES, VP())
    data = model.draw(256, torch.Generator().manual_seed(0)).numpy()
    plan = Plan(timesteps=(0.001, 0.01), draws=32, dtype="float64", quantities=("log_density",), probes=1)
    run = lipdiag.measure(model, data, plan, progress=False, probe=False)
    found = lipdiag.likelihood(run)
    alpha, sigma = model.schedule(torch.tensor(0.001, dtype=torch.float64))
    entropy = float((2 * np.pi * np.e * (alpha**2 * VARIANCES + sigma**2)).log().mean() / 2)
    assert found.low - 0.02 <= entropy <= found.high + 0.02
    assert found.high - found.low < 0.5


@pytest.mark.parametrize("clock", [Timesteps(1000), Shared(Timesteps(1000), 100, 5)], ids=["ddpm", "etsdm"])
def test_times_rise_over_whole_timesteps_to_the_last_and_are_not_shared(clock):
    t = clock.base.time(torch.tensor([0.0, 3.0, 999.0], dtype=torch.float64))
    told = clock.base(rising(clock, Linear(), t, 20)).T
    torch.testing.assert_close(told, told.round(), rtol=0, atol=1e-9)
    assert (told.diff(dim=1) >= -1e-9).all()
    assert told[:, 0].tolist() == pytest.approx([0, 3, 999])
    assert told[:, -1].tolist() == pytest.approx([999, 999, 999])


def test_it_has_its_price():
    assert "log_density" not in Plan().quantities
    assert Plan(quantities=("log_density",), probes=1).passes(12) == 1 + 4 * STEPS
