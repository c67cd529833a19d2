"""Plans: which times and draws a text stands for, and what is refused."""

import numpy as np
import pytest

from lipdiag.diffusion.clock import Shared, Timesteps, Unit
from lipdiag.errors import UsageError
from lipdiag.study.plan import Plan, logarithmic, resolve_timesteps


@pytest.mark.parametrize("number", [1, 2, 7, 64, 300, 999, 1000, 5000])
def test_log_gives_distinct_integers_with_both_ends(number):
    found = logarithmic(number, Timesteps(1000))
    assert len(found) == min(number, 1000)
    assert len(set(found)) == len(found)
    assert (found == np.round(found)).all()
    assert found[0] == 0
    if number > 1:
        assert found[-1] == 999


def test_log_is_even_in_log_time_where_integers_allow_it():
    found = logarithmic(64, Timesteps(100_000)) + 1
    steps = np.diff(np.log(found[found > 100]))
    assert steps.max() / steps.min() < 1.2


def test_a_shared_clock_gets_the_end_of_each_block():
    found = logarithmic(32, Shared(Timesteps(1000), 100, 5))
    assert {19, 39, 59, 79, 99} <= set(found)
    assert len(set(found)) == 32
    assert found[0] == 0
    assert found[-1] == 999
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", [5]), ("10,0,20", [0, 10, 20]), ("0:100:25", [0, 25, 50, 75]), ((7.0, 3.0), [3, 7])],
)
def test_lists_and_ranges(text, expected):
    assert resolve_timesteps(text, Timesteps(1000)).tolist() == expected


def test_times_of_a_continuous_clock_are_even_in_log():
    found = resolve_timesteps("log:10", Unit())
    np.testing.assert_allclose(np.diff(np.log(found)), np.log(found[-1] / found[0]) / 9)


@pytest.mark.parametrize("text", ["", "a,b", "1:2", "0:10:0", "log:", "log:0", "log:x", "1000", "-2", "nan", "3,3"])
def test_bad_times_are_refused(text):
    with pytest.raises(UsageError, match=r"timestep"):
        resolve_timesteps(text, Timesteps(1000))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantities": ("time_derivativ",)}, "known are"),
        ({"quantities": ()}, "at least one"),
        ({"draws": 0}, "draws is 0"),
        ({"tolerance": 5.0}, "between 0 and 1"),
        ({"dtype": "int8"}, "float32 or float64"),
        ({"certified_width": 0.0}, "positive"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"step": 0.0}, "must differ"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_bad_plans_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        Plan(**changes)


def test_a_variable_names_its_quantity():
    assert Plan(quantities=("denoising_bound", "one_sided_lipschitz")).quantities == ("one_sided_lipschitz",)
