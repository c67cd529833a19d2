"""Checks against closed forms: linear models of normal data, whose laws are known exactly."""

import numpy as np
import pytest
import torch

import lipdiag
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear
from lipdiag.health.checks import CHECKS
from lipdiag.health.examine import PLAN
from lipdiag.health.judge import judge
from lipdiag.health.laws import above
from lipdiag.results.run import read

D, TIMES, DRAWS = 8, (20, 200, 700), 192
SPREAD = 0.5
ALPHA, SIGMA = (c.numpy() for c in Linear()(Timesteps().time(torch.tensor(TIMES, dtype=torch.float64))))
V = ALPHA**2 * SPREAD**2 + SIGMA**2


class Turning(torch.nn.Module):
    """c x, and b times x with pairs of its entries exchanged, one with the other sign: an antisymmetric part."""

    def __init__(self, c: float, b: float = 0.0) -> None:
        super().__init__()
        self.c, self.b = c, b

    def forward(self, x, timestep):
        first, second = x[:, ::2], x[:, 1::2]
        return self.c * x + self.b * torch.stack([second, -first], -1).flatten(1)


def measured(c: float, b: float = 0.0):
    model = NetworkPredictor(Turning(c, b), Linear(), eps, Timesteps(), (D,))
    data = SPREAD * np.random.default_rng(0).standard_normal((4096, D))
    plan = PLAN.replace(timesteps=TIMES, draws=DRAWS, dtype="float64")
    return read([lipdiag.measure(model, data, plan, probe=False, progress=False)])[0]


@pytest.fixture(scope="module")
def run():
    return measured(0.7, 0.35)


def found(run, name: str, threshold: float | None = None):
    check = CHECKS[name]
    return {test.place: test for test in check.tests(run, check.threshold if threshold is None else threshold)}


def near(tests, truth, widths: float = 3.0):
    """Within three half-widths of the interval, and not in vain: the interval is a part of the number."""
    for place, value in enumerate(truth):
        estimate = tests[place].estimate
        half = (estimate.high - estimate.low) / 2
        assert abs(estimate.value - value) <= widths * half + 1e-9, (place, estimate, value)
        assert half < max(0.35 * abs(value), 0.05)


def test_loss_above_what_the_jacobian_leaves_is_that_of_a_linear_model(run):
    """1 - 2 c sigma + (c^2 + b^2) V, less 1 - sigma c."""
    near(found(run, "excess"), (0.7**2 + 0.35**2) * V - 0.7 * SIGMA)


def test_slope_is_that_of_a_linear_model(run):
    truth = 0.7 * SIGMA / ((0.7**2 + 0.35**2) * V)
    for place, test in found(run, "size").items():
        assert test.slope == pytest.approx(truth[place], rel=0.1)


def test_expansion_and_asymmetry_of_a_linear_model(run):
    for place, test in found(run, "expansion").items():
        assert test.estimate.value == pytest.approx(SIGMA[place] * 0.7, rel=1e-9)
    for test in found(run, "symmetry").values():
        assert test.estimate.value == pytest.approx(0.5, rel=1e-9)  # 2 b over 2 c


def test_error_in_x0_over_that_at_a_noisier_time(run):
    error = (SIGMA / ALPHA) ** 2 * (1 - 2 * 0.7 * SIGMA + (0.7**2 + 0.35**2) * V)
    for place, test in found(run, "order").items():
        value, truth = test.estimate.value, error[place] / error[test.other]
        assert value == pytest.approx(truth, rel=0.15)


def test_a_model_deaf_to_time_is_found_so(run):
    assert {test.p for test in found(run, "still").values()} == {0.0}
    assert not found(run, "told")  # whatever it is told is the same


def test_students_test():
    values = np.random.default_rng(1).normal(0.3, 1, 40)
    from scipy.stats import ttest_1samp

    t, p = above(values)
    truth = ttest_1samp(values, 0, alternative="greater")
    assert (t, p) == (pytest.approx(truth.statistic), pytest.approx(truth.pvalue))
    assert above(values, 3)[1] == pytest.approx(min(1, 3 * truth.pvalue))
    assert above(values[:5])[1] == 1.0
    assert [above(np.full(9, level))[1] for level in (0.1, 0.0)] == [0.0, 1.0]


def test_a_threshold_moves_the_verdict(run):
    loose = {"size": 9.0, "order": 99.0, "told": 0.0, "excess": 9.0, "still": 1.0, "nothing": 9.0}
    assert [fault.name for fault in judge(run.dataset, {**loose, "symmetry": 0.4}).faults] == ["asymmetric"]
    assert judge(run.dataset, {**loose, "symmetry": 0.6}).verdict == "healthy"
