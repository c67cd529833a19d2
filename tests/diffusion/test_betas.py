"""Discrete schedules, against diffusers, against products in 50 digits, and between the entries scipy's spline."""

import copy
import pickle

import mpmath as mp
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline

from lipdiag.diffusion.schedule import (
    VP,
    Discrete,
    Linear,
    Quadratic,
    ScaledLinear,
    Sigmoid,
    SquaredCosine,
    ZeroTerminalSNR,
)
from lipdiag.errors import UsageError

SOURCES = [
    (Linear(), {"beta_schedule": "linear"}),
    (
        Linear(1e-3, 0.05, 250),
        {"beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.05, "num_train_timesteps": 250},
    ),
    (ScaledLinear(), {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012}),
    (Quadratic(), {"beta_schedule": "scaled_linear"}),
    (Sigmoid(), {"beta_schedule": "sigmoid"}),
    (SquaredCosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    (Discrete((0.1, 0.2, 0.4, 0.15)), {"trained_betas": [0.1, 0.2, 0.4, 0.15], "num_train_timesteps": 4}),
    (ZeroTerminalSNR(Linear()), {"beta_schedule": "linear", "rescale_betas_zero_snr": True}),
    (
        ZeroTerminalSNR(ScaledLinear()),
        {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012, "rescale_betas_zero_snr": True},
    ),
]
TABLES = [table for table, _ in SOURCES]
IDS = [repr(table) for table in TABLES]


def grid(table) -> torch.Tensor:
    """The times of all entries."""
    return torch.arange(1, table.timesteps + 1, dtype=torch.float64) / table.timesteps


@pytest.mark.parametrize(("table", "config"), SOURCES, ids=IDS)
def test_entries_are_those_of_diffusers(table, config):
    """diffusers works in float32; zero-SNR there takes differences of rounded roots, hence an absolute tolerance."""
    alpha, sigma = table(grid(table))
    scheduler = DDPMScheduler(**config)
    assert table.timesteps == scheduler.config.num_train_timesteps
    torch.testing.assert_close(alpha**2, scheduler.alphas_cumprod.double(), rtol=0, atol=2e-6)
    torch.testing.assert_close(sigma**2, 1 - scheduler.alphas_cumprod.double(), rtol=0, atol=2e-6)
    torch.testing.assert_close(table.betas, scheduler.betas.double(), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("table", TABLES, ids=IDS)
def test_entries_are_the_products_of_the_betas(table):
    """Against cumprod in float64, and sigma^2 = 1 - prod(1 - beta) relative to itself in 50 digits."""
    alpha, sigma = table(grid(table))
    np.testing.assert_allclose((alpha**2).numpy(), np.cumprod(1 - table.betas.numpy()), rtol=0, atol=1e-13)
    with mp.workdps(50):
        product = mp.mpf(1)
        for k, beta in enumerate(table.betas.tolist()):
            product *= 1 - mp.mpf(beta)
            assert abs(mp.mpf(sigma[k].item()) ** 2 / (1 - product) - 1) < 1e-13
            assert abs(mp.mpf(alpha[k].item()) ** 2 - product) < 1e-13 * product or product == 0


def test_small_betas_have_all_their_digits():
    """The cosine's first beta, 1 - cos^2(b) / cos^2(a), in 50 digits."""
    with mp.workdps(50):
        angle = [(mp.mpf(k) / 1000 + mp.mpf("0.008")) / mp.mpf("1.008") * mp.pi / 2 for k in (0, 1)]
        wanted = 1 - (mp.cos(angle[1]) / mp.cos(angle[0])) ** 2
        assert abs(mp.mpf(SquaredCosine().betas[0].item()) / wanted - 1) < 1e-13


@pytest.mark.parametrize("table", [table for table in TABLES if table.timesteps > 4], ids=repr)
def test_between_the_entries_lies_a_cubic_spline(table):
    """1 - alpha and its rate, against scipy's spline with the end slopes of the cubics through four points."""
    lost = np.concatenate([[0.0], 1 - table(grid(table))[0].numpy()])
    T = table.timesteps
    slopes = [np.polyval(np.polyder(np.polyfit(np.arange(4.0), part, 3)), 0.0) for part in (lost[:4], -lost[::-1][:4])]
    spline = CubicSpline(np.arange(T + 1.0), lost, bc_type=((1, slopes[0]), (1, slopes[1])))
    t = torch.linspace(1e-6, 1, 7919, dtype=torch.float64)
    if isinstance(table, SquaredCosine):
        t = t[t < 0.98]  # the cap on beta makes a corner, where the table is kept monotone instead
    np.testing.assert_allclose((1 - table(t)[0]).numpy(), spline(t.numpy() * T), rtol=0, atol=1e-12)
    np.testing.assert_allclose(-table.rates(t)[0].numpy(), spline(t.numpy() * T, 1) * T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("table", TABLES, ids=IDS)
def test_near_the_data_noise_grows_like_the_root_of_time(table):
    """1 - alpha is linear there with the spline's slope, so sigma^2 / t is constant."""
    t = torch.tensor([1e-12, 1e-10, 1e-9], dtype=torch.float64)
    alpha, sigma = table(t)
    ratio = sigma**2 / t
    torch.testing.assert_close(ratio, ratio[:1].expand(3), rtol=1e-5, atol=0)
    torch.testing.assert_close(table.rates(t)[1], sigma / (2 * t), rtol=1e-5, atol=0)
    torch.testing.assert_close(alpha, torch.ones_like(t), rtol=0, atol=1e-6)


def test_known_noise_levels_of_ddpm():
    """sigma of the linear schedule at indices 0, 1, 9, 19, 20, 99, worked out by hand elsewhere to four digits."""
    index = torch.tensor([0, 1, 9, 19, 20, 99])
    wanted = torch.tensor([0.0100, 0.0148, 0.0435, 0.0760, 0.0791, 0.3209], dtype=torch.float64)
    torch.testing.assert_close(Linear()((index + 1) / 1000)[1], wanted, rtol=0, atol=6e-5)


def test_a_fine_linear_table_is_the_continuous_schedule():
    """DDPM tends to VP as 1/T: the difference falls by 4 when T grows by 4."""
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    differences = [(Linear(0.1 / T, 20 / T, T)(t)[0] - VP()(t)[0]).abs().max().item() for T in (250, 1000, 4000)]
    np.testing.assert_allclose(np.diff(np.log(differences)) / np.log(4), -1, atol=0.05)


@pytest.mark.parametrize("of", [Linear(), ScaledLinear(), SquaredCosine(), Linear(0.1, 0.2, 3)], ids=repr)
def test_zero_terminal_snr_ends_at_exactly_zero(of):
    table = ZeroTerminalSNR(of)
    ends = torch.tensor([1 / of.timesteps, 1.0], dtype=torch.float64)
    (alpha, sigma), (dalpha, dsigma) = table(ends), table.rates(ends)
    assert alpha[1] == 0
    assert sigma[1] == 1
    torch.testing.assert_close(alpha[0], of(ends)[0][0], rtol=1e-14, atol=0)
    assert torch.isfinite(torch.stack([dalpha, dsigma])).all()
    assert table.logsnr(ends)[1] == -torch.inf
    assert table.time(table.logsnr(ends))[1] == 1


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=12), st.booleans())
def test_jagged_tables_are_monotone_and_invertible(betas, ends_at_zero):
    table = Discrete((*betas, 1.0) if ends_at_zero else tuple(betas))
    t = torch.linspace(1e-6, 1, 301, dtype=torch.float64)
    alpha, sigma = table(t)
    assert (alpha.diff() <= 0).all()
    assert (sigma.diff() >= -1e-15).all()
    assert ((alpha >= 0) & (alpha <= 1)).all()
    # Where the curve is flat t is not determined by its value; that of the value is.
    back = table.time(table.logsnr(t))
    again, _ = table(back)
    torch.testing.assert_close(again, alpha, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0.0, 0.02), "got a beta of 0 at index 0"),
        (lambda: Linear(1e-4, 1.5), "at index"),
        (lambda: ScaledLinear(-1e-4, 0.02), "got a beta of nan at index 0"),
        (lambda: Linear(timesteps=0), "got a table of 0 timesteps"),
        (lambda: Discrete((0.1, 1.0, 0.1)), "got a beta of 1 at index 1"),
        (lambda: Discrete(()), "got a table of 0 timesteps"),
    ],
)
def test_betas_that_make_no_table_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_tables_are_values():
    """Equal by their numbers, usable as keys, and the same after pickling and copying."""
    t = torch.tensor([0.1234], dtype=torch.float64)
    assert Linear() == Linear(1e-4, 0.02, 1000) != Linear(timesteps=500)
    for table in (copy.deepcopy(SquaredCosine()), pickle.loads(pickle.dumps(SquaredCosine()))):
        assert table == SquaredCosine()
        assert table(t) == SquaredCosine()(t)
    assert hash(ZeroTerminalSNR(Linear())) == hash(ZeroTerminalSNR(Linear()))


def test_a_table_can_be_made_anywhere():
    """Under inference mode, inside a transform or with another default device, and differentiated afterwards."""
    made = []

    def inside(t):
        made.append(Linear(timesteps=20))
        return made[-1](t)[1]

    t = torch.tensor([0.3], dtype=torch.float64)
    with torch.inference_mode():
        inside(t)
    torch.func.jvp(inside, (t,), (t,))
    torch.func.vmap(inside)(t)
    with torch.device("meta"):
        made.append(Linear(timesteps=20))
    for table in made:
        leaf = t.clone().requires_grad_()
        (rate,) = torch.autograd.grad(table(leaf)[1].sum(), leaf)
        torch.testing.assert_close(rate, Linear(timesteps=20).rates(t)[1])
