"""The timesteps by which what a network is told is off, of models of which that is known."""

import pytest
import torch

from lipdiag.diffusion.clock import Reversed, Shared, Timesteps, Unit
from lipdiag.health.checks import CHECKS
from lipdiag.health.examine import PLAN
from lipdiag.health.shift import FIRST, FRESH, apart, shift
from lipdiag.study.measure import prepared
from tests.health.planted import around, data, exact

THRESHOLD = CHECKS["shift"].threshold


def ready(model):
    plan = PLAN.replace(timesteps="500", draws=8, quantities=("loss",))
    return prepared(model, data(), plan, None, True, "cpu", priced=lambda _: True)


@pytest.mark.parametrize(("off", "clock"), [(0, Timesteps()), (1, Timesteps()), (-1, Reversed(Timesteps()))])
def test_the_offset_of_an_exact_model(off, clock):
    model = around(exact(clock=clock), lambda ask, x, k: ask(x, (k + off).clamp(0, 999)))
    with ready(model) as study:
        (test,) = shift(study, THRESHOLD)
    assert FIRST * study.plan.draws <= test.estimate.draws <= (FRESH if off else FIRST) * study.plan.draws
    assert test.estimate.low - 0.2 <= off <= test.estimate.high + 0.2
    assert test.estimate.high - test.estimate.low < (0.5 if off else 0.9)
    assert test.p < 1e-5 if off else test.p == 1


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        (Timesteps(), range(1, 999)),
        (Reversed(Timesteps()), range(998, 0, -1)),
        (Shared(Timesteps(), 100, 5), range(101, 999)),
        (Unit(), ()),
    ],
)
def test_timesteps_that_have_neighbours_of_their_own(clock, expected):
    assert apart(clock).tolist() == list(expected)


def test_what_changes_nothing_is_not_judged():
    with ready(around(exact(), lambda ask, x, k: ask(x, torch.full_like(k, 300.0)))) as study:
        assert not shift(study, THRESHOLD)
