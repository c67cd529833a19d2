"""Holm's procedure against the cases of textbooks, its error rate, and sessions that it fails."""

import numpy as np
import pytest
from scipy import stats

from tests.holm import coverage, holm


@pytest.mark.parametrize(
    ("p_values", "rejected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [3, 0]),  # 0.005 <= 0.05/4, 0.01 <= 0.05/3, 0.03 > 0.05/2
        ([0.05], [0]),
        ([0.0500001], []),
        ([0.02, 0.02, 0.02], []),  # none is below 0.05/3
        ([0.016, 0.02, 0.04], [0, 1, 2]),  # where Bonferroni rejects the first alone
        ([0.04, 0.018, 0.001], [2, 1, 0]),
        ([0.9, 0.026, 0.0001], [2]),  # 0.026 > 0.05/2 ends it
        ([], []),
    ],
)
def test_by_hand(p_values, rejected):
    assert holm({str(i): p for i, p in enumerate(p_values)}, 0.05) == [str(i) for i in rejected]


def test_as_the_adjusted_p_values_say():
    """Rejected are those whose adjusted p-value, the running maximum of (m - i) p_(i), is at most the level."""
    rng = np.random.default_rng(0)
    for m in rng.integers(1, 30, 200):
        p = rng.uniform(size=m) ** 4
        order = np.argsort(p)
        adjusted = np.maximum.accumulate((m - np.arange(m)) * p[order])
        assert holm(dict(enumerate(p)), 0.05) == order[adjusted <= 0.05].tolist()


def test_right_code_fails_no_oftener_than_the_level(seed, p_value):
    """Twelve independent p-values and one that is there twice, where the level is 0.05."""
    p = np.random.default_rng(seed).uniform(size=(4000, 12))
    alarms = sum(bool(holm(dict(enumerate([*row, row[0]])), 0.05)) for row in p)
    p_value(stats.binom.sf(alarms - 1, 4000, 0.05))


@pytest.mark.parametrize(("hits", "expected"), [(0, 0.05**3), (1, 0.05**3 + 3 * 0.95 * 0.05**2), (3, 1)])
def test_one_sided_coverage_is_the_tail_of_the_binomial(hits, expected):
    assert coverage(hits, 3, 0.95) == pytest.approx(expected)


@pytest.mark.parametrize(("hits", "expected"), [(0, 2 * 0.5**4), (2, 1), (4, 2 * 0.6**4)])
def test_two_sided_coverage_doubles_the_smaller_tail(hits, expected):
    assert coverage(hits, 4, 0.5, 0.6) == pytest.approx(expected)


TEST = "def test_it(p_value, seed):\n    p_value({})\n    assert seed == {}\n"


def session(pytester, monkeypatch, *arguments, seed="0", **tests):
    """Of tests in files of their own, with the plugin."""
    monkeypatch.setenv("LIPDIAG_SEED", seed)
    pytester.makepyfile(**tests)
    return pytester.runpytest("-p", "tests.holm", *arguments)


@pytest.mark.parametrize("arguments", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)], ids=["alone", "xdist"])
def test_a_session_fails_by_a_p_value_no_test_fails_by(pytester, monkeypatch, arguments):
    found = session(pytester, monkeypatch, *arguments, test_one=TEST.format(0.5, 0), test_two=TEST.format("1e-9", 0))
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    found.assert_outcomes(passed=2)
    found.stdout.fnmatch_lines(["statistics at seed 0: 2 p-values, smallest 1e-09, Holm at 0.0001: 1 rejected"])
    found.stdout.fnmatch_lines(["REJECTED test_two.py::test_it (1 of 1) - p = 1e-09"])


def test_a_session_of_likely_p_values_passes_at_another_seed(pytester, monkeypatch):
    found = session(pytester, monkeypatch, "-m", "statistical", seed="7", test_one=TEST.format("6e-5); p_value(1", 7))
    assert found.ret == pytest.ExitCode.OK  # 6e-5 would be rejected alone
    found.stdout.fnmatch_lines(["statistics at seed 7: 2 p-values, smallest 6e-05, Holm at 0.0001: none rejected"])


def test_what_is_no_statistical_test_keeps_its_seed(pytester, monkeypatch):
    plain = "def test_it(seed):\n    assert seed == 0\n"
    found = session(pytester, monkeypatch, seed="7", test_one=plain)
    assert found.ret == pytest.ExitCode.OK
    found.stdout.no_fnmatch_line("statistics*")


def test_what_is_no_probability_fails_at_once(pytester, monkeypatch):
    found = session(pytester, monkeypatch, test_one=TEST.format("float('nan')", 0))
    found.assert_outcomes(failed=1)
