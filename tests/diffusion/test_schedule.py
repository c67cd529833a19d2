"""What every schedule obeys, whatever it is."""

import pytest
import torch

from lipdiag.diffusion.schedule import (
    SCHEDULES,
    VE,
    VP,
    Cosine,
    Discrete,
    Karras,
    Linear,
    Normalized,
    Quadratic,
    ScaledLinear,
    ShiftedCosine,
    Sigmoid,
    SquaredCosine,
    Straight,
    SubVP,
    UnnormalizedCosine,
    ZeroTerminalSNR,
)

ALL = [
    VP(),
    VP(1.0, 100.0),  # down to a log SNR of -50
    SubVP(),
    VE(),
    Karras(),
    Straight(),
    Normalized(Karras(), 1.0),
    Cosine(),
    Cosine(0.0),
    UnnormalizedCosine(),
    ShiftedCosine(0.25),
    Linear(),
    ScaledLinear(),
    Quadratic(),
    Sigmoid(),
    SquaredCosine(),
    ZeroTerminalSNR(ScaledLinear()),
    Discrete((0.1, 0.2, 0.9)),
    Discrete((0.3,)),
]
TIMES = torch.cat([torch.logspace(-6, -1, 31, dtype=torch.float64), torch.arange(1, 1000, dtype=torch.float64) / 1000])
TIMES = TIMES.sort().values
laws = pytest.mark.parametrize("schedule", ALL, ids=repr)


def test_every_schedule_is_tested():
    assert {type(schedule) for schedule in ALL} == set(SCHEDULES.values())


@laws
def test_signal_falls_and_noise_grows(schedule):
    alpha, sigma = schedule(TIMES)
    assert ((alpha >= 0) & (alpha <= 1) & (sigma > 0)).all()
    assert (alpha.diff() <= 0).all()
    assert (sigma.diff() >= -1e-15).all()
    assert (schedule.logsnr(TIMES).diff() <= 0).all()


@laws
def test_time_is_the_inverse_of_logsnr(schedule):
    """t comes back up to what one rounding of logsnr makes of it."""
    logsnr = schedule.logsnr(TIMES)
    alpha, sigma = schedule(TIMES)
    dalpha, dsigma = schedule.rates(TIMES)
    rate = 2 * (dsigma / sigma - dalpha / alpha)
    rounding = 8 * torch.finfo(torch.float64).eps * (1 + logsnr.abs()) / rate
    error = (schedule.time(logsnr) - TIMES).abs()
    assert (error <= 1e-13 * TIMES + rounding).all()


@laws
def test_the_inverse_is_differentiable_at_the_grid_and_at_the_end(schedule):
    """dt/dlogsnr times dlogsnr/dt is 1, by forward and by reverse mode; rounding beyond t = 1 must not make it 0."""
    t = torch.tensor([1e-4, 0.001, 0.02, 0.5, 0.999, 1.0], dtype=torch.float64)
    if torch.isinf(schedule.logsnr(t[-1:])).any() or schedule.logsnr(t)[-1] < -50:
        t = t[:-1]

    def there_and_back(t):
        return schedule.time(schedule.logsnr(t))

    one = torch.ones_like(t)
    torch.testing.assert_close(torch.func.jvp(there_and_back, (t,), (one,))[1], one, rtol=1e-8, atol=0)
    torch.testing.assert_close(torch.func.vjp(there_and_back, t)[1](one)[0], one, rtol=1e-8, atol=0)


@laws
def test_rates_agree_with_forward_mode(schedule):
    rates = schedule.rates(TIMES)
    forward = torch.func.jvp(schedule, (TIMES,), (torch.ones_like(TIMES),))[1]
    for got, wanted in zip(rates, forward, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


@laws
def test_outside_the_range_time_is_the_nearer_end(schedule):
    first, last = schedule.logsnr(torch.tensor([1e-9, 1.0], dtype=torch.float64)).tolist()
    ends = torch.tensor([max(first, 100.0) + 700, torch.inf, min(last, -100.0) - 700, -torch.inf], dtype=torch.float64)
    time = schedule.time(ends)
    torch.testing.assert_close(time, torch.tensor([0, 0, 1, 1], dtype=torch.float64), rtol=0, atol=1e-15)


@laws
def test_shape_dtype_and_device(schedule, device):
    """float64 of t's shape on t's device, the same numbers for every shape, under vmap and from float32."""
    t = torch.tensor([[0.125, 0.25, 0.5], [0.75, 0.875, 1.0]], device=device)
    for got in (*schedule(t), *schedule.rates(t), schedule.logsnr(t), schedule.time(-t)):
        assert got.shape == t.shape
        assert got.dtype == torch.float64
        assert got.device == t.device
    alone = torch.stack([torch.stack(schedule(one)) for one in t.flatten()], dim=-1).reshape(2, *t.shape)
    torch.testing.assert_close(torch.stack(schedule(t)), alone, rtol=1e-15, atol=0)
    mapped = torch.func.vmap(torch.func.vmap(schedule.time))(-t)
    torch.testing.assert_close(mapped, schedule.time(-t), rtol=1e-14, atol=0)
