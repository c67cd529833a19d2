"""The Fokker-Planck residual against closed forms: 0 of true models, and that of a multiple of one."""

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear, Straight
from tests.health.planted import ZOO, data, mixture

PLAN = lipdiag.Plan(timesteps="1,20,200,700", draws=64, quantities=("fokker_planck",), dtype="float64")
SPREAD, D = 0.5, 16


def residual(model, x0, plan=PLAN) -> np.ndarray:
    run = lipdiag.measure(model, x0, plan, probe=False, progress=False)
    return run["fokker_planck_residual"].values


def test_true_models_obey_it():
    """Exactly where x tells its cluster; where it does not, the mean over all directions is 0."""
    found = residual(mixture(), data())
    assert np.abs(found.mean(1)[[0, 1, 3]]).max() < 1e-6
    assert abs(found[2].mean()) < 4 * found[2].std() / len(found[2]) ** 0.5 < 0.3
    plan = PLAN.replace(timesteps="0.05,0.3,0.95", draws=16)
    assert np.abs(residual(mixture(Straight()), data(), plan).mean(1)).max() < 5e-3


@pytest.mark.parametrize("kind", ["v", "reversed flow", "edm"])
def test_networks_of_every_kind_obey_it(kind):
    plan = PLAN.replace(timesteps="pairs:3", draws=8, dtype="float32")
    assert np.abs(residual(ZOO[kind](), data(), plan).mean(1)).max() < 0.05


@pytest.mark.parametrize("factor", [1.3, 0.5])
def test_a_multiple_of_a_normal_model(factor):
    """Of c u with u = rho y / (s^2 + rho^2) it leaves 2 c (c - 1) rho J u = 2 c (c - 1) rho^2 / (s^2 + rho^2) u."""
    gaussian = Gaussian(torch.zeros(D), torch.full((D,), SPREAD**2, dtype=torch.float64), Linear(), Timesteps())

    class Multiple(torch.nn.Module):
        def forward(self, x, timestep):
            return factor * gaussian(x, Timesteps().time(timestep))

    model = NetworkPredictor(Multiple(), Linear(), eps, Timesteps(), (D,))
    x0 = SPREAD * np.random.default_rng(0).standard_normal((4096, D))
    found = residual(model, x0)
    alpha, sigma = (c.numpy() for c in Linear()(Timesteps().time(torch.tensor([1.0, 20, 200, 700]).double())))
    share = sigma**2 / (alpha**2 * SPREAD**2 + sigma**2)  # rho^2 / (s^2 + rho^2), and the mean square of u
    truth = (2 * factor * (factor - 1) * share) ** 2 * share
    error = found.std(1) / found.shape[1] ** 0.5
    assert (np.abs(found.mean(1) - truth) < 4 * error + 0.01 * truth).all(), (found.mean(1), truth)


def test_a_model_that_is_told_another_time():
    class Late(torch.nn.Module):
        def forward(self, x, timestep):
            return mixture()(x, Timesteps().time(timestep).sqrt())

    model = NetworkPredictor(Late(), Linear(), eps, Timesteps(), mixture().shape)
    assert residual(model, data(), PLAN.replace(timesteps="100", draws=16)).mean() > 0.03


def test_integers_that_are_looked_up_leave_it_unknown():
    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(1000, D)

        def forward(self, x, timestep):
            return x + self.embedding(timestep)

    model = NetworkPredictor(Table(), Linear(), eps, Timesteps(), (D,))
    plan = PLAN.replace(quantities=("fokker_planck", "loss"), timesteps="5", draws=4, dtype="float32")
    assert np.isnan(residual(model, np.zeros((4, D)), plan)).all()
