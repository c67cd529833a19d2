"""What shared timesteps hide, against closed forms of a Gaussian and against all partitions."""

import itertools

import numpy as np
import pytest
import torch
import xarray as xr

from lipdiag.advice.hidden import hidden
from lipdiag.advice.pieces import cheapest
from lipdiag.advice.sharing import advise
from lipdiag.design.description import coordinates
from lipdiag.diffusion.clock import Reversed, Timesteps, Unit
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import Linear
from lipdiag.diffusion.spelling import spell
from lipdiag.errors import UsageError
from lipdiag.results.run import read
from tests.runs import dataset_of

VARIANCE = 1e-3


def bias(t: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Root mean square of eps*(x_t, told) - eps*(x_t, t) for data N(0, v) in 4 dimensions: both are multiples of x."""
    (a, s), (b, r) = Linear()(t), Linear()(told)
    slope = r / (b**2 * VARIANCE + r**2) - s / (a**2 * VARIANCE + s**2)
    return 2 * slope.abs() * (a**2 * VARIANCE + s**2).sqrt()


def gaussian(clock, timesteps, draws=3, loss=0.2) -> xr.Dataset:
    """A run with `pairs` of that model, each draw's change the root mean square itself."""
    predictor = Gaussian(torch.zeros(4), torch.full((4,), VARIANCE), Linear(), clock)
    axis = {name: numbers for name, (numbers, _) in coordinates(predictor, np.array(timesteps, dtype=float)).items()}
    dataset = dataset_of(axis, {"clock": spell(clock), "shape": [4]}, unit=clock.unit).isel(draw=[0] * draws)
    t = torch.from_numpy(axis["t"])
    change = bias(t[:, None], t[None, :]).numpy()
    speed = np.abs(axis["dt_dtimestep"]) / axis["t"]
    columns = {
        "pair_difference": (("time", "draw", "other"), np.repeat(change[:, None], draws, axis=1)),
        "time_difference": (("time", "draw"), np.repeat(speed[:, None], draws, axis=1)),
        "loss": (("time", "draw"), np.full((t.numel(), draws), loss)),
    }
    held = {name: (*value, dataset["time_difference"].attrs) for name, value in columns.items()}
    return dataset.assign(held).assign_coords(other=axis["timestep"])


def truth(clock, edges) -> float:
    """The largest bias that these blocks have at any timestep, from the formula alone."""
    low, high = sorted(edges)[0], sorted(edges)[-1]
    k = torch.arange(low, high + 1, dtype=torch.float64) if clock.discrete else torch.linspace(low, high, 4001).double()
    t, bounds = clock.time(k), clock.time(torch.tensor(edges, dtype=torch.float64))
    inside = (t < bounds[-1] - 1e-12) & (t >= bounds[0])
    told = bounds[torch.searchsorted(bounds, t[inside] + 1e-12) - 1]
    return float(bias(t[inside], told).max())


INDEX = [*range(30), *range(30, 101, 5), 150, 200, 400, 600, 800, 999]
CASES = {
    "index": (Timesteps(1000), INDEX, 100),
    "reversed index": (Reversed(Timesteps(1000)), [999 - k for k in INDEX], 899),
    "unit": (Unit(), [(k + 1) / 1000 for k in INDEX], 0.101),
    "reversed unit": (Reversed(Unit()), [1 - (k + 1) / 1000 for k in INDEX], 0.899),
}


@pytest.mark.parametrize("case", CASES)
def test_the_largest_bias_is_the_models_own_whatever_the_clock(case):
    """And much less than that of equal blocks, at as many: the formula knows no matrix."""
    clock, timesteps, end = CASES[case]
    advice = advise(gaussian(clock, timesteps), end=end, blocks=5)
    best, _, uniform = advice.partitions
    assert advice.measured
    assert best.largest.value == pytest.approx(truth(clock, best.edges), rel=0.02)  # linear between measured timesteps
    assert uniform.largest.value == pytest.approx(truth(clock, uniform.edges), rel=0.02)
    assert truth(clock, best.edges) < 0.6 * truth(clock, tuple(np.linspace(timesteps[0], end, 6).round(9)))


def test_jumps_are_the_change_at_the_first_timestep_of_the_next_block():
    advice = advise(gaussian(Timesteps(1000), range(200)), end=50, blocks=4)
    t = (torch.tensor(advice.edges, dtype=torch.float64) + 1) / 1000
    np.testing.assert_allclose(advice.partitions[0].jumps, bias(t[1:], t[:-1]), rtol=1e-9)


def test_the_error_is_the_root_mean_square_over_all_shared_timesteps():
    advice = advise(gaussian(Timesteps(1000), range(200)), end=50, blocks=4)
    for found in advice.partitions:
        edges = torch.tensor(found.edges)
        k = torch.arange(50.0)
        told = edges[torch.searchsorted(edges, k, right=True) - 1]
        expected = bias((k.double() + 1) / 1000, (told.double() + 1) / 1000).square().mean().sqrt()
        assert found.error == pytest.approx(float(expected), rel=1e-6)
    assert advice.partitions[1].error == min(found.error for found in advice.partitions)


def test_the_number_of_blocks_is_the_least_that_hides_a_quarter_of_the_error():
    dataset = gaussian(Timesteps(1000), range(200))
    advice = advise(dataset, end=60)
    count = len(advice.partitions[0].jumps)
    error = np.sqrt(4 * 0.2)
    assert advice.partitions[0].part == pytest.approx(advice.partitions[0].largest.value / error)
    assert advice.partitions[0].part <= 0.25 < advise(dataset, end=60, blocks=count - 1).partitions[0].part


@pytest.mark.parametrize("combine", [np.add, np.maximum])
def test_no_partition_is_cheaper(combine):
    cost = np.random.default_rng(0).uniform(size=(9, 9))
    for pieces in (1, 3, 8):
        inner = itertools.combinations(range(1, 8), pieces - 1)
        every = [combine.reduce(cost[[0, *e], [*e, 8]]) for e in inner]
        edges = cheapest(cost, pieces, combine)
        assert edges[0] == 0
        assert edges[-1] == 8
        assert combine.reduce(cost[edges[:-1], edges[1:]]) == pytest.approx(min(every))


def test_of_the_partitions_with_the_least_largest_bias_the_one_with_the_least_mean_is_taken():
    changes = hidden(read([gaussian(Timesteps(1000), range(120))])[0], 100)
    edges, other = changes.least(6), cheapest(changes.largest, 6, np.maximum)
    assert changes.largest[edges[:-1], edges[1:]].max() == changes.largest[other[:-1], other[1:]].max()
    assert changes.summed[edges[:-1], edges[1:]].sum() <= changes.summed[other[:-1], other[1:]].sum()


def test_the_end_does_not_follow_the_grid_beyond_its_resolution():
    """K = 1/t is ten times its median 2 at t = 0.05, timestep 49: whatever was measured around it."""
    for timesteps in (
        range(1000),
        np.unique(np.geomspace(1, 1000, 40).round()) - 1,
        [0, 1, 3, 9, 44, 60, 300, 500, 999],
    ):
        advice = advise(gaussian(Timesteps(1000), timesteps))
        low, high = advice.resolution
        assert low <= advice.end <= high
        assert advice.end == pytest.approx(49, abs=1 + 0.05 * (high - low))
        assert f"known to between {low:g} and {high:g}" in str(advice).replace("\n", " ")


def test_a_ragged_curve_says_how_little_its_end_is_known():
    """Whichever third of the timesteps is left out, the end lies where the whole run says it may."""
    dataset = gaussian(Timesteps(1000), np.unique(np.geomspace(1, 1000, 64).round()) - 1)
    count = dataset.sizes["time"]
    rough = np.exp(0.7 * np.random.default_rng(0).standard_normal(count))
    dataset["time_difference"] = dataset["time_difference"] * rough[:, None]
    low, high = advise(dataset).resolution
    assert high > 1.5 * low
    for kept in (range(0, count, 2), [0, *range(1, count, 2)]):
        assert low <= advise(dataset.isel(time=list(kept)).drop_vars(["pair_difference", "other"])).end <= high


def test_a_bound_is_called_one_and_the_command_that_measures_is_named():
    dataset = gaussian(Timesteps(1000), range(200))
    advice = advise(dataset.drop_vars(["pair_difference", "other"]), end=50, blocks=4)
    assert not advice.measured
    assert "A bound and not a measurement" in str(advice)
    assert "--quantity pairs" in str(advice)
    assert "A bound" not in str(advise(dataset, end=50, blocks=4))


def test_a_notebook_shows_a_table_and_no_markup_of_strangers():
    page = advise(gaussian(Timesteps(1000), range(200)).assign_attrs(data="<b>"), end=50, blocks=4)._repr_html_()
    assert page.count("<tr>") == 4
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


def test_too_few_timesteps_before_the_end_are_refused():
    with pytest.raises(UsageError, match="has 3 timesteps before 3 "):
        advise(gaussian(Timesteps(1000), range(200)), end=3, blocks=2)
