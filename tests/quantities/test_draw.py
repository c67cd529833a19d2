"""Common random numbers: each stream is its own, and is what it is said to be. Bonferroni within a test."""

import itertools

import numpy as np
import torch
from scipy import stats

from lipdiag.quantities import draw

SIZE = 4096


def every_vector(first):
    """By seed (two of them), role, draw and probe; of each a vector that has mean 0 and independent entries."""
    found = {}
    for seed, i in itertools.product((first, first + 1), range(4)):
        found[seed, "noise", i] = draw.noise(seed, i, (SIZE,))
        found |= {(seed, role, i): draw.direction(seed, role, i, SIZE) for role in ("start", "perturbation")}
        found |= {(seed, "probe", i, k): probe for k, probe in enumerate(draw.probes(seed, i, 3, SIZE))}
    return found


def test_no_two_streams_are_alike(seed, p_value):
    """The largest correlation of any two vectors is within what so many pairs of independent ones reach by chance."""
    vectors = torch.stack(list(every_vector(seed).values()))
    correlation = (vectors @ vectors.T / torch.outer(vectors.norm(dim=1), vectors.norm(dim=1))).fill_diagonal_(0)
    pairs = len(vectors) * (len(vectors) - 1) / 2
    p_value(min(1, 2 * pairs * stats.norm.sf(float(correlation.abs().max()) * np.sqrt(SIZE))))


def test_every_vector_has_its_law(seed, p_value):
    """Normal noise, directions of length 1 whose entries are nearly normal, signs; corrected for so many tests."""
    vectors, found = every_vector(seed), []
    for key, vector in vectors.items():
        if key[1] == "probe":
            assert vector.abs().eq(1).all()
            found.append(stats.binomtest(int((vector > 0).sum()), SIZE).pvalue)
        else:
            scale = 1 if key[1] == "noise" else vector.norm() / SIZE**0.5
            found.append(stats.kstest((vector / scale).numpy(), "norm").pvalue)
            assert key[1] == "noise" or abs(float(vector.norm()) - 1) < 1e-12
    p_value(min(1, len(found) * min(found)))


def test_more_probes_keep_the_first_ones():
    assert torch.equal(draw.probes(0, 5, 7, 30)[:2], draw.probes(0, 5, 2, 30))


def test_data_are_drawn_alike(seed, p_value):
    counts = np.bincount([draw.data_index(seed, i, 10) for i in range(2000)], minlength=10)
    assert counts.size == 10
    p_value(stats.chisquare(counts).pvalue)


def test_no_key_is_another():
    """Neighbours in seed, role and draw start apart, in 63 bits, where 60 000 collide once in 5 10^9 sets."""
    keys = itertools.product(range(10), sorted(draw.ROLES), range(60_000 // 10 // len(draw.ROLES)))
    first = [int(draw.generator(*key).integers(2**63)) for key in keys]
    assert len(set(first)) == len(first)
