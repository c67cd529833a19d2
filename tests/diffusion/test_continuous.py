"""Schedules given by formulas, against the textbook formulas in 50 digits, where cancellation does not matter."""

import copy
import math
import pickle

import mpmath as mp
import pytest
import torch

from lipdiag.diffusion.continuous import Kept, slope
from lipdiag.diffusion.schedule import (
    VE,
    VP,
    Cosine,
    Karras,
    Normalized,
    ShiftedCosine,
    Straight,
    SubVP,
    UnnormalizedCosine,
)
from lipdiag.errors import UsageError

TIMES = [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999, 1.0]


def vp(*betas, power=1):
    """(alpha, sigma) with sigma = (1 - alpha^2)^(power/2)."""

    def amplitudes(t):
        beta_min, beta_max = map(mp.mpf, betas)
        alpha = mp.exp(-(beta_min * t + (beta_max - beta_min) * t**2 / 2) / 2)
        return alpha, mp.sqrt(1 - alpha**2) ** power

    return amplitudes


def cosine(offset):
    """(alpha, sigma) of Nichol & Dhariwal."""

    def amplitudes(t):
        alpha = mp.cos((t + offset) / (1 + offset) * mp.pi / 2) / mp.cos(offset / (1 + offset) * mp.pi / 2)
        return alpha, mp.sqrt(1 - alpha**2)

    return amplitudes


def unnormalized_cosine(t):
    """(alpha, sigma) of lucidrains' alpha_cosine_log_snr."""
    logsnr = -mp.log(mp.cos((t + mp.mpf(0.008)) / (1 + mp.mpf(0.008)) * mp.pi / 2) ** -2 - 1)
    return mp.sqrt(1 / (1 + mp.exp(-logsnr))), mp.sqrt(1 / (1 + mp.exp(logsnr)))


def shifted_cosine(shift):
    """(alpha, sigma) from logsnr = -2 log tan(pi t / 2) + 2 log shift."""

    def amplitudes(t):
        snr = (shift / mp.tan(mp.pi * t / 2)) ** 2
        return mp.sqrt(snr / (1 + snr)), 1 / mp.sqrt(1 + snr)

    return amplitudes


def karras(low, high, rho):
    """(alpha, sigma) of EDM."""
    return lambda t: (mp.mpf(1), (low ** (1 / rho) + t * (high ** (1 / rho) - low ** (1 / rho))) ** rho)


def normalized(of, sigma_data):
    """(alpha, sigma) over the root mean square of what they make of data whose own is sigma_data."""

    def amplitudes(t):
        alpha, sigma = of(t)
        size = mp.sqrt((sigma_data * alpha) ** 2 + sigma**2)
        return alpha / size, sigma / size

    return amplitudes


TRUTHS = [
    (VP(), vp(0.1, 20.0)),
    (VP(0.0, 5.0), vp(0, 5)),
    (VP(2.0, 2.0), vp(2, 2)),
    (SubVP(), vp(0.1, 20.0, power=2)),
    (VE(), lambda t: (mp.mpf(1), mp.mpf(0.01) * (mp.mpf(50.0) / mp.mpf(0.01)) ** t)),
    (Karras(), karras(mp.mpf(0.002), mp.mpf(80.0), mp.mpf(7.0))),
    (Karras(0.0, 1.0, 1.0), lambda t: (mp.mpf(1), t)),
    (Straight(), lambda t: (1 - t, t)),
    (Cosine(), cosine(mp.mpf(0.008))),
    (Cosine(0.0), cosine(mp.mpf(0))),
    (UnnormalizedCosine(), unnormalized_cosine),
    (ShiftedCosine(), shifted_cosine(mp.mpf(1))),
    (ShiftedCosine(0.25), shifted_cosine(mp.mpf(0.25))),
    (Normalized(Karras()), normalized(karras(mp.mpf(0.002), mp.mpf(80.0), mp.mpf(7.0)), mp.mpf(0.5))),
]
IDS = [repr(schedule) for schedule, _ in TRUTHS]


@pytest.fixture(autouse=True)
def fifty_digits():
    with mp.workdps(50):
        yield


def relative(got: torch.Tensor, wanted: list, floor: float = 0.0) -> float:
    """Largest error relative to the true value, or to `floor` where that is larger."""
    errors = [abs(mp.mpf(g) - w) / max(abs(w), floor) for g, w in zip(got.tolist(), wanted, strict=True) if g != w]
    return float(max(errors, default=0))


@pytest.mark.parametrize(("schedule", "truth"), TRUTHS, ids=IDS)
def test_amplitudes_have_all_digits_at_both_ends(schedule, truth):
    alpha, sigma = schedule(torch.tensor(TIMES, dtype=torch.float64))
    wanted = [truth(mp.mpf(t)) for t in TIMES]
    # the 50-digit cosine is not quite zero at t = 1
    assert relative(alpha, [a for a, _ in wanted], floor=1e-30) < 1e-14
    assert relative(sigma, [s for _, s in wanted]) < 1e-14


