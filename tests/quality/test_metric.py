"""FID against the closed form for normal laws, KID and its error against many repetitions, planted copies."""

import functools
import sys

import pytest
import torch
from scipy.stats import ttest_1samp

from lipdiag.errors import LipdiagError, UsageError
from lipdiag.quality.classifier import HELD_OUT, load, split
from lipdiag.quality.extractor import Extractor, extractor
from lipdiag.quality.metric import frechet, kernel, nearest, own_distance, require_torchmetrics
from tests.holm import coverage


def exactly(mean, root, n=4000, seed=0):
    """Features whose sample mean is `mean` and whose sample covariance is root root^T, to rounding."""
    z = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z = z - z.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T @ z / (n - 1)), z.T, upper=False).T
    return mean + white @ root.T


def test_fid_of_normal_laws_is_the_closed_form():
    """Two ellipsoids with the same axes: |m - m'|^2 + sum (s - s')^2; and with others, by the matrix root."""
    generator = torch.Generator().manual_seed(1)
    axes = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    s, s2 = (torch.rand(5, generator=generator, dtype=torch.float64) + 0.1 for _ in range(2))
    m, m2 = (torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(2))
    found = frechet(exactly(m, axes * s), exactly(m2, axes * s2, seed=2))
    assert found == pytest.approx(float((m - m2).square().sum() + (s - s2).square().sum()), rel=1e-8)
    turned = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    C, C2 = ((a * v**2) @ a.T for a, v in ((axes, s), (turned, s2)))
    root = torch.linalg.eigvalsh((axes * s) @ axes.T @ C2 @ (axes * s) @ axes.T).clamp(min=0).sqrt().sum()
    closed = float((m - m2).square().sum() + C.trace() + C2.trace() - 2 * root)
    assert frechet(exactly(m, axes * s), exactly(m2, turned * s2, seed=2)) == pytest.approx(closed, rel=1e-8)


@pytest.mark.parametrize("counts", [(6, 40), (40, 6), (7, 9)])
def test_fid_of_fewer_samples_than_features_is_that_of_their_covariances(counts):
    """By symmetric roots: tr (C C')^(1/2) is that of (C^(1/2) C' C^(1/2))^(1/2), whatever the ranks."""
    x, y = (torch.randn(n, 12, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in counts)
    C, C2 = torch.cov(x.T), torch.cov(y.T)
    values, axes = torch.linalg.eigh(C)
    root = axes * values.clamp(min=0).sqrt() @ axes.T
    shared = torch.linalg.eigvalsh(root @ C2 @ root).clamp(min=0).sqrt().sum()
    closed = (x.mean(0) - y.mean(0)).square().sum() + C.trace() + C2.trace() - 2 * shared
    assert frechet(x, y) == pytest.approx(float(closed), rel=1e-6)


def pair(seed: int, shift: float, n: int = 120):
    """Features of two normal laws that are `shift` apart."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, y + shift


@functools.cache
def distances(shift: float, seed: int) -> list:
    """KID between 40 pairs of sets of features."""
    return [kernel(*pair(each, shift), each) for each in range(1000 * seed, 1000 * seed + 40)]


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kid_is_unbiased(shift, seed, p_value):
    """By Student's t, whose law is not the exact one: over 40 repetitions it is to about 1e-4."""
    truth = 0.0 if shift == 0 else expected_distance(shift)
    p_value(ttest_1samp([k.value for k in distances(shift, seed)], truth).pvalue)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kid_knows_its_error(shift):
    values = torch.tensor([k.value for k in distances(shift, 0)], dtype=torch.float64)
    errors = torch.tensor([k.standard_error for k in distances(shift, 0)], dtype=torch.float64)
    # The error that is told, against the spread of the repetitions, itself known to 1 / sqrt(80): overstated by up to
    # sqrt(n / k) = 2 where both are of one law, see `kernel`.
    ratio = float(errors.mean() / values.std())
    assert 0.6 < ratio < (3.2 if shift == 0 else 1.6)


def expected_distance(shift: float, d: int = 8) -> float:
    """E k(x, x') + E k(y, y') - 2 E k(x, y) for k = (x.y/d + 1)^3, x ~ N(0, I), y ~ N(shift, I).

    With z = x.y: E (z/d + 1)^3 = 1 + 3 E z/d + 3 E z^2/d^2 + E z^3/d^3 and E over y given x of z, z^2, z^3 in terms of
    a = |x|^2 and b = x.m: b, a + b^2, 3 a b + b^3; then moments of a, b over x ~ N(c, I).
    """

    def mean_kernel(c: float, m: float) -> float:
        # x = c + g, all coordinates alike. b = m sum(x) is normal with mean dcm and variance d m^2.
        u, v = d * c * m, d * m * m
        a = d * (1 + c * c)
        b2, b3 = u * u + v, u**3 + 3 * u * v
        # E a b = m E sum_ij x_i^2 x_j = m [d (c^3 + 3c) + d (d - 1) (1 + c^2) c]
        ab = m * (d * (c**3 + 3 * c) + d * (d - 1) * (1 + c * c) * c)
        return 1 + 3 * u / d + 3 * (a + b2) / d**2 + (3 * ab + b3) / d**3

    return mean_kernel(0, 0) + mean_kernel(shift, shift) - 2 * mean_kernel(0, shift)


def test_kid_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = kernel(*pair(0, 0.5), 1)
    assert torch.equal(torch.rand(3), expected)
    assert kernel(*pair(0, 0.5), 1) == first != kernel(*pair(0, 0.5), 2)


def test_planted_copies_are_found():
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(300, 1, 4, 4, generator=generator)
    fresh = torch.randn(100, 1, 4, 4, generator=generator)
    planted = fresh.clone()
    planted[:7] = data[50:57] + 0.05 * torch.randn(7, 1, 4, 4, generator=generator)
    scale = own_distance(data, block=70)
    assert int((nearest(fresh, data) < 0.25 * scale).sum()) == 0
    assert int((nearest(planted, data, block=30) < 0.25 * scale).sum()) == 7
    # fresh samples of the law of the data are as near to the data as these are to each other
    assert float(nearest(fresh, data).median()) == pytest.approx(scale, rel=0.1)
    # and a distance far below what float32 leaves of |x|^2 is still seen
    assert float(nearest(1000 + data[:1] + 1e-3, 1000 + data)[0]) == pytest.approx(4e-3, rel=0.1)


def test_distances_are_those_of_every_pair():
    x, data = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).split([5, 7])
    every = [[float((a - b).double().norm()) for b in data] for a in x]
    torch.testing.assert_close(nearest(x, data), torch.tensor([min(row) for row in every]).double())
    own = sorted(min(float((data[i] - data[j]).norm()) for j in range(7) if j != i) for i in range(7))
    assert own_distance(data) == pytest.approx(own[3], rel=1e-6)


