"""Upper bounds: how often they hold over random starts, and their ingredients against closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import beta as beta_law

from lipdiag.linalg import certificate
from lipdiag.linalg.certificate import least_overlap, upper_bound
from lipdiag.linalg.lanczos import extreme_eigenvalues, singular_values
from lipdiag.linalg.trace import rademacher, sphere
from tests.holm import coverage
from tests.linalg.matrices import operator, with_eigenvalues, with_singular_values

RUNS = 400

# Spectra like those of trained networks, nearly flat and clustered at the top; a decay; an outlier.
SPECTRA = {
    "flat": torch.linspace(1.05, 0.6, 100, dtype=torch.float64),
    "decay": 0.9 ** torch.arange(100.0, dtype=torch.float64),
    "outlier": torch.cat([torch.tensor([1.3], dtype=torch.float64), torch.linspace(1, 0.5, 99, dtype=torch.float64)]),
}


def covered(upper, value: float, confidence: float) -> float:
    """P-value of a coverage of `confidence` or more, up to rounding."""
    return coverage(int((upper >= value - 1e-12 * abs(value)).sum()), len(upper), confidence)


@pytest.mark.parametrize("confidence", [0.99, 0.8])
@pytest.mark.parametrize("steps", [4, 12, 30])
@pytest.mark.parametrize("name", SPECTRA)
def test_coverage_for_singular_values(name, steps, confidence, generator, p_value):
    """RUNS random starts, each on one of the same matrices."""
    A = operator(with_singular_values(SPECTRA[name], 100, 100, batch=1).expand(RUNS, -1, -1))
    found = singular_values(A, sphere((RUNS, 100), generator, dtype=A.dtype), steps, confidence=confidence)
    p_value(covered(found.upper, float(SPECTRA[name].max()), confidence))


def test_at_99_percent_at_least_98_of_100_hold(generator, device):
    """The promise of the package, at the depth where a study stops."""
    A = operator(with_singular_values(SPECTRA["flat"], 100, 100, batch=1).expand(RUNS, -1, -1).to(device))
    found = singular_values(A, sphere((RUNS, 100), generator, dtype=A.dtype, device=device), 100, width=0.05)
    assert int((found.upper >= 1.05).sum()) >= 0.98 * RUNS
    assert (found.upper <= 1.05 * found.values[:, 0]).all()


@pytest.mark.parametrize("steps", [4, 12])
def test_coverage_for_both_ends_of_a_spectrum(steps, generator, p_value):
    values = torch.cat([torch.linspace(-1.9, 1, 98), torch.tensor([-2.0, 1.1])]).double().round(decimals=6)
    A = operator(with_eigenvalues(values, batch=1).expand(RUNS, -1, -1))
    found = extreme_eigenvalues(A, sphere((RUNS, 100), generator, dtype=A.dtype), steps, confidence=0.9)
    p_value(covered(found.upper, 1.1, 0.9))
    p_value(covered(-found.lower, 2.0, 0.9))


def test_a_bound_that_holds_always_would_say_nothing(generator):
    """At confidence 0.1 most bounds after three steps fail: they are not loose by an order of magnitude."""
    A = operator(with_singular_values(SPECTRA["outlier"], 100, 100, batch=1).expand(RUNS, -1, -1))
    found = singular_values(A, sphere((RUNS, 100), generator, dtype=A.dtype), 3, confidence=0.1)
    assert int((found.upper >= 1.3).sum()) < 0.9 * RUNS


def test_random_signs_void_the_bound(generator, p_value):
    """A top vector on two coordinates is orthogonal to half of all sign vectors."""
    diagonal = torch.linspace(1, 0.5, 100, dtype=torch.float64)
    M = torch.diag(diagonal)
    M[:2, :2] = torch.tensor([[1.5, 0.5], [0.5, 1.5]])  # 2 along (1, 1), 1 along (1, -1)
    A = operator(M.expand(RUNS, -1, -1))
    voided = singular_values(A, rademacher((RUNS, 100), generator, dtype=A.dtype), 12)
    p_value(coverage(int((voided.upper < 2 - 1e-9).sum()), RUNS, 0.5))
    holding = singular_values(A, sphere((RUNS, 100), generator, dtype=A.dtype), 12)
    p_value(covered(holding.upper, 2.0, 0.99))


@pytest.mark.parametrize("dimension", [2, 3, 50, 3072, 10**6])
@pytest.mark.parametrize("risk", [0.5, 0.01, 1e-6])
def test_the_least_overlap(dimension, risk):
    """The squared overlap of a uniform vector with a fixed one follows Beta(1/2, (n - 1)/2)."""
    law = beta_law(0.5, (dimension - 1) / 2)
    assert math.isclose(law.cdf(least_overlap(dimension, risk) ** 2), risk, rel_tol=1e-9)


def test_in_one_dimension_every_start_is_the_vector():
    assert least_overlap(1, 0.01) == 1.0


def test_the_bound_of_one_step_in_closed_form():
    """After one step p(s^2) = (s^2 - alpha^2) / (alpha beta) and s q = s / alpha, whose roots are known."""
    M = with_singular_values([2.0, 1.0, 0.5], 3, 3, batch=5)
    A = operator(M)
    start = sphere((5, 3), torch.Generator().manual_seed(0), dtype=torch.float64)
    found = singular_values(A, start, 1, confidence=0.9)
    alpha = found.alpha1
    u = found.image / alpha[:, None]
    w = A.vm(u)
    beta = (w - alpha[:, None] * start).norm(dim=1)
    delta = least_overlap(3, 0.1)
    by_p, by_q = (alpha**2 + alpha * beta / delta).sqrt(), alpha / delta
    torch.testing.assert_close(found.upper, torch.minimum(by_p, by_q), rtol=1e-5, atol=0)
    assert (found.upper >= torch.minimum(by_p, by_q)).all()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.2])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_bound_under_rounding_is_the_root_of_the_resolvent(steps, share):
    """The inverse of s - T by numpy, T written out; the first term is the least of those after each half step."""
    drawn = torch.Generator().manual_seed(steps)
    alpha, beta = (0.5 + torch.rand(1, steps, generator=drawn, dtype=torch.float64) for _ in range(2))
    beside = torch.stack([alpha, beta], -1)[0].flatten().numpy()
    T = np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
    top, delta = np.linalg.eigvalsh(T).max(), least_overlap(50, 0.01)
    error = share * delta * top

    def excess(s):
        rows = [np.linalg.inv(s * np.eye(m) - T[:m, :m])[0] for m in range(1, 2 * steps + 1)]
        return min(b * row[-1] for b, row in zip(beside, rows, strict=True)) + error * np.linalg.norm(rows[-1]) - delta

    root = brentq(excess, top * (1 + 1e-9), 1e4 * top, xtol=1e-14, rtol=1e-14)
    upper = upper_bound(alpha, beta, torch.tensor([top]), 60, 50, 0.99, torch.tensor([error], dtype=torch.float64))
    assert root - 1e-12 <= float(upper) <= root + 1e-5 * (root - top)


def test_an_error_beyond_proof_is_added():
    alpha, beta, top = torch.ones(1, 1).double(), torch.ones(1, 1).double(), torch.ones(1).double()
    none, small, large = (float(upper_bound(alpha, beta, top, 50, 50, 0.99, error)) for error in (0.0, 1e-5, 0.1))
    assert large == pytest.approx(none + 0.1, rel=1e-12)
    assert small > none + 10e-5
    assert float(upper_bound(alpha, beta, top, 1, 50, 0.99, 0.1)) == 1.1  # nothing is left to chance there


def hiding(M, x, y, start):
    """Products that lose what the start has of the leading vectors x and y, and are exact on what follows."""
    overlap = start @ y
    s = (M[0] @ y).norm()

    def mv(v):
        return (M @ v[:, :, None])[:, :, 0] - s * (v @ y)[:, None] * x

    def vm(u):
        z = (u[:, None] @ M)[:, 0] - s * (u @ x)[:, None] * y
        return z + (overlap * (z * start).sum(1))[:, None] * y

    return replace(operator(M), mv=mv, vm=vm)


def test_products_that_lose_much_could_hide_the_leading_vector(monkeypatch):
    """As much as TF32's do, if rounding knew it: why no proof is claimed of these, and what a proof would say."""
    values = torch.cat([torch.tensor([1.25]).double(), torch.linspace(1, 0.5, 299).double()])
    M = with_singular_values(values, 300, 300, batch=1)
    U, _, V = torch.linalg.svd(M[0])
    x, y = U[:, 0], V[0]
    start = sphere((1, 300), torch.Generator().manual_seed(0), dtype=M.dtype)
    start = start - (start @ y)[:, None] * y
    overlap = 2 * least_overlap(300, 0.01)
    start = (1 - overlap**2) ** 0.5 * start / start.norm() + overlap * y
    rounded = hiding(M, x, y, start)
    found = singular_values(rounded, start, 20, exact=operator(M))
    assert float((rounded.mv(start) - operator(M).mv(start)).norm()) < 2e-3
    assert float(found.upper) < 1.1
    assert float(singular_values(operator(M), start, 20).upper) >= 1.25
    monkeypatch.setattr(certificate, "PROVABLE", math.inf)
    assert float(singular_values(rounded, start, 20, exact=operator(M)).upper) >= 1.25


def test_scale_does_not_matter():
    """A bound is found to a few parts in a million, in numbers of any size."""
    M = with_singular_values(SPECTRA["decay"], 100, 100, batch=2)
    start = sphere((2, 100), torch.Generator().manual_seed(0), dtype=torch.float64)
    one = singular_values(operator(M), start, 8).upper
    for scale in (1e-120, 1e120):
        torch.testing.assert_close(singular_values(operator(scale * M), start, 8).upper / scale, one, rtol=1e-6, atol=0)


def test_small_arrays_are_the_processor_s_whatever_the_default_device():
    """As a script has it that sets one and gives lipdiag a model that lies elsewhere."""
    A = operator(with_singular_values(SPECTRA["flat"], 100, 100))
    start = sphere((3, 100), torch.Generator().manual_seed(0), dtype=A.dtype)
    usual = singular_values(A, start, 20, width=0.05)
    with torch.device("meta"):
        again = singular_values(A, start, 20, width=0.05)
        extreme_eigenvalues(A, start, 20, width=0.05)
    torch.testing.assert_close(again, usual, rtol=0, atol=0)
