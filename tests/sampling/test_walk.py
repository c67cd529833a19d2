"""Samplers along times of one's own, against diffusers' own steps and against the trajectory in closed form."""

import diffusers
import numpy as np
import pytest
import torch

from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import VE, VP, Linear, Straight
from lipdiag.errors import UsageError
from lipdiag.sampling.walk import evaluations, walk

VARIANCES = torch.tensor([1e-2, 0.1, 0.5, 2.0], dtype=torch.float64)
GRID = [990, 800, 560, 333, 120, 21]
SCHEDULERS = {
    "ddim": diffusers.EulerDiscreteScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "dpm": diffusers.DPMSolverMultistepScheduler,
}


def gaussian(schedule, clock=None) -> Gaussian:
    model = Gaussian(torch.zeros(4, dtype=torch.float64), VARIANCES, schedule)
    model.clock = clock or model.clock
    return model


def end(model, x, t, rule):
    *_, (_, x0) = walk(model, x, torch.as_tensor(t, dtype=torch.float64), rule)
    return x0


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of numpy, at how diffusers reads tensors
@pytest.mark.parametrize("rule", SCHEDULERS)
def test_each_step_is_that_of_diffusers(rule):
    """Told the same timesteps, from the same noise; its tables are in float32."""
    schedule = Linear()
    model = gaussian(schedule, Timesteps(1000))
    extra = {"final_sigmas_type": "zero"} if rule == "dpm" else {}
    scheduler = SCHEDULERS[rule](1000, trained_betas=schedule.betas.tolist(), **extra)
    scheduler.set_timesteps(timesteps=GRID)
    noise = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = noise * float(scheduler.init_noise_sigma)
    count = 0
    for k in scheduler.timesteps:
        t = ((k.double() + 1) / 1000).expand(16)
        eps = model(scheduler.scale_model_input(x, k), t)
        x, count = scheduler.step(eps, k, x).prev_sample.double(), count + 1
    expected = end(model, noise, (np.array(GRID) + 1) / 1000, rule)
    torch.testing.assert_close(expected, x, rtol=2e-3, atol=2e-4)
    assert count == evaluations(rule, len(GRID))


@pytest.mark.parametrize("schedule", [VP(), VE(), Straight()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("rule", "order"), [("ddim", 1), ("heun", 2), ("dpm", 2)])
def test_the_order_of_convergence(rule, order, schedule):
    """Towards y = x / alpha, which goes from s = sigma / alpha to the last time as sqrt(v + s^2) does."""
    model = gaussian(schedule)
    y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = []
    for steps in (40, 80):
        t = schedule.time(torch.linspace(-3, 3, steps, dtype=torch.float64))
        alpha, sigma = schedule(t)
        *_, before, _ = [x for _, x in walk(model, alpha[0] * y, t, rule)]
        s = sigma / alpha
        exact = alpha[-1] * y * ((VARIANCES + s[-1] ** 2) / (VARIANCES + s[0] ** 2)).sqrt()
        errors.append((before - exact).norm())
    assert 2 ** (order - 0.35) < errors[0] / errors[1] < 2 ** (order + 0.6)


def test_a_sampler_that_there_is_not():
    with pytest.raises(UsageError, match="choose one of ddim, dpm, euler, heun"):
        end(gaussian(VP()), torch.zeros(1, 4), [0.5], "magic")
