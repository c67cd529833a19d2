"""The exponents of closed forms, whose data and schedules are known."""

import numpy as np
import pytest
import torch
import xarray as xr

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.diffusion.clock import Shared, Timesteps, Unit
from lipdiag.diffusion.exact import Empirical, Gaussian
from lipdiag.diffusion.schedule import VE, VP, Cosine, Linear, Straight
from lipdiag.errors import UsageError
from tests.runs import linear_table

D, K = 24, 6
TINY = tuple(np.geomspace(1e-6, 1e-5, 7))


def variances(kind: str) -> torch.Tensor:
    found = torch.ones(D, dtype=torch.float64)
    if kind == "plane":
        found[K:] = 0
    return found


def run_of(kind: str, schedule, clock=None, timesteps=TINY, quantity="time_derivative", draws=32):
    clock = clock or Unit()
    g = torch.Generator().manual_seed(0)
    if kind == "points":
        model = Empirical(torch.randn(20, D, generator=g, dtype=torch.float64), schedule, clock)
    else:
        model = Gaussian(torch.zeros(D, dtype=torch.float64), variances(kind), schedule, clock)
    data = model.draw(64, g).numpy()
    quantities = (quantity,) if isinstance(quantity, str) else quantity
    plan = Plan(timesteps=timesteps, draws=draws, dtype="float64", quantities=quantities, seed=0)
    return lipdiag.measure(model, data, plan, progress=False, probe=False)


EXPONENTS = [  # sigma ~ t^a, and K ~ t^(a q - 1) with q = 1 for smooth data and 0 for the others
    ("smooth", VP(), -0.5), ("plane", VP(), -1), ("points", VP(), -1),
    ("smooth", Straight(), 0), ("plane", Straight(), -1), ("points", Straight(), -1),
    ("smooth", Cosine(0.0), 0), ("plane", Cosine(0.0), -1), ("points", Cosine(0.0), -1),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "schedule", "exponent"), EXPONENTS)
def test_exponents_are_those_of_theory(kind, schedule, exponent):
    found = lipdiag.anatomy(run_of(kind, schedule))
    assert found.exponent.value == pytest.approx(exponent, abs=0.01)
    assert found.exponent.low - 0.01 <= exponent <= found.exponent.high + 0.01
    assert found.schedule == pytest.approx(-1, abs=0.01)
    assert found.schedule + found.data.value == pytest.approx(found.exponent.value, abs=1e-9)
    assert found.smoothness.value == pytest.approx(float(kind == "smooth"), abs=0.02)
    assert found.kind == ("smooth" if kind == "smooth" else "manifold")
    codimension = {"smooth": 0, "plane": D - K, "points": D}[kind]
    if isinstance(schedule, Straight):
        assert found.codimension is None
    else:
        assert found.codimension.low - 1e-3 <= codimension <= found.codimension.high + 1e-3


@pytest.mark.parametrize(("kind", "q"), [("points", 0.0), ("plane", 0.0), ("smooth", 1.0)])
def test_a_quotient_of_integer_timesteps_has_the_same_smoothness(kind, q):
    """Its step is as long as t itself, and its own factors are exact for it."""
    found = lipdiag.anatomy(run_of(kind, Linear(), Timesteps(), tuple(range(10)), "time_difference"))
    assert found.smoothness.value == pytest.approx(q, abs=0.06)
    if kind == "points":
        assert found.codimension.low <= D <= found.codimension.high
        sigma, k = linear_table()[1][:11], np.arange(10)
        points = np.log(1 - sigma[:-1] / sigma[1:])  # K of points, but for a factor
        exponent = np.polyfit(np.log((k + 1) * (k + 2)) / 2, points, 1)[0]
        assert found.exponent.value == pytest.approx(exponent, abs=0.02)


def test_the_width_of_the_interval_is_that_over_draws():
    """Exponents of halves of the draws lie apart as it says: the exponent of 200 draws within that of 20."""
    dataset = run_of("plane", VP(), draws=200)
    whole = lipdiag.anatomy(dataset)
    parts = [lipdiag.anatomy(dataset.isel(draw=slice(i, i + 20))) for i in range(0, 200, 20)]
    covered = sum(p.codimension.low <= D - K <= p.codimension.high for p in parts)
    assert covered >= 7  # of ten intervals at 95 %: fewer once in 10^3
    assert whole.codimension.high - whole.codimension.low < 0.6 * max(
        p.codimension.high - p.codimension.low for p in parts
    )


