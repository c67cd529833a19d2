"""Scans of many times: bands whose errors do not grow, and scales, of whatever a network predicts."""

from functools import cache

import numpy as np
import pytest

from lipdiag.health.checks import CHECKS
from lipdiag.health.examine import PLAN
from lipdiag.health.scan import DRAWS, SETS, Scan, scan, scanned
from lipdiag.study.measure import prepared
from tests.health.planted import ZOO, around, data

LIMITS = {"band": 1.1, "scale": 0.05}


@cache
def examined(kind: str, factor: float = 1.0) -> dict:
    model = around(ZOO[kind](), lambda ask, x, k: factor * ask(x, k))
    with prepared(
        model, data(), PLAN.replace(timesteps="pairs:3", draws=8), None, True, "cpu", priced=lambda _: False
    ) as ready:
        found = scanned(ready)
    assert found.error.shape == (len(found.timestep), DRAWS)
    (scale,) = [test for test in scan(found, LIMITS) if test.check == "scale"]
    return {"found": found, "scale": scale, "band": [test for test in scan(found, LIMITS) if test.check == "band"]}


@pytest.mark.parametrize(("kind", "factor"), [("v", 1.0), ("v", 0.8), ("flow", 0.8), ("edm", 0.8)])
def test_the_scale_of_whatever_is_predicted(kind, factor):
    """The best prediction of whatever it is has slope 1, and a multiple of it one over that."""
    scale = examined(kind, factor)["scale"]
    assert scale.slope == pytest.approx(1 / factor, abs=0.03)
    assert scale.p < 0.001 / len(CHECKS) if factor != 1 else scale.p == 1  # what Holm asks for at first


def test_errors_of_true_models_grow_with_the_noise():
    assert min(test.p for test in examined("ddpm")["band"]) > 1e-3


@pytest.mark.parametrize("kind", ["ddpm", "v"])
def test_true_models_err_as_a_guess_where_there_is_noise_alone_and_less_elsewhere(kind):
    found = examined(kind)["found"]
    of_guess = found.left.mean(1) / found.guess
    assert of_guess[-1] == pytest.approx(1, abs=0.1)
    assert of_guess.max() < 1.1
    assert of_guess.min() < 0.5


def test_a_band_that_lasts_to_the_end_of_time():
    found = examined("v")["found"]
    last = np.arange(len(found.timestep)) >= 100
    broken = found._replace(left=np.where(last[:, None], 2 * found.left + 0.2, found.left))
    low = {test.at for test in scan(broken, LIMITS) if test.check == "band" and test.p < 1e-6}
    assert low == set(found.timestep[last])


def test_a_band_is_found_at_its_noisy_end_alone():
    error = np.geomspace(1e-4, 1, 100)[:, None] * np.linspace(0.8, 1.2, DRAWS)
    error[40:50] *= 5
    ones = np.ones((100, DRAWS))
    found = [
        test
        for test in scan(Scan(np.arange(100.0), error, ones, ones, ones, 0 * ones[:, 0]), LIMITS)
        if test.check == "band"
    ]
    low = [test.at for test in found if test.p < 1e-4]
    # 5 times as large an error is above 1.1 times that of 12 steps later, 10^(4 * 12 / 99) = 3.05 times that of here
    assert low == list(range(40, 50))
    assert {test.at for test in found if test.p > 0.5} == set(range(40)) | set(range(50, 100 - SETS))


def test_a_scale_that_is_wrong_in_a_part_of_the_time_is_none():
    ones = np.ones((99, DRAWS))
    square = ones * np.linspace(0.9, 1.1, DRAWS)
    off = np.where(np.arange(99)[:, None] < 45, 1.3, 1.0)
    (scale,) = [
        t
        for t in scan(Scan(np.arange(99.0), ones, off * square, square, ones, ones[:, 0]), LIMITS)
        if t.check == "scale"
    ]
    assert scale.p > 0.1
    (scale,) = [
        t
        for t in scan(Scan(np.arange(99.0), ones, 1.3 * square, square, ones, ones[:, 0]), LIMITS)
        if t.check == "scale"
    ]
    assert scale.p < 1e-9
