"""Estimators against closed-form means and variances."""

import math

import pytest
import torch
from scipy.stats import binomtest, chi2, norm, t

from lipdiag.linalg.trace import hutchinson_squared_frobenius_norm, hutchinson_trace, pooled, rademacher, sphere
from tests.holm import coverage
from tests.linalg.networks import randn

N = 24


def matrix():
    """Not symmetric, with a large diagonal that a bad estimator would feel."""
    return 5 * torch.eye(N, dtype=torch.float64) + randn(N, N)


def images(A, probes):
    return probes @ A.mT


def of_mean(samples, mean) -> float:
    """P-value by the central limit theorem, for many samples."""
    error = (samples.mean() - mean).abs() / (samples.std() / math.sqrt(samples.numel()))
    return 2 * norm.sf(float(error))


PROBES = {"rademacher": rademacher, "sphere": lambda *a, **k: math.sqrt(N) * sphere(*a, **k)}


@pytest.mark.parametrize("name", PROBES)
def test_the_means_are_right(name, generator, p_value):
    A = matrix()
    z = PROBES[name]((20000, 1, N), generator, dtype=torch.float64)
    p_value(of_mean((z * images(A, z)).sum(-1), A.trace()))
    p_value(of_mean(images(A, z).square().sum(-1), A.square().sum()))
    assert hutchinson_trace(z, images(A, z)).value.item() == pytest.approx(float((z * images(A, z)).sum(-1).mean()))
    estimate = hutchinson_squared_frobenius_norm(images(A, z))
    assert estimate.value.item() == pytest.approx(float(images(A, z).square().sum(-1).mean()))


def test_the_variance_of_random_signs_is_the_closed_form(generator, p_value):
    """2 (|S|_F^2 - sum S_ii^2): the diagonal adds none. Sums of 40 estimates are nearly normal, so chi2 applies."""
    A = matrix()
    S = (A + A.mT) / 2
    variance = 2 * (S.square().sum() - S.diagonal().square().sum())
    z = rademacher((40 * 500, 1, N), generator, dtype=torch.float64)
    sums = (z * images(A, z)).sum(-1).view(40, 500).sum(0)
    statistic = float((sums - sums.mean()).square().sum() / (40 * variance))
    p_value(2 * min(chi2.cdf(statistic, 499), chi2.sf(statistic, 499)))


def test_the_diagonal_is_found_without_error(generator):
    z = rademacher((3, 2, N), generator, dtype=torch.float64)
    estimate = hutchinson_trace(z, z * torch.arange(N))
    assert estimate.value.tolist() == [N * (N - 1) / 2] * 2
    assert estimate.standard_error.tolist() == [0, 0]


def standard_deviation_of_trace(A):
    S = (A + A.mT) / 2
    return float((2 * (S.square().sum() - S.diagonal().square().sum())).sqrt())


@pytest.mark.parametrize("grouped", [False, True])
def test_the_standard_error_estimates_the_standard_deviation(grouped, generator):
    """Mean of its square over many samples, each scaled differently, against the closed form over p."""
    A, samples, p = matrix(), 4000, 3
    scales = torch.logspace(-3, 3, samples, dtype=torch.float64)
    z = rademacher((p, samples, N), generator, dtype=torch.float64)
    group = torch.arange(samples) % 7 if grouped else None
    found = hutchinson_trace(z, images(A, z) * scales[:, None], group)
    ratios = (found.standard_error / scales).square() / (standard_deviation_of_trace(A) ** 2 / p)
    assert ratios.mean() == pytest.approx(1, abs=0.1)
    assert (ratios.std() < 0.2) == grouped  # pooling makes each a good estimate, not only their mean


@pytest.mark.parametrize("kind", ["trace", "squared Frobenius norm"])
@pytest.mark.parametrize("group_size", [1, 4])
def test_intervals_cover(kind, group_size, generator, p_value, device):
    """95 % intervals by Student's t over 2000 samples; members of a group share no more than a width."""
    n, samples, p = 200, 2000, 2
    A = (torch.eye(n, dtype=torch.float64) + randn(n, n) / math.sqrt(n)).to(device)
    exact = float(A.trace() if kind == "trace" else A.square().sum())
    z = rademacher((p, samples, n), generator, dtype=torch.float64, device=device)
    group = torch.arange(samples) // group_size
    found = hutchinson_trace(z, images(A, z), group) if kind == "trace" else None
    found = found or hutchinson_squared_frobenius_norm(images(A, z), group)
    assert (found.freedom == group_size * (p - 1)).all()
    half = torch.from_numpy(t.ppf(0.975, found.freedom.cpu().numpy())).to(device) * found.standard_error
    hits = int(((found.value - exact).abs() <= half).sum())
    p_value(coverage(hits, samples, 0.94, 0.96))


