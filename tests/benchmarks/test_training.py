"""Rates of training, and whether the fast way learns the same: the bare loops train, the test is Student's."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import torch

from benchmarks import curves, training
from benchmarks.training import CARD, Rate, bare, rates
from lipdiag.training.recipe import set_fields

HERE = torch.device("cpu")


@pytest.fixture
def small(recipe):
    return set_fields(recipe, ["network_config.dropout=0", "accumulate=2"])


def test_every_bare_loop_trains_the_same_network(small, monkeypatch):
    compiled: list[str] = []
    monkeypatch.setattr(training.torch, "compile", lambda network, mode: compiled.append(mode) or network)
    found = []
    for how in CARD:
        step = bare(dataclasses.replace(small, learning_rate=1e-2), how, HERE)
        found.append([step() for _ in range(20)])
        assert found[-1][-1] < 0.9 * found[-1][0]
        assert found[-1][0] == pytest.approx(found[0][0], rel=2e-2)
    assert compiled == ["default", "default", "reduce-overhead"]


def test_ours_takes_turns_with_a_bare_loop_and_is_judged_by_the_fastest(small):
    first, beside = rates(small, HERE, rounds=1)
    assert math.isnan(first.ratio)
    assert first.name.startswith("float32, at this pace")
    assert beside.ratio == pytest.approx(beside.ours / beside.bare)
    card = [first, *(Rate(how.name, 1000.0 * k, 900.0, 0.9 / k) for k, how in enumerate(CARD, 1))]
    said = list(training.text(small, HERE, card))
    assert max(map(len, said[1:])) <= 80
    assert said[-1] == "ours over the fastest: 0.18 (goal: 0.95) MISSED"


def test_two_ways_are_told_apart_by_students_test():
    random = np.random.default_rng(0)
    a, b = random.normal(1, 0.1, (2, 5))
    t, p = curves.group_test(a, b + 0.2)
    expected = scipy.stats.ttest_ind(a, b + 0.2)
    assert (t, p) == pytest.approx((expected.statistic, expected.pvalue))
    falling = np.exp(-np.arange(100) / 50) + random.normal(0, 0.02, (3, 1)) + random.normal(0, 1e-4, (3, 100))
    said = curves.text({"fast": 1.01 * falling, "float32": falling})
    assert max(map(len, said)) <= 80
    assert "fast over float32, by pairs: 1.0100 [1.0100, 1.0100]" in said[-1]
    assert len(said) == 1 + curves.STRETCHES + 2


def test_the_curves_are_those_of_both_precisions(small, monkeypatch):
    found = {
        way: curves.losses(dataclasses.replace(small, steps=3, **fields), HERE) for way, fields in curves.WAYS.items()
    }
    assert found["fast"] != found["float32"]
    assert found["fast"] == pytest.approx(found["float32"], rel=2e-2)
