"""What is said of a unit measured again: its largest difference, and whether bits should agree."""

import numpy as np
import pytest

from lipdiag.study.verify import comparable, difference


def test_the_largest_relative_difference_is_told():
    stored = np.array([[1.0, 200.0], [np.nan, -3.0]])
    assert difference(stored, stored.copy()) == 0
    again = stored.copy()
    again[0, 1] = 202.0
    assert difference(stored, again) == pytest.approx(2 / 202)
    assert difference(again, stored) == pytest.approx(2 / 202)
    again[1, 0] = 5.0
    assert difference(stored, again) == np.inf


def test_other_bits_of_equal_numbers_are_no_equal_bits():
    assert 0 < difference(np.array([0.0]), np.array([-0.0])) < 1e-300


HERE = {"device": "d", "device_type": "cpu", "threads": 2, "versions": {"torch": "1"}, "batch": 32}


@pytest.mark.parametrize(
    ("launches", "expected"),
    [
        ([HERE], True),
        ([HERE, {**HERE, "versions": {"torch": "2"}}], False),
        ([{**HERE, "threads": 1}], False),
        ([{**HERE, "notes": ["micro-batch halved to 3"]}], False),
        ([{**HERE, "batch": 512}], False),
    ],
)
def test_bits_must_agree_where_every_launch_was_like_this_one(launches, expected):
    assert comparable(launches, HERE) is expected


def test_a_card_keeps_its_bits_by_deterministic_kernels_alone():
    card, kept = HERE | {"device_type": "cuda"}, HERE | {"device_type": "cuda", "deterministic": True}
    assert [comparable([launch], here) for launch in (card, kept) for here in (card, kept)] == [False] * 3 + [True]
