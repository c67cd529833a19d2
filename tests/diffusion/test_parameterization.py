"""Every kind of prediction from every other, against the definition y = a x0 + b eps of known x0 and eps."""

import pytest
import torch

from lipdiag.diffusion.parameterization import (
    PARAMETERIZATIONS,
    Consistency,
    Edm,
    convert,
    data_velocity,
    edm,
    eps,
    minus_eps,
    score,
    v,
    velocity,
    x0,
)
from lipdiag.diffusion.schedule import VE, VP, Cosine, Karras, Linear, ScaledLinear, Straight, ZeroTerminalSNR
from lipdiag.errors import UsageError

KINDS = {
    "eps": eps,
    "minus_eps": minus_eps,
    "x0": x0,
    "v": v,
    "velocity": velocity,
    "data_velocity": data_velocity,
    "score": score,
    "edm": Edm(0.5),
    "consistency": Consistency(0.5, 0.002),
}
SCHEDULES = [VP(), VE(), Karras(), Straight(), Cosine(), Linear(), ZeroTerminalSNR(ScaledLinear())]


def truths(schedule, t, data, noise):
    """What each kind of network is trained to say, from the papers' own formulas."""
    alpha, sigma = (c[:, None] for c in schedule(t))
    dalpha, dsigma = (c[:, None] for c in schedule.rates(t))
    # EDM works on x / alpha at noise level s; its network F is what is left of x0 after c_skip, divided by c_out
    s, d = sigma / alpha, 0.5
    c_skip, c_out = d**2 / (s**2 + d**2), s * d / (s**2 + d**2).sqrt()
    # a consistency model's is EDM's with the noise above its least one, but for c_in's norm
    r = s - 0.002
    skip, out = d**2 / (r**2 + d**2), r * d / (s**2 + d**2).sqrt()
    return {
        "eps": noise,
        "minus_eps": -noise,
        "x0": data,
        "v": alpha * noise - sigma * data,
        "velocity": dalpha * data + dsigma * noise,
        "data_velocity": -dalpha * data - dsigma * noise,
        "score": -noise / sigma,
        "edm": (data - c_skip * (data + s * noise)) / c_out,
        "consistency": (data - skip * (data + s * noise)) / out,
    }


def test_every_kind_is_tested():
    assert set(KINDS) == set(PARAMETERIZATIONS)
    assert edm(0.5) == Edm() != Edm(1.0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("source", KINDS)
def test_each_from_each(schedule, source, generator):
    t = torch.tensor([0.02, 0.1, 0.5, 0.9], dtype=torch.float64)
    data, noise = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    alpha, sigma = (c[:, None] for c in schedule(t))
    x = alpha * data + sigma * noise
    truth = truths(schedule, t, data, noise)
    for target, kind in KINDS.items():
        got = convert(truth[source], x, t, schedule, KINDS[source], kind)
        # Rounding of the source, sigma / alpha or alpha / sigma times larger in the target
        torch.testing.assert_close(got, truth[target], rtol=1e-9, atol=1e-10)


def test_images_and_float32(generator):
    """Coefficients act on the leading dimension, and the result has y's dtype."""
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    y, x = torch.randn(2, 2, 3, 4, 4, generator=generator)
    got = convert(y, x, t, Straight(), velocity, eps)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, x + (1 - t).float()[:, None, None, None] * y)


def test_the_same_kind_is_returned_as_it_is():
    """Also where alpha = 0, and by value for those with a parameter."""
    y = torch.ones(1, 2)
    t = torch.ones(1, dtype=torch.float64)
    assert convert(y, y, t, Straight(), eps, eps) is y
    assert convert(y, y, t, Straight(), Edm(0.3), Edm(0.3)) is y


@pytest.mark.parametrize(("source", "sign"), [(score, -1.0), (v, 0.0)])
def test_noise_at_zero_signal(source, sign):
    """At alpha = 0, sigma = 1: a score says eps = -score, and v = -x0 says nothing beyond eps = x."""
    t = torch.ones(1, dtype=torch.float64)
    y, x = torch.tensor([[2.0, -3.0]], dtype=torch.float64), torch.tensor([[0.5, 0.25]], dtype=torch.float64)
    schedule = ZeroTerminalSNR(ScaledLinear())
    wanted = sign * y if sign else x
    torch.testing.assert_close(convert(y, x, t, schedule, source, eps), wanted)


def test_the_rate_in_t_at_zero_signal():
    """d/dt of alpha v + sigma x at fixed v and x is alpha' v + sigma' x also where alpha = 0."""
    schedule, t = ZeroTerminalSNR(ScaledLinear()), torch.ones(1, dtype=torch.float64)
    y, x = torch.tensor([[2.0, -3.0]], dtype=torch.float64), torch.tensor([[0.5, 0.25]], dtype=torch.float64)
    rate = torch.func.jvp(lambda t: convert(y, x, t, schedule, v, eps), (t,), (torch.ones_like(t),))[1]
    dalpha, dsigma = schedule.rates(t)
    assert dalpha < 0
    torch.testing.assert_close(rate, dalpha * y + dsigma * x)


def test_a_scale_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="sigma_data is positive"):
        Edm(0.0)


def test_a_consistency_model_is_its_input_at_the_least_noise():
    """Whatever the network says there, f(x, sigma_min) = x: its eps is zero, not 0/0."""
    t, y = torch.zeros(1, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64)
    got = convert(y, 2 * y, t, Karras(0.002, 80.0), Consistency(0.5, 0.002), eps)
    torch.testing.assert_close(got, 0 * y, rtol=0, atol=1e-9)
    with pytest.raises(UsageError, match="sigma_min are positive"):
        Consistency(0.5, 0.0)
