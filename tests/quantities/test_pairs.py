"""Every timestep against every other, for an isotropic Gaussian: eps(x, t) = c(t) x with c = sigma / V known."""

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.design.plan import Plan, resolve_timesteps
from lipdiag.design.points import points
from lipdiag.diffusion.clock import Shared, Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.parameterization import x0
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear
from lipdiag.quantities.pairs import swap

TIMES = (0, 7, 19, 20, 99, 500, 999)
VARIANCE, SIZE = 0.3, 6
QUANTITIES = ("pairs", "swap", "stein", "loss")


def measured(clock, device="cpu"):
    model = Gaussian(torch.zeros(SIZE), torch.full((SIZE,), VARIANCE, dtype=torch.float64), Linear(), clock)
    data = np.random.default_rng(0).normal(size=(9, SIZE)) * np.sqrt(VARIANCE)
    plan = Plan(timesteps=TIMES, draws=5, dtype="float64", quantities=QUANTITIES, batch=10)
    return lipdiag.measure(model, data, plan, progress=False, device=str(device))


def factor(timestep):
    """c of DDPM's linear table."""
    alpha2 = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[np.asarray(timestep, dtype=int)]
    return np.sqrt(1 - alpha2) / (alpha2 * VARIANCE + 1 - alpha2)


def told(clock):
    shares = isinstance(clock, Shared)
    return np.array([k // 20 * 20 if shares and k < 100 else k for k in TIMES])


@pytest.mark.parametrize("clock", [Timesteps(), Shared(Timesteps(), 100, 5)], ids=["plain", "shared"])
def test_a_gaussian_model_gives_the_closed_forms(clock, device):
    run, c = measured(clock, device), factor(told(clock))
    square, product = run["stein_square"].values, run["stein_product"].values  # c^2 |x|^2 and c <x, noise>
    relative = np.abs(c[:, None] - c) / c[:, None]
    found = run["pair_difference"].transpose("time", "draw", "other").values
    np.testing.assert_allclose(found, np.sqrt(square)[..., None] * relative[:, None], rtol=1e-9, atol=1e-12)
    own = SIZE * run["loss"].values - square + 2 * product  # |noise|^2
    share = (c / c[:, None])[:, None]
    expected = (share**2 * square[..., None] - 2 * share * product[..., None] + own[..., None]) / SIZE
    np.testing.assert_allclose(run["swap_loss"].values, expected, rtol=1e-9, atol=1e-12)


def test_a_model_that_is_told_the_same_timestep_answers_exactly_the_same(device):
    run = measured(Shared(Timesteps(), 100, 5), device)
    same = told(Shared(Timesteps(), 100, 5))[:, None] == told(Shared(Timesteps(), 100, 5))
    zero = (run["pair_difference"].values == 0).all(1)
    np.testing.assert_array_equal(zero, same)


@pytest.mark.parametrize("timesteps", ["log:24", "0,5,10", "0:100:7", (0.0, 3.0)])
def test_the_price_of_a_row_is_its_columns(timesteps):
    plan = Plan(timesteps=timesteps, quantities=("pairs",))
    assert plan.passes(12) - 1 == resolve_timesteps(plan.timesteps, Timesteps()).size


def test_a_swap_tells_another_time_and_leaves_the_noise_level():
    """Of a network that predicts x0 as x / (1 + t'): eps = (x - alpha x0) / sigma at the level of t."""
    model = NetworkPredictor(lambda x, k: x / (1 + k.to(x.dtype)[:, None]), Linear(), x0, Timesteps(), (SIZE,))
    plan = Plan(timesteps=TIMES, dtype="float64", quantities=("swap",))
    point = points(model, plan, lambda i: torch.full((SIZE,), 0.1 * i), TIMES, range(2), record=False)
    found = swap(point)["swap_loss"]
    alpha2 = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[np.repeat(TIMES, 2)]
    alpha, sigma = (torch.from_numpy(np.sqrt(c))[:, None] for c in (alpha2, 1 - alpha2))
    for column, k in enumerate(TIMES):
        eps = (point.x - alpha * point.x / (1 + k)) / sigma
        torch.testing.assert_close(found[:, column], (eps - point.noise).square().mean(1), rtol=1e-6, atol=0)