def test_data_that_are_thick_and_thin_are_not_decided():
    """Between the two laws: where the noise crosses the thinnest direction, the exponent changes."""
    thin = torch.ones(D, dtype=torch.float64)
    thin[1:] = 1e-4
    model = Gaussian(torch.zeros(D, dtype=torch.float64), thin, VE(1e-4, 1.0), Unit())
    t = tuple(np.linspace(0.2, 0.75, 12))  # sigma from 6e-4, far below the 1e-2 of the data, to 1e-1
    plan = Plan(timesteps=t, draws=8, dtype="float64", quantities=("time_derivative",))
    data = model.draw(8, torch.Generator().manual_seed(0)).numpy()
    found = lipdiag.anatomy(lipdiag.measure(model, data, plan, progress=False, probe=False), end=1.0)
    assert found.kind == "undecided"
    assert not found.lawful
    assert "Neither an exponent nor a dimension of the data can be told from it" in found.words
    assert "grows as" not in found.words
    assert "thinner" not in found.words


def wiggled(run, size, chosen=slice(None)):
    """A run whose K scatters from time to time, at all draws alike, seen at some of its times."""
    noise = np.exp(size * np.random.default_rng(1).standard_normal(run.sizes["time"]))
    return run.assign(time_derivative=run["time_derivative"] * xr.DataArray(noise, dims="time")).isel(time=chosen)


def test_the_interval_allows_for_the_choice_of_timesteps():
    """K that scatters by 5 % over its law has another exponent at each choice of times, and each interval the law's."""
    run = run_of("plane", VP(), timesteps=tuple(np.geomspace(1e-6, 1e-5, 40)))
    found = [lipdiag.anatomy(wiggled(run, 0.05, slice(i, None, 4))) for i in range(4)]
    spread = np.ptp([a.exponent.value for a in found])
    assert spread > 5 * np.ptp(lipdiag.anatomy(run).exponent[1:3])  # draws alone would tell them apart
    assert all(a.exponent.low < -1 < a.exponent.high for a in found)
    assert all(a.smoothness.low < 0 < a.smoothness.high for a in found)


def test_a_count_that_the_jacobian_contradicts_is_not_told_of_the_data():
    """Of an exact model K and the trace count the same directions; of a network whose K is too small they do not."""
    run = run_of("plane", VP(), quantity=("time_derivative", "trace", "loss"))
    honest = lipdiag.anatomy(run)
    assert honest.counted.low < D - K < honest.counted.high  # the trace is drawn
    assert honest.kind == "manifold"
    slow = lipdiag.anatomy(run.assign(time_derivative=run["time_derivative"] / 5))
    assert (slow.lawful, slow.contradicted, slow.kind) == (True, True, "undecided")
    assert "of 24 directions that are thinner than the noise, the trace 18." in slow.words
    by_loss = lipdiag.anatomy(run.drop_vars("trace").assign(time_derivative=run["time_derivative"] / 5))
    assert "the loss at least" in by_loss.words
    assert not lipdiag.anatomy(run.drop_vars("trace").assign(loss=run["loss"] + 0.5)).contradicted  # it is a bound


def test_it_is_said_in_words_and_as_json():
    found = lipdiag.anatomy(run_of("plane", VP(), draws=8))
    assert "the data that the model knows lie on a manifold or are points; about 1" in found.words
    assert "of 24 directions are thinner than the noise. With T timesteps" in found.words
    assert str(found).split() == found.words.split()
    assert max(map(len, str(found).splitlines())) <= 80
    assert found.to_dict()["kind"] == "manifold"
    assert found.to_dict()["exponent"]["n"] == 8


def test_what_cannot_be_taken_apart_is_refused_in_a_sentence():
    short = run_of("plane", VP(), timesteps=(0.001, 0.1, 0.2, 0.3, 0.4))
    with pytest.raises(UsageError, match=r"has 1 timesteps up to t = 0.01, at least 4 are needed; give a larger end"):
        lipdiag.anatomy(short)
    with pytest.raises(UsageError, match=r"shares timesteps below 100, where its K is 0 by construction"):
        lipdiag.anatomy(run_of("plane", Linear(), Shared(Timesteps(), 100, 5), tuple(range(10)), "time_difference"))
    with pytest.raises(UsageError, match="has no time_derivative; measure it with"):
        lipdiag.anatomy(short.drop_vars("time_derivative"))