def test_the_classifier_knows_digits_it_has_not_seen():
    """And its features have mean 0 and variance 1 over those it was trained on."""
    network, sha256 = load()
    (x, _), (held, labels) = split()
    assert len(held) == HELD_OUT
    assert len(sha256) == 64
    assert float((network(held).argmax(1) == labels).double().mean()) > 0.97
    found = extractor("digits")(x)
    torch.testing.assert_close(found.mean(0), torch.zeros(32).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.std(0), torch.ones(32).double(), rtol=1e-4, atol=0)


def test_extractors():
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(extractor("pixels")(x, batch=2), x.flatten(1).double())
    found = extractor(f"{__name__}:doubled")
    assert (found.name, found.sha256) == (f"{__name__}:doubled", "")
    assert torch.equal(found(x), 2 * x.flatten(1).double())
    module = extractor(f"{__name__}:linear")
    assert len(module.sha256) == 64
    assert module(x).shape == (5, 3)


def doubled():
    """A user's extractor without weights."""
    return lambda x: 2 * x.flatten(1)


def linear():
    """A user's extractor with weights, in training mode."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(64, 3))


@pytest.mark.parametrize("name", ["inception", "no_such_package:thing", f"{__name__}:nothing"])
def test_an_extractor_that_there_is_not_is_refused(name):
    with pytest.raises(UsageError, match=name.split(":")[0]):
        extractor(name)


@pytest.mark.parametrize(
    ("features", "word"),
    [(lambda x: x @ torch.ones(9, 1), "does not take"), (lambda x: x, "one row"), (lambda x: x.flatten(), "one row")],
)
def test_an_extractor_that_does_not_fit_is_refused(features, word):
    with pytest.raises(UsageError, match=word):
        Extractor("mine", features)(torch.zeros(4, 1, 8, 8))


def test_too_few_samples_are_refused():
    with pytest.raises(UsageError, match="at least 8"):
        kernel(torch.zeros(20, 3), torch.zeros(7, 3))


def test_without_torchmetrics_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(LipdiagError, match=r"lipdiag\[quality\]"):
        require_torchmetrics()


@pytest.mark.parametrize("repetitions", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_the_interval_of_a_single_kid_covers(repetitions, seed, p_value):
    """KID +- 1.96 of its errors, which are approximate: 90 % or more."""
    truth = expected_distance(0.5)
    found = [kernel(*pair(each, 0.5), each) for each in range(1000 * seed, 1000 * seed + repetitions)]
    hits = sum(abs(k.value - truth) <= 1.96 * k.standard_error for k in found)
    p_value(coverage(hits, repetitions, 0.9))
