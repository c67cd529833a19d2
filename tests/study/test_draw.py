"""Random numbers keyed by (seed, role, draw): each stream is standard normal, and no two have anything in common.

Thresholds follow from theory: all tests here together would fail by chance twice in 10^5 sets of keys.
"""

import itertools

import numpy as np
import pytest
from scipy import stats

from lipdiag.study.draw import ROLES, generator

ALARM = 1e-6
LENGTH = 4096


@pytest.mark.parametrize("role", sorted(ROLES))
def test_every_role_is_standard_normal(role):
    """Kolmogorov and Smirnov's test over 16 draws as one sample, and its mean and variance."""
    x = np.concatenate([generator(0, role, draw).standard_normal(LENGTH) for draw in range(16)])
    assert stats.kstest(x, "norm").pvalue > ALARM
    assert 2 * stats.norm.sf(abs(x.mean()) * len(x) ** 0.5) > ALARM
    within = stats.chi2(len(x)).cdf((x**2).sum())
    assert ALARM / 2 < within < 1 - ALARM / 2


def test_no_two_streams_are_correlated():
    """Of roles, draws and seeds: the largest of all correlations stays below Bonferroni's bound."""
    keys = list(itertools.product((0, 1, 2**40), sorted(ROLES), range(8)))
    x = np.stack([generator(seed, role, draw).standard_normal(LENGTH) for seed, role, draw in keys])
    pairs = len(keys) * (len(keys) - 1) / 2
    largest = np.abs(np.corrcoef(x) - np.eye(len(keys))).max()
    assert largest < stats.norm.isf(ALARM / pairs / 2) / LENGTH**0.5


def test_no_key_is_another():
    """Neighbours in seed, role and draw start apart, in 63 bits, where 60 000 collide once in 5 10^9 sets."""
    keys = itertools.product(range(10), sorted(ROLES), range(60_000 // 10 // len(ROLES)))
    first = [int(generator(*key).integers(2**63)) for key in keys]
    assert len(set(first)) == len(first)
