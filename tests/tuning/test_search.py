"""Grids tried on a Gaussian, whose trajectories are known: y goes from s = sigma / alpha to 0 as sqrt(v + s^2)."""

import numpy as np
import pytest
import torch

from lipdiag.advice.grids import common
from lipdiag.diffusion.clock import Reversed, Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import VE, VP, Linear, Straight
from lipdiag.errors import NonFiniteError
from lipdiag.tuning.search import AMPLIFIED, Trial, axis_of, price

VARIANCE = 0.25
SCHEDULES = {
    "table": (Linear(), Timesteps(1000)),
    "vp": (VP(), None),
    "ve": (VE(), None),
    "straight": (Straight(), None),
}


def gaussian(name="vp", variance=VARIANCE):
    schedule, clock = SCHEDULES[name]
    model = Gaussian(torch.zeros(3, dtype=torch.float64), torch.full((3,), variance, dtype=torch.float64), schedule)
    model.clock = clock or model.clock
    return model


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_reference_ends_where_the_trajectory_does(name):
    """To the doubt that it tells of itself, which is small."""
    trial = Trial(gaussian(name), "ddim", 16, 0)
    found = trial.reference
    exact = found.y[0] * (VARIANCE / (VARIANCE + found.ratio[0] ** 2)) ** 0.5
    error = float((found.y[-1] - exact).square().mean(1).sqrt().mean())
    assert error < 3 * found.doubt + 1e-3
    assert found.doubt < 2e-3
    assert (found.y[-1] / found.y[0]).std() < 1e-6  # noise of each draw, and no other


def test_the_gains_are_those_of_the_trajectory():
    """An error shrinks by sqrt(v / (v + s^2)) on the way from s to the data."""
    trial = Trial(gaussian(), "ddim", 16, 0)
    s = trial.reference.ratio
    np.testing.assert_allclose(trial.gains()[8:-8], np.sqrt(VARIANCE / (VARIANCE + s**2))[8:-8], rtol=0.35, atol=0.02)


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_the_error_of_a_jump_is_that_of_the_formula(sampler):
    """Of the step by the noise at its beginning, or by the mean of both ends."""
    trial = Trial(gaussian(), sampler, 16, 0)
    found, jumps = trial.reference, trial.jumps()
    s, y = found.ratio, found.y[:, trial.fitting]
    i, j = 40, 52
    size = float((y[i].square().mean(1).sqrt()).mean())
    grown = np.sqrt((VARIANCE + s[[i, j]] ** 2) / (VARIANCE + s[i] ** 2))
    slope = s[[i, j]] / (VARIANCE + s[[i, j]] ** 2) * grown  # eps / y is s / (v + s^2)
    noise = slope[0] if sampler == "ddim" else slope.mean()
    assert jumps[i, j] == pytest.approx(abs(1 + (s[j] - s[i]) * noise - grown[1]) * size, rel=3e-2)


def test_one_step_to_the_data_costs_what_it_does():
    trial = Trial(gaussian(), "ddim", 16, 0)
    s = trial.reference.ratio[:-1]
    size = trial.reference.y[-1, trial.judging].square().mean(1).sqrt().mean().item()
    expected = size * np.abs(1 - np.sqrt(VARIANCE / (VARIANCE + s**2)))
    np.testing.assert_allclose(trial.last_steps(), expected, atol=2e-3)


@pytest.mark.parametrize(("name", "sampler"), list(zip(SCHEDULES, ["ddim", "dpm", "heun", "dpm"], strict=True)))
def test_the_advised_grid_is_better_than_every_common_one(name, sampler):
    choice = Trial(gaussian(name), sampler, 16, 0).advise(8)
    assert choice.better
    assert choice.name == "advised"
    assert choice.against_uniform.high < 1
    if name == "table":
        assert np.allclose(choice.t * 1000, np.round(choice.t * 1000))


def test_draws_that_judge_are_not_those_that_fit(monkeypatch):
    asked = []
    original = Trial.errors
    monkeypatch.setattr(Trial, "errors", lambda self, t, draws: asked.append(draws) or original(self, t, draws))
    trial = Trial(gaussian(), "ddim", 16, 0)
    count = len(common(trial.axis, 4)) + 2
    trial.advise(4)
    assert asked[-count:] == [slice(8, 16)] * count
    assert set(map(str, asked[:-count])) == {"slice(0, 8, None)", "slice(0, 4, None)"}


@pytest.mark.parametrize(("sampler", "steps"), [("heun", 3), ("ddim", 12)])
def test_every_evaluation_is_counted_and_was_in_the_price(sampler, steps):
    model, counted, made = gaussian(), [], []
    model.register_forward_pre_hook(lambda _, given: made.append(len(given[0])))
    trial = Trial(model, sampler, 18, 0, counted.append)
    trial.advise(steps)
    assert sum(counted) == sum(made)
    assert 0.8 * price(sampler, [steps], 18) < sum(made) <= price(sampler, [steps], 18)


def test_the_grid_of_gits_is_the_best_of_all_by_its_own_sum():
    """Earlier errors are amplified by every later step."""
    trial = Trial(gaussian(), "ddim", 16, 0)
    trial.advise(3)
    kept = {}
    for first in range(1, 119):
        for second in range(first + 1, 120):
            before = AMPLIFIED * (AMPLIFIED * trial.alone[0, first] + trial.alone[first, second])
            kept[0, first, second] = before + trial.alone[second, 120]
    t = trial.cut(trial.alone, 3, lambda before, cost: AMPLIFIED * before + cost)
    np.testing.assert_array_equal(t, trial.reference.t[list(min(kept, key=kept.get))])


def test_an_axis_that_runs_backwards_has_the_same_grid():
    one, other = gaussian("table"), gaussian("table")
    other.clock = Reversed(Timesteps(1000))
    assert axis_of(other).count == 1000
    np.testing.assert_array_equal(axis_of(one).t, axis_of(other).t)


def test_a_model_that_is_not_finite_is_refused():
    class Broken(Gaussian):
        def conditioned(self, x, t, timestep):
            return super().conditioned(x, t, timestep) * float("nan")

    broken = Broken(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64), VP())
    with pytest.raises(NonFiniteError, match="not finite"):
        Trial(broken, "ddim", 8, 0)
