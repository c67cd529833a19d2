"""What stands out in curves: the interval of the spectral norm holds the true mean, and no peak is told too boldly."""

import numpy as np
from scipy.stats import binom

from lipdiag.results.curve import Curve
from lipdiag.results.headline import hedge, spectral_norm, spectral_words
from lipdiag.results.run import Run, read
from tests.runs import make

TIMES = 300


def certified(draws: int, seed: int = 0) -> Run:
    """A norm of log-normal draws of mean 1 at every timestep, each known to lie in an interval 5 % wide."""
    dataset = make(np.arange(TIMES), draws, quantities=("spectral_norm",))
    generator = np.random.default_rng(seed)
    norm = np.exp(0.3 * generator.standard_normal((TIMES, draws)) - 0.045)
    lower = norm * (1 - 0.05 * generator.random((TIMES, draws)))
    dataset["spectral_norm"].values[:] = lower
    dataset["spectral_norm_upper"] = dataset["spectral_norm"].copy(data=1.05 * lower)
    return read([dataset])[0]


def test_the_interval_of_the_spectral_norm_holds_its_mean_over_all_draws():
    """At 95 % at least; 1 in 100,000 such tests fails by chance. A certificate alone holds it hardly ever."""
    run = certified(8)
    s = spectral_norm(run).statistics
    assert ((s.low <= 1) & (s.high >= 1)).sum() >= binom.ppf(1e-5, TIMES, 0.95)
    lower, upper = run.statistics("spectral_norm"), run.statistics("spectral_norm_upper")
    assert ((lower.mean <= 1) & (upper.mean >= 1)).sum() < TIMES / 2
    assert np.all((s.low <= lower.low + 1e-12) & (s.high >= upper.high - 1e-12))


def test_the_interval_holds_the_certificates_where_draws_do_not_differ():
    run = certified(8)
    same = run.dataset.map(lambda v: v if v.dtype.kind == "i" else v * 0 + (1.05 if "upper" in str(v.name) else 1.0))
    s = spectral_norm(read([run.dataset.assign(same.drop_vars("done"))])[0]).statistics
    assert np.allclose([s.low, s.high], [np.full(TIMES, 1.0), np.full(TIMES, 1.05)])


def test_one_draw_has_no_interval_and_shows_no_peak():
    run = certified(1)
    (words,) = spectral_words(run)
    assert "+-" not in words
    assert "no timestep is shown to have less" in words


def test_a_largest_mean_is_told_with_how_many_it_is_not_shown_to_exceed():
    dataset = make(np.arange(4), 16, quantities=("loss",))
    heights, spread = np.array([1.0, 1.01, 2.0, 1.99]), 0.01 * np.tile([-1.0, 1.0], 8)
    for count, said in (
        (1, ", the only one measured"),
        (2, ", and no timestep is shown to have less"),
        (3, ""),
        (4, ", not shown to be above 1 of the 3 others"),
    ):
        part = dataset.isel(time=slice(count))
        part["loss"].values[:] = heights[:count, None] + spread * (1 if count != 4 else 3)
        run = read([part])[0]
        s = Curve(run, "loss", run.statistics("loss")).statistics
        assert hedge(s, int(s.mean.argmax())) == said


def test_a_certificate_wider_than_was_asked_for_says_so():
    run = certified(4)
    for asked, said in ((0.05, "at most 5.0% wide (at 99% confidence)"), (0.04, "5.0% wide, where 4.0% was asked for")):
        frozen = {**run.dataset.attrs["frozen"], "plan": {"certified_width": asked}}
        (words,) = spectral_words(read([run.dataset.assign_attrs(frozen=frozen)])[0])
        assert said in words
