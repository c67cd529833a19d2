"""Samples of Gaussians, whose exact laws and trajectories are known, and order and invariance of the samplers."""

import math

import numpy as np
import pytest
import torch

from lipdiag import zoo
from lipdiag.diffusion.clock import Shared, Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import (
    VE,
    VP,
    Cosine,
    Karras,
    Linear,
    ScaledLinear,
    SquaredCosine,
    Straight,
    ZeroTerminalSNR,
)
from lipdiag.errors import UsageError
from lipdiag.quality.sample import SAMPLERS, ddim, sample, times

TABLES = [Linear(), ScaledLinear(), SquaredCosine(), ZeroTerminalSNR(Linear())]
CONTINUOUS = [VP(), VE(), Cosine(), Karras(), Straight()]
SPREAD = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
NOISE = torch.eye(3, dtype=torch.float64)


def gaussian(schedule, mean=None) -> Gaussian:
    """Independent coordinates with the spreads above."""
    return Gaussian(torch.zeros(3, dtype=torch.float64) if mean is None else mean, SPREAD**2, schedule)


def exact_end(schedule, t0: float, t1: float) -> torch.Tensor:
    """What unit noise at t0 becomes along the exact trajectory to t1: x / sqrt(alpha^2 s^2 + sigma^2) is constant."""
    (a0, a1), (s0, s1) = (c.tolist() for c in schedule(torch.tensor([t0, t1], dtype=torch.float64)))
    return s0 * torch.sqrt((a1**2 * SPREAD**2 + s1**2) / (a0**2 * SPREAD**2 + s0**2))


@pytest.mark.parametrize("schedule", TABLES + CONTINUOUS, ids=repr)
def test_many_steps_give_the_spread_of_the_data(schedule):
    # The map from noise to samples is linear and diagonal here, so that three unit vectors tell it wholly.
    found = sample(gaussian(schedule), noise=NOISE, steps=500)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, found.diagonal().diag(), rtol=0, atol=1e-9)
    first = 1.0 if schedule not in CONTINUOUS else times(gaussian(schedule), 2)[0].item()
    start = schedule(torch.tensor([first], dtype=torch.float64))
    # At most this much of the spread is lost because the start is noise without any data in it.
    unmixed = (SPREAD * start[0] / start[1]).square() / 2
    assert ((found.diagonal() / SPREAD - 1).abs() < 0.02 + unmixed).all()


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)
def test_the_plain_ddim_converges_to_the_trajectory_with_order_one(schedule):
    predictor, steps, errors = gaussian(schedule), np.array([50, 100, 200, 400]), []
    for count in steps:
        grid = times(predictor, int(count) + 1)[:-1]  # stop at a time before the last, where the exact end is known
        grid = (
            torch.linspace(0.9, 0.1, int(count) + 1, dtype=torch.float64)
            if schedule in (Straight(), Cosine())
            else grid
        )
        x = to_last(predictor, NOISE, grid)
        errors.append((x.diagonal() - exact_end(schedule, grid[0].item(), grid[-1].item())).abs().max().item())
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 0.9 < order < 1.1


