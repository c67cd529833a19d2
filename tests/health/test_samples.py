"""Samples that are judged: copies of data, those that leave their range, and those that are no numbers."""

from functools import cache

import pytest
import torch
from scipy.stats import binomtest

from lipdiag.design.description import Source
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Empirical
from lipdiag.diffusion.schedule import Linear
from lipdiag.health.examine import PLAN, doctor
from lipdiag.health.samples import COUNT, Drawn, are_data, copies, drawn, samples, size
from tests.health.planted import around, data, exact, mixture

QUICK = PLAN.replace(timesteps="pairs:3", draws=10, krylov_steps=4)


def source(x0, fingerprint: str = "given") -> Source:
    rows = torch.as_tensor(x0)
    return Source(lambda i: rows[i % len(rows)], "rows", fingerprint)


@cache
def own() -> Drawn:
    """Samples of the mixture."""
    return drawn(mixture())


def rms(x) -> float:
    return x.double().square().mean().sqrt().item()


def test_a_model_that_learned_its_data_by_heart():
    points = data()[:48]
    model = Empirical(torch.from_numpy(points), Linear(), Timesteps())
    found = doctor(model, points, plan=QUICK, progress=False)
    assert [fault.name for fault in found.faults] == ["memorised"]
    assert (
        "a share of 1.00 of the samples are near-copies of data, nearer to one of 48 than" in found.faults[0].evidence
    )


def test_a_model_that_knows_the_law_of_its_data_copies_none():
    (test,) = copies(own(), source(data()), 0.25)
    assert (test.estimate.value, test.p) == (0.0, 1.0)


@pytest.mark.parametrize("count", [6, 12])
def test_the_p_value_of_copies_is_that_of_the_binomial_test(count):
    rows = torch.from_numpy(data())
    fresh = mixture().draw(COUNT - count, torch.Generator().manual_seed(5))
    (test,) = copies(Drawn(torch.cat([rows[:count] + 1e-4, fresh]), 50), source(rows), 0.25)
    assert test.estimate.value == count / COUNT
    assert test.p == pytest.approx(binomtest(count, COUNT, 0.25, "greater").pvalue)


def test_copies_are_not_looked_for_where_nobody_knows_what_near_is():
    some = own()
    assert not copies(some, source(data(), "model"), 0.25)
    assert not copies(some, source(data()[:4]), 0.25)
    assert not copies(Drawn(some.x * torch.nan, 50), source(data()), 0.25)


def test_samples_that_leave_the_range_of_the_data():
    some, limits = own(), {"range": 0.05, "power": 1.5}
    assert all(test.p > 0.1 for test in size(some, source(data()), limits))
    larger = {test.check: test for test in size(Drawn(4 * some.x, 50), source(data()), limits)}
    rows = torch.from_numpy(data())[:64]
    room = 0.25 * (rows.max() - rows.min())
    far = ((4 * some.x < rows.min() - room) | (4 * some.x > rows.max() + room)).double().mean()
    assert larger["range"].estimate.value == pytest.approx(far.item())
    assert larger["power"].estimate.value == pytest.approx(4 * rms(some.x) / rms(rows), rel=0.05)
    assert max(test.p for test in larger.values()) < 1e-6


def test_samples_that_diverge():
    """A model that says ever more of its noise, until there are no numbers for it."""
    model = around(exact(), lambda ask, x, k: -1e9 * x)
    some = drawn(model)
    (fault,) = samples(model, some, source(data()))
    assert fault.name == "diverging_samples"
    assert not are_data(model, some, source(data()))


def test_a_model_knows_its_own_samples():
    model = mixture()
    assert are_data(model, drawn(model), source(data()))
    assert not are_data(model, drawn(model), source(data(), "model"))
