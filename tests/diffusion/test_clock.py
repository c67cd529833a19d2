"""The network's time: inverses, E-TSDM's map against its integer form, and where derivatives vanish."""

import math
import pickle

import pytest
import torch

from lipdiag.diffusion.clock import CLOCKS, LogSigma, LogSNR, Reversed, Shared, Sigma, Timesteps, Unit
from lipdiag.diffusion.continuous import slope
from lipdiag.diffusion.schedule import VE, VP, Cosine, Karras, Linear
from lipdiag.errors import UsageError

PLAIN = [
    Timesteps(),
    Timesteps(40),
    Unit(),
    Unit(1000.0),
    Sigma(VE()),
    Sigma(Linear()),
    LogSigma(Karras()),
    LogSigma(VP(), 1.0),
    LogSigma(VE(), 1.0, 0.5),
    LogSNR(VP()),
    LogSNR(Linear()),
    Reversed(Unit()),
    Reversed(Timesteps(40)),
]
SHARED = [
    Shared(Timesteps()),
    Shared(Timesteps(), 90, 4),
    Shared(Timesteps(), 100, edges=(0, 5, 15, 40, 100)),
    Shared(Timesteps(40), 4, 2),
    Shared(Unit(), 0.1, 5),
    Shared(Sigma(VE()), 1.0, 4),
    Shared(LogSigma(Karras()), 0.0, edges=(-1.5, -1.0, -0.5, 0.0)),
    Shared(LogSNR(VP()), 3.0, edges=(10.0, 8.0, 3.0)),
]
TIMES = torch.cat(
    [torch.logspace(-6, -1, 16, dtype=torch.float64), torch.linspace(0.013, 0.997, 41, dtype=torch.float64)]
)


def test_every_clock_is_tested():
    assert {type(clock) for clock in PLAIN + SHARED} == set(CLOCKS.values())


@pytest.mark.parametrize("clock", PLAIN, ids=repr)
def test_time_is_the_inverse(clock):
    torch.testing.assert_close(clock.time(clock(TIMES)), TIMES, rtol=1e-9, atol=1e-15)
    assert clock.base is clock
    assert clock.unit