def test_groups_are_told_by_their_numbers_whatever_these_are(generator):
    z = rademacher((3, 4, N), generator, dtype=torch.float64)
    one = hutchinson_trace(z, images(matrix(), z), torch.tensor([999, -1, 999, -1]))
    two = hutchinson_trace(z, images(matrix(), z), torch.tensor([0, 1, 0, 1]))
    assert torch.equal(one.standard_error, two.standard_error)
    assert one.freedom.tolist() == [4, 4, 4, 4]
    alone = hutchinson_trace(z[:, ::2], images(matrix(), z[:, ::2]), torch.tensor([0, 0]))
    torch.testing.assert_close(alone.standard_error, one.standard_error[::2])


def test_one_probe_has_a_value_and_no_error(generator):
    z = rademacher((1, 2, N), generator, dtype=torch.float64)
    found = hutchinson_trace(z, images(matrix(), z))
    assert found.value.isfinite().all()
    assert found.standard_error.isnan().all()
    assert (found.freedom == 0).all()


def test_zero_operators(generator):
    z = rademacher((2, 2, N), generator, dtype=torch.float64)
    for found in (hutchinson_trace(z, 0 * z), hutchinson_squared_frobenius_norm(0 * z)):
        assert (found.value == 0).all()
        assert (found.standard_error == 0).all()


def test_a_trace_near_zero_does_not_spoil_its_group(generator):
    """Relative to the trace itself the spread of the second sample would be infinite."""
    K = randn(N, N)
    A = torch.stack([matrix(), K - K.mT])
    z = rademacher((2, 2, N), generator, dtype=torch.float64)
    image = torch.einsum("bij,pbj->pbi", A, z)
    assert hutchinson_trace(z, image, torch.tensor([0, 0])).standard_error[0] < 5 * standard_deviation_of_trace(A[0])


def test_products_in_float32_are_summed_in_float64(generator):
    z = rademacher((2, 2, N), generator)
    found = hutchinson_trace(z, images(matrix().float(), z))
    assert found.value.dtype == found.standard_error.dtype == torch.float64


@pytest.mark.parametrize("draw", [rademacher, sphere])
def test_vectors_are_the_same_in_every_precision_and_place(draw, device):
    one = draw((2, 3, 5), torch.Generator().manual_seed(1), dtype=torch.float64)
    two = draw((2, 3, 5), torch.Generator().manual_seed(1), dtype=torch.float32, device=device)
    assert two.device.type == device.type
    torch.testing.assert_close(one.float(), two.cpu(), rtol=1e-6, atol=0)
    other = draw((2, 3, 5), torch.Generator().manual_seed(2), dtype=torch.float64)
    assert not torch.equal(one, other)


def test_signs_are_signs_and_sphere_vectors_have_length_one(generator, p_value):
    signs = rademacher((1000,), generator)
    assert signs.abs().eq(1).all()
    p_value(binomtest(int((signs > 0).sum()), 1000).pvalue)
    torch.testing.assert_close(sphere((7, 50), generator).norm(dim=-1), torch.ones(7))


def test_sphere_vectors_are_uniform(generator, p_value):
    """E[z z'] = I / n, and the fourth moment of a coordinate is 3 / (n (n + 2)), which random signs would miss."""
    n, samples = 6, 20000
    z = sphere((samples, n), generator, dtype=torch.float64)
    p_value(of_mean(z[:, 0] ** 4, 3 / (n * (n + 2))))
    p_value(of_mean(z[:, 0] * z[:, 1], 0.0))
    p_value(of_mean(z[:, 2] ** 2, 1 / n))


def test_a_sample_that_is_not_finite_spoils_its_own_group_alone():
    samples = torch.tensor([[1.0, 2.0, 3.0, torch.nan], [2.0, 4.0, 3.5, 1.0]], dtype=torch.float64)
    finite = pooled(samples[:, :2], torch.ones(2), torch.tensor([5, 5]))
    both = pooled(samples, torch.ones(4), torch.tensor([5, 5, 2, 2]))
    assert torch.equal(both.standard_error[:2], finite.standard_error)
    assert both.standard_error[2:].isnan().all()
    assert both.freedom.tolist() == [2, 2, 2, 2]
