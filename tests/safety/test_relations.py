"""What must hold between measurements of related models, on matrices and networks drawn at random."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from torch import nn

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.diffusion.clock import Timesteps, Unit
from lipdiag.linalg.lanczos import singular_values
from lipdiag.linalg.operator import dense, symmetric_part, transpose
from tests.linalg.matrices import operator
from tests.networks import SHAPE, Tiny, predictor

cases = settings(max_examples=25, deadline=None, derandomize=True)
sizes, seeds = st.integers(1, 7), st.integers(0, 2**31 - 1)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def largest(M):
    """By Krylov steps to the end, from a start of its own."""
    start = random(17, M.shape[0], M.shape[2])
    return singular_values(operator(M), start, steps=min(M.shape[1:]), count=1).values[:, 0]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@cases
@given(sizes, sizes, seeds)
def test_an_operator_is_linear_and_its_transpose_is_adjoint(rows, columns, seed):
    A = operator(random(seed, 2, rows, columns))
    v, w, u = random(seed + 1, 2, columns), random(seed + 2, 2, columns), random(seed + 3, 2, rows)
    close(A.mv(2 * v - 3 * w), 2 * A.mv(v) - 3 * A.mv(w))
    close((u * A.mv(v)).sum(1), (A.vm(u) * v).sum(1))
    close(dense(transpose(transpose(A))), dense(A))


@cases
@given(sizes, seeds)
def test_the_symmetric_part_is_symmetric_and_idempotent(n, seed):
    A = symmetric_part(operator(random(seed, 2, n, n)))
    close(dense(A), dense(transpose(A)))
    close(dense(symmetric_part(A)), dense(A))


@cases
@given(sizes, sizes, st.floats(-1e3, 1e3), seeds)
def test_a_factor_scales_the_norm_by_its_size(rows, columns, c, seed):
    M = random(seed, 2, rows, columns)
    close(largest(c * M), abs(c) * largest(M))


@cases
@given(sizes, sizes, seeds)
def test_rotations_do_not_move_the_norm(rows, columns, seed):
    M = random(seed, 2, rows, columns)
    Q, P = (torch.linalg.qr(random(seed + k, n, n))[0] for k, n in ((1, rows), (2, columns)))
    close(largest(Q @ M @ P), largest(M))
    close(largest(M.mT.contiguous()), largest(M))


@cases
@given(sizes, sizes, sizes, seeds)
def test_sums_and_products_obey_the_inequalities_of_a_norm(a, b, c, seed):
    M, N, K = random(seed, 2, a, b), random(seed + 1, 2, a, b), random(seed + 2, 2, b, c)
    assert (largest(M + N) <= (largest(M) + largest(N)) * (1 + 1e-12)).all()
    assert (largest(M @ K) <= largest(M) * largest(K) * (1 + 1e-12)).all()


@cases
@given(sizes, sizes, seeds)
def test_blocks_give_the_largest_of_theirs_and_frobenius_bounds_it(rows, columns, seed):
    M, N = random(seed, 2, rows, columns), random(seed + 1, 2, columns, rows)
    both = torch.stack([torch.block_diag(m, n) for m, n in zip(M, N, strict=True)])
    close(largest(both), torch.maximum(largest(M), largest(N)))
    frobenius = M.square().sum((1, 2)).sqrt()
    assert (largest(M) <= frobenius * (1 + 1e-12)).all()
    assert (frobenius <= min(rows, columns) ** 0.5 * largest(M) * (1 + 1e-9)).all()


DATA = np.random.default_rng(0).normal(size=(20, *SHAPE)).astype(np.float32)
QUANTITIES = ("time_derivative", "time_difference", "spectral_norm")
PLAN = Plan(timesteps="3,40,700", draws=4, dtype="float64", certified_width=1e-9, quantities=QUANTITIES)


class Changed(nn.Module):
    """A network times a factor, plus a constant, on a turned input."""

    def __init__(self, factor=1.0, constant=0.0, turn=False):
        super().__init__()
        self.network, self.factor, self.constant, self.turn = Tiny(), factor, constant, turn

    def forward(self, x, timestep):
        y = self.network(x.flip(-1) if self.turn else x, timestep)
        return self.factor * (y.flip(-1) if self.turn else y) + self.constant


def measure(network=None, plan=PLAN, data=DATA, clock=None):
    return lipdiag.measure(predictor(network, clock), data, plan, progress=False, probe=False, device="cpu")


def test_a_constant_changes_nothing_and_a_factor_scales():
    base, moved, scaled = measure(), measure(Changed(constant=5.0)), measure(Changed(factor=-3.0))
    for name in QUANTITIES:
        np.testing.assert_allclose(moved[name], base[name], rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(scaled[name], 3 * base[name], rtol=1e-9, err_msg=name)


def test_a_time_told_in_other_units_scales_time_derivatives_alone():
    """The network is told 1000 t - 1 in both; once by a clock of indices, once by one of t that it stretches itself."""

    class Stretched(Tiny):
        def forward(self, x, timestep):
            return super().forward(x, 1000 * timestep - 1)

    base = measure()
    t = tuple((k + 1) / 1000 for k in (3.0, 40.0, 700.0))
    other = measure(Stretched(), PLAN.replace(timesteps=t), clock=Unit())
    np.testing.assert_allclose(other["time_derivative"], 1000 * base["time_derivative"], rtol=1e-9)
    np.testing.assert_allclose(other["spectral_norm"], base["spectral_norm"], rtol=1e-9)
    assert isinstance(predictor().clock, Timesteps)


def test_a_turned_world_has_the_same_norms(seed, p_value):
    """Noise is not turned with the data, so that distributions are compared and not draws."""
    plan = PLAN.replace(quantities=("spectral_norm",), draws=64, timesteps="40", seed=seed)
    base, turned = measure(plan=plan), measure(Changed(turn=True), plan, DATA[..., ::-1].copy())
    a, b = base["spectral_norm"].values[0], turned["spectral_norm"].values[0]
    p_value(mannwhitneyu(a, b).pvalue)  # the same distribution, by a two-sample rank test


def test_the_order_of_weights_in_memory_changes_nothing():
    base, other = measure(), measure(Tiny().to(memory_format=torch.channels_last))
    for name in QUANTITIES:
        np.testing.assert_allclose(other[name], base[name], rtol=1e-9, err_msg=name)


def test_two_measurements_are_equal_to_the_last_bit():
    first, second = measure(), measure()
    for name in first.data_vars:
        assert first[name].values.tobytes() == second[name].values.tobytes(), name


def test_rows_of_earlier_draws_stay_when_draws_are_added():
    plan = PLAN.replace(draws=8, batch=24)
    few, many = measure(plan=plan), measure(plan=plan.replace(draws=24))
    for name in few.data_vars:
        np.testing.assert_array_equal(few[name], many[name].isel(draw=slice(0, 8)), err_msg=name)


def test_timesteps_do_not_see_each_other():
    """In the same micro-batches the same numbers, whatever else is measured; elsewhere up to rounding."""
    one, three = measure(plan=PLAN.replace(timesteps="40")), measure()
    for name in QUANTITIES:
        np.testing.assert_allclose(one[name][0], three[name][1], rtol=1e-9, err_msg=name)