def to_last(predictor, noise, grid):
    """The DDIM steps up to the last time of the grid: undo the one to sigma = 0, x0 = (x - sigma eps) / alpha."""
    x0 = ddim(predictor, noise, grid)
    alpha, sigma = (c[-1] for c in predictor.schedule(grid))
    # x0 = x (1 - sigma g(x)) / alpha with eps = sigma x / V, so x = x0 alpha V / (V - sigma^2)
    variance = alpha**2 * SPREAD**2 + sigma**2
    return x0 * alpha * variance / (variance - sigma**2)


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpm", 2)])
def test_diffusers_samplers_converge_as_they_should(sampler, order):
    schedule = Linear()
    steps = np.array([50, 100, 200]) if sampler == "ddim" else np.array([10, 20, 40])
    finest = sample(
        gaussian(schedule), noise=NOISE, steps=500 if sampler == "dpm" else 1000, sampler=sampler
    ).diagonal()
    errors = [
        (sample(gaussian(schedule), noise=NOISE, steps=int(n), sampler=sampler).diagonal() - finest).abs().max().item()
        for n in steps
    ]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order - 0.3 < slope < order + 0.8


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_have_the_mean_and_the_variance_of_the_data(sampler):
    # 2000 samples: mean and spread are off by 4 standard errors with probability 6e-5 in each of 3 coordinates.
    mean = torch.tensor([-1.0, 0.0, 3.0], dtype=torch.float64)
    x = sample(gaussian(Linear(), mean), 2000, steps=100, sampler=sampler, batch=2000)
    assert x.shape == (2000, 3)
    assert ((x.mean(0) - mean).abs() < 4 * SPREAD / math.sqrt(2000) + 0.05).all()
    assert ((x.std(0) / SPREAD - 1).abs() < 4 / math.sqrt(2 * 2000) + 0.05).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_follows_from_its_seed_and_number_alone(sampler):
    predictor = gaussian(Linear())
    whole = sample(predictor, 5, steps=10, seed=1, sampler=sampler)
    split = sample(predictor, 5, steps=10, seed=1, sampler=sampler, batch=2)
    torch.testing.assert_close(whole, split, rtol=1e-12, atol=1e-12)
    assert torch.equal(sample(predictor, 3, steps=10, seed=1, sampler=sampler, batch=5), whole[:3])
    assert not torch.allclose(sample(predictor, 5, steps=10, seed=2, sampler=sampler), whole)


def test_the_noise_level_is_never_shared():
    """A model that is told shared times is stepped at the true ones: the calls differ in the timestep alone."""
    seen: list[tuple] = []

    class Watched(Gaussian):
        def conditioned(self, x, t, timestep):
            seen.append((t[0].item(), timestep[0].item()))
            return super().conditioned(x, t, self.clock(t))

    clock = Shared(Timesteps(1000), 100.0, 5)
    predictor = Watched(torch.zeros(3).double(), SPREAD**2, Linear(), clock)
    sample(predictor, 1, steps=100)
    k = [round(1000 * t - 1) for t, _ in seen]
    assert k == list(range(990, -1, -10))
    assert [timestep for _, timestep in seen] == [i if i >= 100 else i // 20 * 20 for i in k]


def test_the_embedded_model_makes_digits():
    """Its samples are nearer to a digit than noise of their own mean and variance, pixel by pixel, is."""
    from lipdiag.training.data import dataset

    data = dataset("digits")
    every = torch.stack([data[i] for i in range(len(data))]).flatten(1)
    x = sample(zoo.load("digits-ddpm"), 32, steps=50).flatten(1)
    assert x.dtype == torch.float32
    fake = every.mean(0) + every.std(0) * torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    nearest, nearest_fake = (torch.cdist(points, every).min(1).values.mean() for points in (x, fake))
    assert nearest < 0.7 * nearest_fake


@pytest.mark.parametrize(
    ("schedule", "given", "word"),
    [
        (Linear(), {"n": 2, "steps": 30}, "divisor of 1000"),
        (Linear(), {"n": 2, "steps": 0}, "at least 1"),
        (Linear(), {"n": 0}, "at least 1"),
        (Linear(), {}, "how many"),
        (Linear(), {"n": 2, "sampler": "euler"}, "ddim, ddpm, dpm"),
        (VP(), {"n": 2, "sampler": "dpm"}, "table"),
        (VP(), {"n": 2, "noise": NOISE}, "shape"),
        (VP(), {"noise": NOISE[:, :2]}, "shape"),
    ],
)
def test_what_cannot_be_sampled_is_refused(schedule, given, word):
    with pytest.raises(UsageError, match=word):
        sample(gaussian(schedule), **given)
