"""Means with intervals, against numpy on the whole array and against nominal coverage."""

import itertools

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from lipdiag.results.summary import summarize
from lipdiag.statistics import MINIMUM_DRAWS, Moments, half_width, looks
from tests.holm import coverage

REPETITIONS = 2000


def test_streamed_moments_equal_those_of_the_whole_array():
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, (5, 40)) * 10.0 ** np.arange(5)[:, None]
    moments = Moments.empty(5)
    for i, j in ((0, 0), (2, 0), (0, 16), (2, 16)):
        times, draws = slice(i, i + (2 if i == 0 else 3)), slice(j, 16 if j == 0 else 40)
        moments.add(times, values[times, draws])
    np.testing.assert_allclose(moments.mean, values.mean(1), rtol=1e-13)
    np.testing.assert_allclose(moments.standard_error, values.std(1, ddof=1) / np.sqrt(40), rtol=1e-13)
    np.testing.assert_array_equal(moments.maximum, values.max(1))


def test_half_width_is_students():
    assert half_width(np.array(2.0), np.array(10)) == pytest.approx(2.0 * stats.t.ppf(0.975, 9))
    assert half_width(np.array(0.0), np.array(1)) == np.inf


@pytest.mark.parametrize("draws", [32, 64, 200])
def test_intervals_of_means_cover(draws, seed, p_value):
    """95 % intervals cover 94 to 96 %, of what a norm over draws looks like."""
    rng = np.random.default_rng(seed)
    norms = np.sqrt(rng.chisquare(64, (REPETITIONS, draws)))
    moments = Moments.empty(REPETITIONS)
    moments.add(slice(None), norms)
    truth = np.sqrt(2) * np.exp(np.log(1) + _log_gamma(32.5) - _log_gamma(32))
    inside = np.abs(moments.mean - truth) <= half_width(moments.standard_error, moments.count)
    p_value(coverage(inside.sum(), REPETITIONS, 0.94, 0.96))


def _log_gamma(x):
    from scipy.special import gammaln

    return gammaln(x)


@pytest.mark.parametrize(("spread", "tolerance"), [(0.12, 0.02), (0.5, 0.1), (0.5, 0.05)])
def test_intervals_cover_under_a_tolerance(spread, tolerance, seed, p_value):
    """At least 93.5 % of runs that stop at a tolerance hold the truth, lognormal draws of relative spread."""
    rng = np.random.default_rng(seed)
    width = np.sqrt(np.log1p(spread**2))
    inside, stops = 0, []
    for _ in range(REPETITIONS):
        values, moments, seen = rng.lognormal(-(width**2) / 2, width, (1, 4096)), Moments.empty(1), 0
        for target in looks(32, 4096, 8):
            moments.add(slice(0, 1), values[:, seen:target])
            seen = target
            if moments.relative_half_width()[0] <= tolerance:
                break
        stops.append(seen)
        inside += abs(moments.mean[0] - 1) <= half_width(moments.standard_error, moments.count)[0]
    assert len(set(stops)) > 1, "the case must be one where the data decide when to stop"
    p_value(coverage(inside, REPETITIONS, 0.935))


def test_looks_fill_whole_blocks_and_end_at_the_limit():
    found = list(looks(10, 1000, 8))
    assert found[0] >= MINIMUM_DRAWS
    assert found[-1] == 1000
    assert all(draws % 8 == 0 for draws in found[:-1])
    assert all(later >= 1.4 * earlier for earlier, later in itertools.pairwise(found[:-1]))


def test_a_mean_known_exactly_has_no_width():
    moments = Moments.empty(1)
    moments.add(slice(0, 1), np.zeros((1, 64)))
    assert moments.relative_half_width()[0] == 0


def dataset(values, done=None):
    done = np.ones(values.shape[:2], np.int8) if done is None else done
    ranks = ("rank",) * (values.ndim - 2)
    return xr.Dataset(
        {"k": (("time", "draw", *ranks), values, {"units": "1"}), "done": (("time", "draw"), done)},
        {"timestep": ("time", np.arange(values.shape[0]) * 1.0)},
    )


def test_summary_equals_numpy_on_done_draws():
    values = np.random.default_rng(1).normal(size=(3, 50))
    done = np.ones((3, 50), np.int8)
    done[:, 30:] = 0
    summary = summarize(dataset(np.where(done == 1, values, np.nan), done))["k"]
    kept = values[:, :30]
    np.testing.assert_allclose(summary.sel(statistic="mean"), kept.mean(1))
    np.testing.assert_allclose(summary.sel(statistic="median"), np.median(kept, 1))
    np.testing.assert_allclose(summary.sel(statistic="q95"), np.quantile(kept, 0.95, 1))
    np.testing.assert_array_equal(summary.sel(statistic="max"), kept.max(1))
    np.testing.assert_array_equal(summary.sel(statistic="count"), 30)
    low, high = stats.t.interval(0.95, 29, kept.mean(1), kept.std(1, ddof=1) / np.sqrt(30))
    np.testing.assert_allclose(summary.sel(statistic="low"), low)
    np.testing.assert_allclose(summary.sel(statistic="high"), high)


def test_summary_keeps_ranks_and_shows_nan():
    values = np.random.default_rng(2).normal(size=(2, 8, 3))
    values[1, 4, 2] = np.nan
    summary = summarize(dataset(values))["k"]
    assert summary.dims == ("time", "rank", "statistic")
    np.testing.assert_allclose(summary.sel(statistic="mean").values[0], values[0].mean(0))
    assert np.isnan(summary.sel(statistic="mean").values[1, 2])