@pytest.mark.parametrize(("schedule", "truth"), TRUTHS, ids=IDS)
def test_rates_are_the_derivatives(schedule, truth):
    times = TIMES[:-1]
    got = schedule.rates(torch.tensor(times, dtype=torch.float64))
    for i in range(2):
        wanted = [mp.diff(lambda t: truth(t)[i], mp.mpf(t), h=mp.mpf(t) * mp.mpf(10) ** -15) for t in times]  # noqa: B023
        # alpha' of a cosine is the difference of two angles from pi/2, to the digits of 1
        assert relative(got[i], wanted, floor=1e-4) < 1e-11


@pytest.mark.parametrize(("schedule", "truth"), TRUTHS, ids=IDS)
def test_logsnr_is_twice_the_log_ratio(schedule, truth):
    times = TIMES[:-1]
    wanted = [2 * mp.log(truth(mp.mpf(t))[0] / truth(mp.mpf(t))[1]) for t in times]
    assert relative(schedule.logsnr(torch.tensor(times, dtype=torch.float64)), wanted, floor=1.0) < 1e-14


def test_variance_preserving_rate_is_known_near_zero():
    """sigma' of VP from the closed form beta alpha^2 / (2 sigma), worked out by hand elsewhere to three digits."""
    t = torch.tensor([1e-6, 1e-4, 1e-3, 1e-2, 0.1], dtype=torch.float64)
    wanted = torch.tensor([158, 16.05, 5.72, 3.34, 2.91], dtype=torch.float64)
    torch.testing.assert_close(VP().rates(t)[1], wanted, rtol=2e-3, atol=0)


def test_the_signal_has_a_rate_where_that_of_the_noise_is_infinite():
    """alpha' = -beta(0) / 2 at t = 0, where sigma grows like the square root of t."""
    assert VP().rates(torch.zeros(1, dtype=torch.float64))[0].item() == -0.05


def test_rates_inside_other_transforms():
    """sigma'' of the VP schedule by forward mode, dual numbers, reverse mode and vmap is the difference of sigma'."""
    t = torch.tensor([1e-3, 0.2, 0.7], dtype=torch.float64)
    schedule, h = VP(), 1e-6
    wanted = (schedule.rates(t + h * t)[1] - schedule.rates(t - h * t)[1]) / (2 * h * t)

    def rate(t):
        return schedule.rates(t)[1]

    with torch.autograd.forward_ad.dual_level():
        dual = rate(torch.autograd.forward_ad.make_dual(t, torch.ones_like(t)))
        by_dual = torch.autograd.forward_ad.unpack_dual(dual).tangent
    leaf = t.clone().requires_grad_()
    (by_grad,) = torch.autograd.grad(rate(leaf).sum(), leaf)
    by_vmap = torch.func.vmap(torch.func.jacfwd(rate))(t)
    by_jvp = torch.func.jvp(rate, (t,), (torch.ones_like(t),))[1]
    for got in (by_dual, by_grad, by_vmap, by_jvp):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=0)
    torch.testing.assert_close(torch.func.vmap(rate)(t), rate(t), rtol=1e-12, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(rate(t), schedule.rates(t)[1], rtol=0, atol=0)


def test_a_device_is_waited_for_once_and_does_not_go_with_a_copy():
    table = Kept(torch.arange(3.0))
    meta = torch.device("meta")
    assert table.on(meta) is table.on(meta)
    assert table.on(meta).device == meta
    copied = copy.deepcopy(table)
    assert list(copied._on) == [torch.device("cpu")]
    assert torch.equal(copied.on(torch.device("cpu")), torch.arange(3.0))


def test_slope_of_a_function_with_one_and_with_two_values():
    t = torch.tensor([0.1, 0.7], dtype=torch.float64)
    torch.testing.assert_close(slope(torch.sin, t), torch.cos(t))
    first, second = slope(lambda t: (torch.exp(t), torch.ones_like(t)), t)
    torch.testing.assert_close(first, torch.exp(t))
    torch.testing.assert_close(second, torch.zeros_like(t))


@pytest.mark.parametrize(
    "make",
    [
        lambda: VP(3.0, 1.0),
        lambda: VP(-1.0, 1.0),
        lambda: VP(0.0, 0.0),
        lambda: SubVP(0.1, math.inf),
        lambda: VE(0.0, 1.0),
        lambda: VE(2.0, 1.0),
        lambda: Karras(1.0, 0.5),
        lambda: Karras(rho=0.0),
        lambda: Cosine(-0.1),
        lambda: Cosine(math.nan),
        lambda: ShiftedCosine(0.0),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(make):
    with pytest.raises(UsageError, match="which is no schedule"):
        make()


def test_schedules_are_values():
    """Equal by their numbers, usable as keys, and the same after pickling."""
    assert VP(0.1, 20.0) == VP() != VP(0.2, 20.0)
    assert len({VP(), VP(0.1, 20.0), SubVP()}) == 2
    assert pickle.loads(pickle.dumps(Cosine(0.1))) == Cosine(0.1)
