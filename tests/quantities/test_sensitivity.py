"""Sensitivity against the derivative of the flow in closed form, and against diffusers' own sampler, differenced."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.design.points import points
from lipdiag.diffusion.clock import Shared, Timesteps, Unit
from lipdiag.diffusion.ddim import ddim
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import VP, Cosine, Linear, Straight
from lipdiag.quantities import draw
from lipdiag.quantities.sensitivity import STEPS, path, transported

VARIANCES = torch.logspace(-1, 0.5, 5, dtype=torch.float64)
ZEROS = torch.zeros(5, dtype=torch.float64)
PLAN = Plan(quantities=("sensitivity",), dtype="float64")


def at(model, timesteps, draws=1):
    return points(model, PLAN, lambda i: torch.zeros(model.shape), timesteps, range(draws))


@pytest.mark.parametrize("schedule", [VP(), Cosine(), Straight()], ids=["vp", "cosine", "straight"])
def test_a_gaussian_models_flow_is_reached_at_first_order(schedule):
    """Along an axis of standard deviation s the flow to the data multiplies by s / sqrt(alpha^2 s^2 + sigma^2)."""
    model = Gaussian(ZEROS, VARIANCES, schedule, Unit())
    point = at(model, [0.05, 0.4, 0.9])
    alpha, sigma = (c[:, None] for c in schedule(point.t))
    truth = (VARIANCES / (alpha**2 * VARIANCES + sigma**2)).sqrt()
    ones = torch.ones_like(point.x)
    gaps = [float((transported(point, ones, steps) / truth - 1).abs().max()) for steps in (100, 200)]
    assert gaps[1] < 0.04
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.1)


def test_it_is_the_derivative_of_diffusers_own_sampler():
    """Central differences of 20 trailing DDIM steps on the trained network, from timestep 999; float64."""
    model = lipdiag.load("digits-ddpm").double().eval()
    point = at(model, [999.0], draws=2)
    scheduler = DDIMScheduler(
        trained_betas=model.schedule.betas.numpy(),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.alphas_cumprod = model.schedule((torch.arange(1000, dtype=torch.float64) + 1) / 1000)[0] ** 2
    scheduler.set_timesteps(STEPS)

    @torch.no_grad()
    def sample(x):
        for k in scheduler.timesteps:
            eps = model(x, ((k.double() + 1) / 1000).expand(len(x)))
            x = scheduler.step(eps, k, x).prev_sample.to(x.dtype)
        return x

    h = 1e-4
    v = point.perturbation.reshape(point.x.shape)
    truth = (sample(point.x + h * v) - sample(point.x - h * v)) / (2 * h)
    found = transported(point, point.perturbation, STEPS)
    assert float((found - truth).norm() / truth.norm()) < 1e-6


@pytest.mark.parametrize("clock", [Timesteps(1000), Shared(Timesteps(1000), 100, 5)], ids=["ddpm", "etsdm"])
def test_a_path_falls_over_integer_timesteps_and_is_not_shared(clock):
    t = clock.base.time(torch.tensor([0.0, 3.0, 19.0, 999.0], dtype=torch.float64))
    told = clock.base(path(clock, Linear(), t, 20)).T
    assert told[0].tolist() == [0] * 20
    assert sorted(set(told[1].tolist())) == [0, 1, 2, 3]
    assert told[2].tolist() == list(range(19, -1, -1))
    assert told[3].tolist() == list(range(999, 0, -50))


def test_steps_that_stand_still_change_nothing():
    """From timestep 0 the sampler takes one step, x0 = (x - sigma eps) / alpha, however many are asked for."""
    model = Gaussian(ZEROS, VARIANCES, Linear(), Timesteps(1000))
    point = at(model, [0.0])
    alpha, sigma = model.schedule(point.t)
    truth = (1 - sigma**2 / (alpha**2 * VARIANCES + sigma**2)) / alpha
    np.testing.assert_allclose(transported(point, torch.ones(1, 5), 20)[0], truth, rtol=1e-12)


def test_the_last_step_ends_at_the_data():
    alpha, sigma = torch.tensor([[0.6], [0.8]]), torch.tensor([[0.8], [0.6]])
    a, b = ddim(alpha, sigma)
    torch.testing.assert_close(a, torch.tensor([[0.8 / 0.6], [1 / 0.8]]))
    torch.testing.assert_close(b, torch.tensor([[0.6 - 0.8 * 0.8 / 0.6], [-0.6 / 0.8]]))


def test_the_run_holds_the_length_of_what_becomes_of_the_seeds_direction(device):
    """Along the diagonal model's axes the sampler is a product of known factors."""
    model = Gaussian(ZEROS, VARIANCES, Linear(), Timesteps(1000))
    data = np.zeros((3, 5))
    plan = PLAN.replace(timesteps="0,99", draws=3)
    found = lipdiag.measure(model, data, plan, progress=False, device=str(device))["sensitivity"]
    assert found.attrs["quantity"] == "sensitivity"
    times = path(model.clock, model.schedule, torch.tensor([0.001, 0.1], dtype=torch.float64), STEPS)
    alpha, sigma = model.schedule(times)
    V = alpha[..., None] ** 2 * VARIANCES + sigma[..., None] ** 2
    a, b = (c[..., None] for c in ddim(alpha, sigma))
    factors = (a + b * sigma[..., None] / V).prod(0)
    for i in range(3):
        v = draw.direction(0, "perturbation", i, 5)
        assert float(v.norm()) == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(found.values[:, i], (factors * v).norm(dim=1), rtol=1e-10)


def test_it_is_optional_and_has_its_price():
    assert "sensitivity" not in Plan().quantities
    assert PLAN.passes(12) == 1 + 2 * STEPS