@pytest.mark.parametrize("clock", PLAIN + SHARED, ids=repr)
def test_shape_dtype_device_and_transforms(clock, device):
    """float64 of any shape, on t's device; derivatives by forward mode, reverse mode and under vmap agree."""
    t = torch.tensor([[0.0125, 0.25], [0.5, 0.875]], dtype=torch.float64, device=device)
    timestep = clock(t)
    assert timestep.shape == t.shape
    assert timestep.dtype == torch.float64
    assert timestep.device == t.device
    assert clock(t.float()).dtype == torch.float64
    assert clock.time(timestep).shape == t.shape
    forward = torch.func.jvp(clock, (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(slope(clock, t), forward, rtol=1e-9, atol=0)
    mapped = torch.func.vmap(torch.func.jacfwd(clock))(t.flatten()).reshape(t.shape)
    torch.testing.assert_close(mapped, forward, rtol=1e-9, atol=0)


def test_indices_are_exact_integers():
    """(k + 1) / T is index k for every T, and the derivative is T also where the value was rounded to it."""
    for count in (1, 7, 10, 49, 250, 999, 1000, 4000):
        clock, k = Timesteps(count), torch.arange(count, dtype=torch.float64)
        t = (k + 1) / count
        assert (clock(t) == k).all()
        assert (clock.time(k) == t).all()
        assert (slope(clock, t) == count).all()
    between = torch.tensor([0.5005, 1e-6, 0.1 + 1e-8], dtype=torch.float64)
    wanted = torch.tensor([499.5, -0.999, 99 + 1e-5], dtype=torch.float64)
    torch.testing.assert_close(Timesteps()(between), wanted, rtol=1e-13, atol=0)


def test_noise_levels_are_those_of_edm():
    """c_noise = log(sigma) / 4 where alpha = 1; sigma / alpha where it is not."""
    t = TIMES
    alpha, sigma = Karras()(t)
    torch.testing.assert_close(LogSigma(Karras())(t), sigma.log() / 4)
    torch.testing.assert_close(Sigma(Karras())(t), sigma)
    alpha, sigma = VP()(t)
    torch.testing.assert_close(Sigma(VP())(t), ((1 - alpha**2) / alpha**2).sqrt(), rtol=1e-8, atol=0)
    torch.testing.assert_close(LogSNR(VP())(t), (alpha**2 / sigma**2).log())


@pytest.mark.parametrize(("end", "blocks"), [(100, 5), (100, 1), (100, 100), (90, 3), (1000, 10)])
def test_shared_indices_follow_the_integer_form(end, blocks):
    """f(k) = (k // (end / blocks)) * (end / blocks) below `end`, else k (Yang et al., 2024)."""
    k = torch.arange(1000)
    size = end // blocks
    wanted = torch.where(k < end, k // size * size, k).double()
    clock = Shared(Timesteps(), end, blocks)
    assert (clock((k + 1).double() / 1000) == wanted).all()


def test_uneven_blocks_of_indices_start_at_integers():
    assert Shared(Timesteps(), 100, 3).bounds == (0, 33, 67, 100)
    t = (torch.tensor([0, 32, 33, 66, 67, 99, 100]) + 1).double() / 1000
    assert Shared(Timesteps(), 100, 3)(t).tolist() == [0, 0, 33, 33, 67, 67, 100]


def test_explicit_edges_and_what_lies_before_the_first():
    clock = Shared(Timesteps(), 100, edges=(5, 15, 40, 100))
    t = (torch.tensor([0, 4, 5, 14, 15, 99, 100, 999]) + 1).double() / 1000
    assert clock(t).tolist() == [5, 5, 5, 5, 15, 40, 100, 999]
    assert clock.blocks == 3
    assert clock.block(torch.tensor([0.0, 7.0, 99.0, 100.0, 500.0])).tolist() == [0, 0, 2, 3, 3]


@pytest.mark.parametrize("clock", SHARED, ids=repr)
def test_inside_a_block_the_derivative_is_exactly_zero(clock):
    """In both modes; from `end` on clock and derivative are those of the original."""
    base, sign = clock.clock, 1 if clock.clock(TIMES)[-1] > clock.clock(TIMES)[0] else -1
    inside = (base(TIMES) - clock.end) * sign < 0
    assert inside.any()
    assert not inside.all()
    for derivative in (slope(clock, TIMES), torch.func.jvp(clock, (TIMES,), (torch.ones_like(TIMES),))[1]):
        assert (derivative[inside] == 0).all()
        torch.testing.assert_close(derivative[~inside], slope(base, TIMES)[~inside], rtol=1e-12, atol=0)
    assert (clock(TIMES)[~inside] == base(TIMES)[~inside]).all()
    assert set(clock(TIMES)[inside].tolist()) <= set(clock.bounds[:-1])


@pytest.mark.parametrize("clock", SHARED, ids=repr)
def test_the_told_edge_lies_on_the_side_of_the_data(clock):
    """The time of the edge is not later than t, except before the first edge."""
    told = clock.time(clock(TIMES))
    after_first = clock.time(torch.tensor(clock.bounds[0], dtype=torch.float64)) <= TIMES
    assert (told <= TIMES * (1 + 1e-9))[after_first].all()


@pytest.mark.parametrize("clock", SHARED, ids=repr)
def test_shared_clocks_keep_what_the_original_says(clock):
    assert (clock.base, clock.unit, clock.discrete) == (clock.clock, clock.clock.unit, clock.clock.discrete)
    timestep = clock.clock(TIMES)
    assert (clock.time(timestep) == clock.clock.time(timestep)).all()
    assert clock.bounds[-1] == clock.end
    assert len(clock.bounds) == clock.blocks + 1
    assert pickle.loads(pickle.dumps(clock)) == clock


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Timesteps(0), "at least 1 timestep"),
        (lambda: Unit(0.0), "a scale is positive"),
        (lambda: LogSigma(VP(), -1.0), "a scale is positive"),
        (lambda: Shared(Timesteps(), 100, 0), "got 0 blocks up to 100"),
        (lambda: Shared(Timesteps(), 100, 101), "got 101 blocks up to 100"),
        (lambda: Shared(Timesteps(), -5, 1), "got 1 blocks up to -5"),
        (lambda: Shared(Unit(), math.inf, 1), "blocks up to inf"),
        (lambda: Shared(Unit(), -1.0, 1), "they rise from the data on"),
        (lambda: Shared(Timesteps(), 100, edges=(0, 50, 20, 100)), "they rise from the data on"),
        (lambda: Shared(LogSNR(VP()), 3.0, 2), "they fall from the data on"),
        (lambda: Shared(Timesteps(), 100, edges=(0, 50)), "the last edge is `end`"),
        (lambda: Shared(Timesteps(), 100, edges=(0, 2.5, 100)), "shared at integers"),
        (lambda: Shared(Timesteps(), 10.5, 2), "shared at integers"),
        (lambda: Shared(Shared(Timesteps())), "inside a shared clock"),
    ],
)
def test_impossible_clocks_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_cosine_ends_at_infinite_noise():
    """alpha(1) = 0: the ratio is infinite there, and its time is 1."""
    clock = Sigma(Cosine())
    end = clock(torch.ones(1, dtype=torch.float64))
    assert end.isinf().all()
    assert clock.time(end) == 1
