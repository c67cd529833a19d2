"""Common random numbers: each stream is its own, and is what it is said to be. False alarms: 1e-6 for each test."""

import itertools

import numpy as np
import torch
from scipy import stats

from lipdiag.study import draw

ALARM = 1e-6
SIZE = 4096


def every_vector():
    """By seed, role, draw and probe; of each a vector that has mean 0 and independent entries."""
    found = {}
    for seed, i in itertools.product((0, 1), range(4)):
        found[seed, "noise", i] = draw.noise(seed, i, (SIZE,))
        found[seed, "start", i] = draw.start(seed, i, SIZE)
        found[seed, "perturbation", i] = draw.perturbation(seed, i, SIZE)
        found |= {(seed, "probe", i, k): probe for k, probe in enumerate(draw.probes(seed, i, 3, SIZE))}
    return found


def test_no_two_streams_are_alike():
    """The largest correlation of any two vectors is within what so many pairs of independent ones reach by chance."""
    vectors = torch.stack(list(every_vector().values()))
    correlation = (vectors @ vectors.T / torch.outer(vectors.norm(dim=1), vectors.norm(dim=1))).fill_diagonal_(0)
    pairs = len(vectors) * (len(vectors) - 1) / 2
    assert float(correlation.abs().max()) < stats.norm.isf(ALARM / 2 / pairs) / np.sqrt(SIZE)


def test_every_vector_has_its_law():
    """Normal noise, directions of length 1 whose entries are nearly normal, signs; corrected for so many tests."""
    vectors = every_vector()
    for key, vector in vectors.items():
        if key[1] == "probe":
            assert vector.abs().eq(1).all()
            p = stats.binomtest(int((vector > 0).sum()), SIZE).pvalue
        else:
            scale = 1 if key[1] == "noise" else vector.norm() / SIZE**0.5
            p = stats.kstest((vector / scale).numpy(), "norm").pvalue
            assert key[1] == "noise" or abs(float(vector.norm()) - 1) < 1e-12
        assert p > ALARM / len(vectors), key


def test_more_probes_keep_the_first_ones():
    assert torch.equal(draw.probes(0, 5, 7, 30)[:2], draw.probes(0, 5, 2, 30))


def test_data_are_drawn_alike():
    counts = np.bincount([draw.data_index(0, i, 10) for i in range(2000)], minlength=10)
    assert counts.size == 10
    assert stats.chisquare(counts).pvalue > ALARM


def test_no_key_is_another():
    """Neighbours in seed, role and draw start apart, in 63 bits, where 60 000 collide once in 5 10^9 sets."""
    keys = itertools.product(range(10), sorted(draw.ROLES), range(60_000 // 10 // len(draw.ROLES)))
    first = [int(draw.generator(*key).integers(2**63)) for key in keys]
    assert len(set(first)) == len(first)
