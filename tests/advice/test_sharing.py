"""Advice on shared timesteps, against edges and jumps known in closed form."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner
from scipy import stats

import lipdiag
from lipdiag.advice.partition import Partition, greatest
from lipdiag.advice.sharing import advise
from lipdiag.cli import main
from lipdiag.design.description import coordinates
from lipdiag.design.plan import resolve_timesteps
from lipdiag.diffusion.clock import CLOCKS as CLOCKS_BY_NAME
from lipdiag.diffusion.clock import Clock, LogSigma, LogSNR, Reversed, Sigma, Timesteps, Unit
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import VE, Karras, Linear, Straight
from lipdiag.diffusion.spelling import parse, spell
from lipdiag.errors import UsageError
from lipdiag.pages.verdict import mean
from lipdiag.quantities.time import other_time
from lipdiag.results.run import sharing
from lipdiag.training.recipe import RECIPES
from lipdiag.training.session import shared
from tests.holm import coverage
from tests.runs import dataset_of, linear_table, write

FIRST = 1e-3
"""Where the measured part of continuous time begins."""


def continuous(speed, draws=3, loss=None, spread=0.0, shape=(4,)) -> xr.Dataset:
    """A run over t itself whose K is a given function of t, times a factor of each draw."""
    t = np.geomspace(FIRST, 0.999, 60)
    alpha, sigma = np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
    axis = {"timestep": t, "t": t, "alpha": alpha, "sigma": sigma, "logsnr": 2 * np.log(alpha / sigma)}
    axis |= {"dt_dtimestep": np.ones(60), "dlogsnr_dtimestep": np.gradient(axis["logsnr"], t)}
    dataset = dataset_of(axis, {"clock": "unit(1.0)", "shape": list(shape)}, unit="t").isel(draw=[0] * draws)
    factors = 1 + spread * np.linspace(-1, 1, draws)
    values = {"time_difference": speed(t)[:, None] * factors}
    if loss is not None:
        values["loss"] = np.full((60, draws), loss)
    attributes = dataset["time_difference"].attrs
    return dataset.assign({name: (("time", "draw"), v, attributes) for name, v in values.items()})


def indexed(speed, timesteps=None) -> xr.Dataset:
    """A run over indices whose K is a given function of k + 1."""
    k = np.arange(1000.0) if timesteps is None else np.asarray(timesteps, dtype=float)
    alpha, sigma = (values[k.astype(int)] for values in linear_table())
    axis = {"timestep": k, "t": (k + 1) / 1000, "alpha": alpha, "sigma": sigma, "logsnr": 2 * np.log(alpha / sigma)}
    axis |= {"dt_dtimestep": np.full(k.size, 1e-3), "dlogsnr_dtimestep": np.full(k.size, -1e-2)}
    dataset = dataset_of(axis, {"clock": "timesteps(1000)", "shape": [4]})
    return dataset.assign(time_difference=dataset["time_difference"] * speed(k + 1)[:, None])


LEVELS = np.linspace(0, 1, 6)
END = 0.1
CLOSED = {
    # K = c t^-p: equal integrals of K^g have edges at equal steps of t^(1 - pg), of log t where pg = 1
    (0.5, "equal K"): (FIRST**0.5 + LEVELS * (END**0.5 - FIRST**0.5)) ** 2,
    (0.5, "equal K^(2/3)"): (FIRST ** (2 / 3) + LEVELS * (END ** (2 / 3) - FIRST ** (2 / 3))) ** 1.5,
    (1.0, "equal K"): FIRST * (END / FIRST) ** LEVELS,
    (1.0, "equal K^(2/3)"): (FIRST ** (1 / 3) + LEVELS * (END ** (1 / 3) - FIRST ** (1 / 3))) ** 3,
    (1.0, "uniform"): FIRST + LEVELS * (END - FIRST),
}


@pytest.mark.parametrize(("power", "rule"), CLOSED, ids=str)
def test_edges_of_a_power_law_are_known(power, rule):
    advice = advise(continuous(lambda t: 0.3 * t**-power), end=END, blocks=5)
    (found,) = [p for p in advice.partitions if p.rule == rule]
    np.testing.assert_allclose(found.edges, CLOSED[power, rule], rtol=4e-3)  # whole cells: log(0.999 / FIRST) / 4000


def test_the_jumps_of_geometric_edges_are_logarithms():
    best = advise(continuous(lambda t: 0.3 / t), end=END, blocks=5).partitions[0]
    np.testing.assert_allclose(best.jumps, 0.3 * np.log(END / FIRST) / 5, rtol=5e-3)
    np.testing.assert_allclose(sum(best.jumps), 0.3 * np.log(END / FIRST), rtol=2e-3)


def test_the_two_thirds_rule_reaches_the_least_mean_square():
    """C^3 / (3 n^2 L) with C the integral of K^(2/3), which no other edges are below as n grows."""
    found = {p.rule: p.error for p in advise(continuous(lambda t: 1 / t), end=END, blocks=40).partitions}
    C, length = 3 * (END ** (1 / 3) - FIRST ** (1 / 3)), END - FIRST
    np.testing.assert_allclose(found["equal K^(2/3)"], np.sqrt(C**3 / (3 * 40**2 * length)), rtol=0.02)
    assert found["equal K^(2/3)"] < min(found["equal K"], found["uniform"])


@pytest.mark.parametrize("blocks", [1, 3, 5])
def test_no_edges_at_whole_timesteps_have_a_much_smaller_largest_jump(blocks):
    """Against all partitions of 24 timesteps: the suggested one is the best but for rounding to whole timesteps."""
    advice = advise(indexed(lambda x: x**-0.5), end=24, blocks=blocks)
    total = np.concatenate([[0], np.cumsum(np.arange(1, 25) ** -0.5)])
    inner = itertools.combinations(range(1, 24), blocks - 1)
    least = min(np.diff(total[[0, *edges, 24]]).max() for edges in inner)
    assert least - 1e-12 <= advice.partitions[0].largest.value <= least + 0.5 * 1.0
    np.testing.assert_allclose(advice.partitions[0].jumps, np.diff(total[np.array(advice.edges, dtype=int)]))


def test_timesteps_that_were_not_measured_follow_the_power_law():
    sparse = np.unique(np.round(np.geomspace(1, 1000, 40))) - 1
    few, all_ = (advise(indexed(lambda x: 2 / x, times), end=100, blocks=5) for times in (sparse, None))
    assert few.edges == all_.edges
    np.testing.assert_allclose(few.partitions[0].jumps, all_.partitions[0].jumps, rtol=1e-12)


def test_sharing_ends_where_k_is_ten_times_its_median():
    """K = 1/t has the median 2 over t from 0.2 to 0.8, and is 20 at 0.05."""
    advice = advise(continuous(lambda t: 1 / t))
    assert advice.needed
    assert advice.reference == pytest.approx(2, rel=1e-2)
    assert advice.end == pytest.approx(0.05, rel=1e-2)
    assert advise(continuous(lambda t: 1 / t), above=5).end == pytest.approx(0.1, rel=1e-2)


def test_the_threshold_is_met_by_the_lower_end_of_the_interval():
    """Draws 1 +- s of K = 1/t: the interval of the mean begins at 1 - t_2 s / sqrt(3), and so early ends sharing."""
    advice = advise(continuous(lambda t: 1 / t, spread=0.1))
    assert advice.end == pytest.approx(0.05 * (1 - 4.302653 * 0.1 / np.sqrt(3)), rel=1e-2)


def test_a_flat_curve_needs_no_sharing():
    advice = advise(continuous(np.ones_like))
    assert not advice.needed
    assert advice.to_dict()["etsdm"] is None
    assert "No sharing is suggested" in str(advice)


@pytest.mark.parametrize("loss", [0.3, 0.03])
def test_the_number_of_blocks_follows_from_the_loss(loss):
    """K = 10: jumps of 10 L / n are at most sqrt(4 loss) / 4 for the first time at n = ceil(20 L / sqrt(loss))."""
    advice = advise(continuous(lambda t: np.full_like(t, 10.0), loss=loss), end=END)
    assert len(advice.partitions[0].jumps) == np.ceil(20 * (END - FIRST) / np.sqrt(loss))


def test_the_interval_is_students_over_draws():
    advice = advise(continuous(lambda t: 1 / t, draws=5, spread=0.2), end=END, blocks=4)
    largest = advice.partitions[0].largest
    error = np.std(largest.value * (1 + 0.2 * np.linspace(-1, 1, 5)), ddof=1) / np.sqrt(5)
    np.testing.assert_allclose([largest.high - largest.value, largest.draws], [2.776445 * error, 5], rtol=1e-6)


def test_the_interval_covers_the_largest_jump_although_it_was_picked(seed, p_value):
    """Of 20 blocks of a flat K, all alike and the largest of the measured ones too high by chance."""
    rng, base = np.random.default_rng(seed), indexed(np.ones_like, np.arange(40)).isel(draw=[0] * 16)
    hits = {"equal K": 0, "uniform": 0}
    for _ in range(100):
        speed = 10 + 2 * rng.standard_normal((40, 16))
        dataset = base.assign(time_difference=(("time", "draw"), speed, base["time_difference"].attrs))
        for p in advise(dataset, end=40, blocks=20).partitions:
            if p.rule in hits:
                hits[p.rule] += p.largest.low <= 10 * np.diff(p.edges).max() <= p.largest.high
    for count in hits.values():
        p_value(coverage(count, 100, 0.95))


def test_the_interval_of_the_largest_is_bonferronis_below_and_students_above():
    """The block with the widest interval reaches highest, though its mean is not the largest."""
    values = np.stack([10 + 0.1 * np.arange(-2, 3), 9.9 + np.arange(-2, 3), np.zeros(5)], axis=1)
    found = greatest(values)
    error = np.sqrt(2.5 / 5)
    np.testing.assert_allclose(found.value, 10)
    np.testing.assert_allclose(found.high, 9.9 + stats.t.ppf(0.975, 4) * error)
    np.testing.assert_allclose(found.low, 10 - stats.t.ppf(1 - 0.025 / 3, 4) * 0.1 * error)


def test_the_edges_are_what_train_takes(ddpm):
    advice = lipdiag.advise(ddpm, end=100, blocks=5)
    assert sharing(shared(RECIPES["digits"], advice.etsdm).clock)[1] == advice.edges


def test_the_words_fit_a_terminal_and_promise_nothing(ddpm):
    advice = advise(ddpm)
    said = str(advice)
    assert repr(advice) == said
    frame = advice.to_dataframe().groupby("rule", sort=False)
    assert frame["end"].max().tolist() == [p.edges[-1] for p in advice.partitions]
    assert frame["jump"].max().tolist() == [max(p.jumps) for p in advice.partitions]
    assert json.loads(advice.to_json())["partitions"][0]["rule"] == advice.partitions[0].rule
    assert all(len(line) <= 80 or line.startswith("--etsdm") for line in said.splitlines())
    assert "not a guarantee" in said.replace("\n", " ")
    assert "n = 64 draws" in said


def test_draws_that_are_not_done_are_not_counted(ddpm, tmp_path):
    done = ddpm["done"].copy(deep=True)
    done.values[:, 16:] = 0
    part = lipdiag.open_run(write(ddpm.assign(done=done), tmp_path / "part.zarr"))
    said = " ".join(str(advise(part)).split())
    assert "n = 16 draws" in said
    assert f"Warning: {48 * done.sizes['time']} of {done.size} pairs are not measured" in said
    plotted = CliRunner().invoke(main, ["plot", str(tmp_path / "part.zarr"), "--out", str(tmp_path / "p.png")])
    assert "pairs are not measured" in plotted.stderr


def test_json_is_finite(ddpm):
    one = ddpm.isel(draw=[0])
    assert json.loads(json.dumps(advise(one).to_dict(), allow_nan=False))["partitions"][0]["largest"]["n"] == 1


def test_runs_that_cannot_be_advised_on(ddpm, etsdm):
    with pytest.raises(UsageError, match="shares timesteps already"):
        advise(etsdm)
    with pytest.raises(UsageError, match="timestep 0"):
        advise(ddpm.isel(time=slice(1, None)))
    with pytest.raises(UsageError, match="needs 4"):
        advise(ddpm.isel(time=slice(0, 3)))
    with pytest.raises(UsageError, match="do not fit"):
        advise(ddpm, end=10, blocks=11)
    with pytest.raises(UsageError, match="cannot end"):
        advise(ddpm, end=-5)
    with pytest.raises(UsageError, match="no time_difference"):
        advise(ddpm.drop_vars(["time_difference", "time_derivative"]))


@pytest.mark.parametrize(
    ("loss", "blocks"),
    [
        # With h = L / n, jumps 10 h, and error 2 s t or 2 s / t, a quarter of it at the block's end must reach 10 h:
        # of a rising loss the first block is the narrowest, h <= s (FIRST + h) / 20,
        (lambda t: (16 * t) ** 2, np.ceil((END - FIRST) / (16 * FIRST / (20 - 16)))),
        # of a falling one the last, h <= s / END / 20.
        (lambda t: (0.04 / t) ** 2, np.ceil((END - FIRST) * 20 * END / 0.04)),
    ],
    ids=["rising", "falling"],
)
def test_a_jump_is_held_against_the_error_where_it_happens(loss, blocks):
    flat = continuous(lambda t: np.full_like(t, 10.0), loss=1.0)
    dataset = flat.assign(loss=flat["loss"] * loss(flat["t"]))
    assert len(advise(dataset, end=END).partitions[0].jumps) == blocks


CLOCKS = [
    Unit(), Reversed(Unit()), Unit(1000.0), Sigma(VE()), LogSigma(Karras()), LogSNR(Straight()), Timesteps(500),
    Reversed(Timesteps(500)),
]  # fmt: skip


def told(clock: Clock, speed=lambda x: 1 / x) -> xr.Dataset:
    """A run of a model with a clock, whose K is a function of t, or of the noise-to-signal ratio where it tells that.

    Per unit of t or of the ratio; of an index it is that between its two times.
    """
    schedule = getattr(clock, "schedule", Linear())
    predictor = Gaussian(torch.zeros(4), torch.ones(4), schedule, clock)
    axis = coordinates(predictor, resolve_timesteps("log:64", clock, schedule))
    axis = {name: numbers for name, (numbers, _) in axis.items()}
    dataset = dataset_of(axis, {"clock": spell(clock), "shape": [4]}, unit=clock.unit)
    x, rate = axis["t"], axis["dt_dtimestep"]
    if clock.discrete:
        other = clock.time(other_time(clock, torch.from_numpy(axis["timestep"]), None)).numpy()
        x = np.minimum(x, other)
    elif hasattr(clock, "schedule"):
        x = np.exp(-axis["logsnr"] / 2)
        rate = x * axis["dlogsnr_dtimestep"] / 2
    return dataset.assign(time_difference=dataset["time_difference"] * (speed(x) * np.abs(rate))[:, None])


@pytest.mark.parametrize("clock", CLOCKS, ids=spell)
def test_blocks_lie_at_the_data_whatever_the_clock(clock):
    """K = 1/x has geometric edges in x, t or the ratio; up to t = 0.1 where asked for, in a time that may fall."""
    end = clock(torch.tensor(0.1, dtype=torch.float64)).item()
    advice = advise(told(clock), end=end, blocks=4)
    edges = clock.time(torch.tensor(advice.edges, dtype=torch.float64)).numpy()
    assert (np.diff(edges) > 0).all()
    if clock.discrete:
        assert advice.edges == tuple(round(edge) for edge in advice.edges)
        assert edges[0] == 1 / 500
        np.testing.assert_allclose(edges[-1], 0.1, atol=1.1 / 500)
        np.testing.assert_allclose(np.log(edges[1:] / edges[:-1]), np.log(50) / 4, rtol=0.5)
    else:
        np.testing.assert_allclose(edges[[0, -1]], [1e-3, 0.1], rtol=5e-3)
        x = np.exp(-clock.schedule.logsnr(torch.from_numpy(edges)).numpy() / 2) if hasattr(clock, "schedule") else edges
        np.testing.assert_allclose(np.log(x[1:] / x[:-1]), np.log(x[-1] / x[0]) / 4, rtol=2e-2)
    # what is printed is taken, by training and by a loop of one's own, as what was meant
    recipe = dataclasses.replace(RECIPES["digits"], clock=spell(clock))
    trained = parse(shared(recipe, advice.etsdm).clock, CLOCKS_BY_NAME)
    network = eval(advice.call, {"lipdiag": lipdiag, "network": lambda x, t: t})
    t = torch.linspace(0.002, 0.2, 100, dtype=torch.float64)
    t = (t * 500).round() / 500 if clock.discrete else t
    heard = network(torch.zeros(100, 4), clock(t))
    torch.testing.assert_close(heard, trained(t))
    np.testing.assert_allclose(trained.bounds, advice.edges, rtol=1e-3)
    assert parse(spell(trained), CLOCKS_BY_NAME) == trained


@pytest.mark.parametrize("clock", [Unit(), Reversed(Unit()), Timesteps(500), Reversed(Timesteps(500))], ids=spell)
def test_where_none_is_needed_none_is_proposed(clock):
    """And where blocks are asked for nevertheless, they cover the first tenth from the data, not nine of them."""
    dataset = told(clock, np.ones_like)
    advice = advise(dataset)
    assert not advice.needed
    assert "No blocks are needed" in str(advice).replace("\n", " ")
    assert "edges" not in str(advice)
    end = clock.time(torch.tensor(advise(dataset, blocks=2).end, dtype=torch.float64))
    assert end.item() == pytest.approx(0.1, abs=2.1 / 500)


def test_where_k_is_high_is_found_in_a_time_that_falls():
    """K = 1/t has the median 2 over t from 0.2 to 0.8, and is 20 at 0.05: timestep 0.95."""
    advice = advise(told(Reversed(Unit())))
    assert advice.needed
    assert advice.end == pytest.approx(0.95, abs=2e-3)


def test_narrow_blocks_near_one_keep_their_width_in_print():
    found = Partition("", (0.9989998, 0.9989981, 0.9), (), mean(np.ones(3)), 0.0)
    assert np.diff([float(edge) for edge in found.spelled]) == pytest.approx(np.diff(found.edges), rel=0.01)
    assert Partition("", (0.0, 5.0, 100.0), (), mean(np.ones(3)), 0.0).spelled == ["0", "5", "100"]
