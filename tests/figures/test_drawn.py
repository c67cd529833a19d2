"""What each figure draws, against what numpy and scipy find in the data it was given."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PolyCollection, QuadMesh
from scipy import stats

from lipdiag.diffusion.clock import Unit
from lipdiag.diffusion.schedule import SCHEDULES
from lipdiag.errors import UsageError
from lipdiag.figures import Picture, plot
from lipdiag.figures.schedules import columns
from lipdiag.results.distribution import over_draws
from lipdiag.results.run import read
from tests.holm import coverage
from tests.results.test_run import run_with
from tests.runs import EDGES, complete, evaluation, make

ENDS = np.array(EDGES[1:]) - 1


def drawer(figure: str) -> Callable[..., Picture]:
    """A figure of datasets."""
    return lambda *datasets, **options: plot(datasets, figure, **options)


DRAWN = ("jumps", "derivatives", "pairs", "swap", "distribution", "jacobian", "spectrum", "vectors", "embedding")
jumps, derivatives, pairs, swap, distribution, jacobian, spectrum, vectors, embedding = map(drawer, DRAWN)
training, quality = map(drawer, ("training", "quality"))


def student(values: np.ndarray) -> np.ndarray:
    """Low and high of the mean's 95 % interval over the last axis."""
    return np.array(stats.t.interval(0.95, values.shape[-1] - 1, values.mean(-1), stats.sem(values, axis=-1)))


def line(axes, number: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.asarray(values, dtype=float) for values in axes.lines[number].get_data())


def reach(axes, number: int, x: float) -> tuple[float, float]:
    """Bottom and top of a band at x."""
    found = [c for c in axes.collections if isinstance(c, PolyCollection) and not isinstance(c, QuadMesh)]
    at = np.concatenate([path.vertices for path in found[number].get_paths()])
    at = at[np.isclose(at[:, 0], x), 1]
    return at.min(), at.max()


@pytest.fixture(scope="module")
def plain():
    return complete()


@pytest.fixture(scope="module")
def shared():
    return complete(shared=True, seed=1)


def test_jumps_stand_against_the_sum_of_k_over_their_block():
    every = np.union1d(np.arange(120), [500.0, 999.0])
    twin, model = make(every, 16, checkpoint="a"), make(every, 16, True, "b", seed=1)
    picture = jumps(twin, model)
    sums = np.add.reduceat(twin["time_difference"].values[:100], EDGES[:-1], axis=0)
    jumped = model["time_difference"].values[ENDS]
    blocks, summed = picture.axes
    for number, values in enumerate((sums, jumped)):
        np.testing.assert_allclose(line(blocks, number)[1], values.mean(1), rtol=1e-12)
        bars = [c for c in blocks.collections if isinstance(c, LineCollection)][number].get_segments()
        np.testing.assert_allclose([[bar[0, 1], bar[1, 1]] for bar in bars], student(values).T, rtol=1e-12)
    total = np.cumsum(twin["time_difference"].values[:100], axis=0)
    np.testing.assert_allclose(line(summed, 0)[1][1:], total.mean(1), rtol=1e-12)
    low, high = student(total)
    assert reach(summed, 0, 40) == pytest.approx((low[39], high[39]))
    stairs = line(summed, 1)[1]
    np.testing.assert_allclose(stairs[1:][ENDS], np.cumsum(jumped.mean(1)), rtol=1e-12)
    assert (stairs[1:20] == 0).all()


def test_jumps_between_measured_timesteps_are_summed_on_straight_lines(plain, shared):
    at, values = plain["timestep"].values, plain["time_difference"].values
    sums = [np.interp(np.arange(100), at, draw).reshape(5, 20).sum(1) for draw in values.T]
    np.testing.assert_allclose(line(jumps(plain, shared).axes[0], 0)[1], np.mean(sums, 0), rtol=1e-12)


def test_jumps_refuse_what_they_cannot_count(run, plain, shared):
    with pytest.raises(UsageError, match="jumps are of a model that shares its timesteps, and digits-ddpm does not"):
        jumps(plain)
    with pytest.raises(UsageError, match=r"no K at timesteps 59, 79, 99, .* --timesteps 19,39,59,79,99"):
        jumps(run(np.array([0.0, 19, 39, 500, 999]), shared=True))
    with pytest.raises(UsageError, match="no K from timestep 0 to 99"):
        jumps(run(np.array([5.0, 50, 120, 999])), shared)
    other = shared.assign_attrs(frozen={**shared.attrs["frozen"], "plan": {"step": 5.0}})
    with pytest.raises(UsageError, match="--step 1"):
        jumps(other)


def test_derivatives_and_their_ratio(plain):
    both, share = derivatives(plain).axes
    partial, total = (plain[name].values for name in ("time_derivative", "trajectory_derivative"))
    for number, values in enumerate((partial, total)):
        x, y = line(both, number)
        np.testing.assert_array_equal(x, plain["timestep"].values + 1)
        np.testing.assert_allclose(y, values.mean(1), rtol=1e-12)
        low, high = student(values)
        assert reach(both, 2 * number + 1, x[3]) == pytest.approx((low[3], high[3]))
    np.testing.assert_allclose(line(share, 0)[1], total.mean(1) / partial.mean(1), rtol=1e-12)


def test_interval_of_a_ratio_covers_it_95_times_in_100(seed, p_value):
    """Of lognormal pairs whose means have the ratio 0.5; 94 to 96."""
    generator = np.random.default_rng(seed)
    common = generator.standard_normal((400, 40))
    dataset = make(np.arange(400.0), 40, quantities=("time_derivative",))
    dataset["time_derivative"] = (("time", "draw"), np.exp(0.2 * common))
    other = 0.5 * np.exp(0.2 * generator.standard_normal((400, 40)))
    dataset = dataset.assign(trajectory_derivative=(("time", "draw"), other))
    rows = [row for row in derivatives(dataset).rows if row["variable"] == "ratio"]
    covered = sum(row["low"] <= 0.5 <= row["high"] for row in rows)
    p_value(coverage(covered, 400, 0.94, 0.96))


def test_pairs_are_the_differences_over_the_distances(shared):
    picture = pairs(shared)
    whole, rows = picture.axes[:2]
    values, k = shared["pair_difference"].values.mean(1), shared["timestep"].values
    distance = np.abs(k[:, None] - k)
    same = values == 0
    mesh = [c for c in whole.collections if isinstance(c, QuadMesh)][-1].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(mesh), same)
    np.testing.assert_allclose(mesh.compressed(), (values[~same] / distance[~same]), rtol=1e-12)
    grey = whole.collections[0].get_array()
    np.testing.assert_array_equal(~np.ma.getmaskarray(grey), same & (distance > 0))
    x, y = line(rows, 0)
    np.testing.assert_allclose(y[~same[0]], values[0][~same[0]] / distance[0][~same[0]], rtol=1e-12)
    low, high = student(shared["pair_difference"].values[0].T / np.where(same[0], np.nan, distance[0])[:, None])
    assert reach(rows, 0, x[-1]) == pytest.approx((low[-1], high[-1]))


def test_swap_marks_the_best_time_to_tell(plain):
    whole = swap(plain).axes[0]
    values = plain["swap_loss"].values.mean(1)
    np.testing.assert_allclose(whole.collections[0].get_array(), values, rtol=1e-12)
    x, y = line(whole, 0)
    np.testing.assert_array_equal(y, plain["timestep"].values + 1)
    np.testing.assert_array_equal(x, plain["timestep"].values[values.argmin(1)] + 1)
    assert (x == y).all()  # the least loss was put on the diagonal


def test_cells_of_a_matrix_hold_their_timestep(plain):
    edges = pairs(plain).axes[0].collections[0].get_coordinates()[0, :, 0]
    x = plain["timestep"].values + 1
    assert ((edges[:-1] < x) & (x < edges[1:])).all()


def test_distribution_is_the_empirical_one_with_its_band(plain):
    fan, steps = distribution(plain).axes
    values = plain["time_difference"].values
    np.testing.assert_allclose(line(fan, 0)[1], values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(line(fan, 1)[1], values.max(1), rtol=1e-12)
    x, share = line(steps, 0)
    truth = stats.ecdf(values[0] / values[0].mean()).cdf
    np.testing.assert_allclose(x, truth.quantiles)
    np.testing.assert_allclose(share, truth.probabilities)
    rows = [row for row in distribution(plain).rows if row["kind"] == "draw"]
    margin = np.sqrt(np.log(2 / 0.05) / (2 * values.shape[1]))
    assert rows[-1]["share_low"] == pytest.approx(1 - margin)


def test_distribution_takes_any_variable_with_one_number_a_draw(plain):
    picture = distribution(plain, variable="loss")
    np.testing.assert_allclose(line(picture.axes[0], 0)[1], plain["loss"].values.mean(1), rtol=1e-12)
    with pytest.raises(UsageError, match="several numbers a draw"):
        distribution(plain, variable="singular_values")


def test_jacobian_norms_with_their_bounds(plain):
    picture = jacobian(plain)
    sigma = plain["sigma"].values
    spectral, one_sided, frobenius, trace = picture.axes
    for axes, name, root in (
        (spectral, "spectral_norm", 1),
        (one_sided, "one_sided_lipschitz", 1),
        (frobenius, "squared_frobenius_norm", 2),
        (trace, "trace", 1),
    ):
        values = plain[name].values
        x, y = line(axes, 0)
        np.testing.assert_allclose(y, values.mean(1) ** (1 / root), rtol=1e-12)
        low, high = student(values) ** (1 / root)
        assert reach(axes, 1, x[4]) == pytest.approx((low[4], high[4]))
    np.testing.assert_allclose(line(spectral, 1)[1], plain["spectral_norm_upper"].values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(line(one_sided, 1)[1], 1 / sigma, rtol=1e-12)
    np.testing.assert_allclose(line(trace, 1)[1], 64 / sigma, rtol=1e-12)


def test_jacobian_says_nothing_of_a_bound_that_is_not_drawn(plain):
    picture = jacobian(plain.drop_vars(["trace", "one_sided_lipschitz", "squared_frobenius_norm"]))
    assert "Dashed" not in picture.caption
    assert "Dashed" in jacobian(plain).caption
    lower, upper = picture.axes[0].lines[:2]
    assert upper.get_color() != lower.get_color(), "a bound a few per cent above would hide under the line"


def test_jacobian_shows_what_there_is_and_names_the_rest(plain):
    picture = jacobian(plain.drop_vars(["trace", "one_sided_lipschitz"]))
    assert len(picture.axes) == 2
    assert "Not measured: one_sided_lipschitz, trace (`lipdiag measure digits-ddpm --quantity" in picture.caption


def test_spectrum_over_time_and_over_rank(plain):
    over_time, over_rank = spectrum(plain).axes
    values = plain["singular_values"].values
    for rank in range(5):
        np.testing.assert_allclose(line(over_time, rank)[1], values[..., rank].mean(1), rtol=1e-12)
    np.testing.assert_allclose(line(over_rank, 0)[1], values[0].mean(0), rtol=1e-12)
    low, high = student(values[0].T)
    assert reach(over_rank, 0, 2) == pytest.approx((low[1], high[1]))


def test_vectors_are_shown_as_they_are(plain):
    picture = vectors(plain, draw=3)
    first, times = picture.axes[:8], len(picture.axes) // 8
    for number, axes in enumerate(first):
        side = "right" if number < 4 else "left"
        expected = plain[f"{side}_singular_vectors"].values[0, 3, number % 4].reshape(8, 8)
        np.testing.assert_array_equal(axes.images[0].get_array(), expected)
        low, high = axes.images[0].get_clim()
        assert low == -high == -np.abs(expected).max()  # grey is 0
    assert times == 4
    assert first[0].get_title() == f"$v_1$: {plain['vector_singular_values'].values[0, 3, 0]:.3g}"


def test_vectors_that_are_no_images_are_refused(plain, shared):
    with pytest.raises(UsageError, match="there are 2 runs, and vectors shows 1 at a time"):
        vectors(plain, shared)
    flat = plain.assign_attrs(frozen={**plain.attrs["frozen"], "model": {"shape": [64]}})
    with pytest.raises(UsageError, match=r"images of shape \(channels, height, width\), and these have \(64,\)"):
        vectors(flat)
    with pytest.raises(UsageError, match="draw 12 is not done"):
        vectors(plain, draw=12)


@pytest.mark.parametrize("name", ["vp", "karras", "straight"])
def test_rates_of_schedules_are_their_derivatives(name):
    schedule = SCHEDULES[name]()
    run = run_with(Unit(), timesteps="log:200", schedule=schedule)
    found = columns(run)
    t = torch.from_numpy(found["t"])
    alpha_rate, sigma_rate = (rate.numpy() for rate in schedule.rates(t))
    inner = slice(2, -2)  # where a spline has no neighbours it is less exact
    np.testing.assert_allclose(found["sigma_rate"][inner], sigma_rate[inner], rtol=1e-3)
    np.testing.assert_allclose(found["alpha_rate"][inner], alpha_rate[inner], rtol=1e-3, atol=1e-3)


def test_a_schedule_of_few_timesteps_is_refused(run):
    with pytest.raises(UsageError, match=r"3 timesteps, too few .*--timesteps log:64"):
        plot(run(np.array([0.0, 10, 999])), figure="schedules")


def test_ends_of_a_schedule_are_in_the_caption(plain):
    assert "from timestep 0: alpha = 0.9999, sigma = 0.01, log-SNR = 9.2" in plot(plain, figure="schedules").caption


def test_embedding_is_drawn_like_k_with_zeros_and_jumps(shared):
    picture = embedding(shared)
    kinds = {row["timestep"]: row["kind"] for row in picture.rows if row["variable"] == "embedding_difference"}
    assert [k for k, kind in kinds.items() if kind == "jump between blocks"] == ENDS.tolist()
    assert kinds[0.0] == "exactly zero"
    np.testing.assert_allclose(line(picture.axes[1], 0)[1], shared["embedding_norm"].values.mean(1))


def test_training_draws_means_of_stretches(sources):
    picture = training(*sources["training"])
    loss, gradient, rate, K = picture.axes
    steps = np.arange(1, 201).reshape(40, 5)  # the line half written is left out
    for axes, values in ((loss, 1 / steps), (gradient, 2 / steps)):
        x, y = line(axes, 0)
        np.testing.assert_allclose(x, steps.mean(1))
        np.testing.assert_allclose(y, values.mean(1))
        low, high = student(values)
        assert reach(axes, 0, x[20]) == pytest.approx((low[20], high[20]))
    np.testing.assert_allclose(line(rate, 0)[1], 1e-3 * np.arange(1, 201) / 200)
    x, y = line(K, 1)
    np.testing.assert_array_equal(x, [50, 100, 200])
    np.testing.assert_allclose(y, x / 11)
    assert reach(K, 1, 200) == pytest.approx((200 / 11 * (1 - 0.1959964), 200 / 11 * (1 + 0.1959964)))


def test_quality_at_one_number_of_steps_stands_in_the_middle():
    fid, _ = quality(evaluation().isel(sampler=[0])).axes
    low, high = fid.get_xlim()
    assert np.sqrt(low * high) == pytest.approx(line(fid, 0)[0][0], rel=0.02)
    assert high > 2 * low


def test_labels_between_powers_of_ten_are_plain_numbers(plain):
    axes = jacobian(plain).axes[0]
    axes.set_ylim(0.2, 0.9)
    label = axes.yaxis.get_minor_formatter()
    label.set_locs([])
    assert [label(0.3), label(0.6)] == ["0.3", "0.6"]


def test_quality_is_drawn_over_the_steps_in_their_order():
    dataset = evaluation()
    fid, kid = quality(dataset).axes
    x, y = line(fid, 0)
    np.testing.assert_allclose(x, [5, 10, 20], rtol=0.02)  # moved aside from the other sampler's
    np.testing.assert_allclose(y, [20 * 1.01, 10 * 1.01, 5 * 1.01])
    assert [row["steps"] for row in quality(dataset).rows[:3]] == [5, 10, 20]
    np.testing.assert_allclose(line(fid, 1)[1], [10 * 1.01, 5 * 1.01])
    segments = fid.collections[0].get_segments()
    values = 100 / 5 * (1 + 0.01 * np.arange(3))
    np.testing.assert_allclose([segments[0][0, 1], segments[0][1, 1]], student(values))
    assert [set(axes.lines[-1].get_ydata()) for axes in (fid, kid)] == [{1.5}, {0.01}]


def test_models_by_one_sampler_share_its_colour_and_stand_side_by_side():
    axes, _ = quality(evaluation(), evaluation(), evaluation()).axes
    lines = axes.lines[:-1]  # the last is the floor
    for sampler in range(2):
        three = lines[sampler::2]
        assert len({each.get_color() for each in three}) == len({each.get_marker() for each in three}) == 1
        assert len({(each.get_linestyle(), each.get_markerfacecolor()) for each in three}) == 3
    assert lines[0].get_color() != lines[1].get_color()
    places = np.log([line(axes, number)[0][0] for number in range(6)])
    order = np.argsort(places)
    assert [int(number) % 2 for number in order] == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(np.diff(places[order]), np.log(4) / 64)


def test_a_single_seed_has_the_interval_of_its_own_standard_error_or_none():
    fid, kid = quality(evaluation(seeds=1)).axes
    assert not fid.collections[0].get_segments()
    segment = kid.collections[0].get_segments()[0][:, 1]
    np.testing.assert_allclose(segment, 0.2 + np.array([-1, 1]) * 1.959964 * 0.01 / 5)


def test_evaluations_that_do_not_compare_are_not_shown_together():
    with pytest.raises(UsageError, match="different extractors"):
        quality(evaluation(), evaluation().assign_attrs(extractor="Inception"))
    with pytest.raises(UsageError, match="none of fid, kid in common"):
        quality(evaluation().drop_vars("fid"), evaluation().drop_vars("kid"))
    bad = evaluation().assign_coords(sampler=["ddim", "a", "b", "c", "d"])
    with pytest.raises(UsageError, match="NAME:STEPS"):
        quality(bad)


def test_draws_with_gaps_are_summed_up_without_them():
    values = np.array([[1.0, 2.0, np.nan], [1.0, 1.0, 1.0]])
    found = over_draws(values)
    np.testing.assert_allclose(found.mean, [1.5, 1])
    np.testing.assert_array_equal(found.count, [2, 3])


def test_a_model_of_continuous_time_is_drawn_over_its_own_time(plain):
    frozen = {"model": {"clock": "unit()", "shape": [1, 8, 8]}, "plan": {"step": None}}
    for name in ("derivatives", "pairs", "jacobian"):
        label = plot(plain.assign_attrs(frozen=frozen), figure=name).axes[0].get_xlabel()
        assert label.endswith("time $t$ (0 = data, 1 = noise)")


def test_checkpoints_are_drawn_over_the_steps_of_their_training():
    """In the order of the steps, with the largest mean over draws and the mean of all; of many only some curves."""
    runs = [make(draws=8, checkpoint=f"run/checkpoint-{n}", seed=n, height=0.1 * n) for n in range(10, 0, -1)]
    picture = plot(runs, figure="steps")
    whole, near, *rest = picture.axes
    assert [axes.get_title(loc="left")[4:] for axes in rest] == ["spectral norm", "loss"]
    assert len([drawn for drawn in whole.lines if len(drawn.get_xdata()) > 1]) >= 8
    assert "curves of 8 of the 10 checkpoints" in picture.caption
    x, largest = line(near, 0)
    np.testing.assert_array_equal(x, range(1, 11))
    K = [run["time_difference"].values for run in reversed(runs)]
    np.testing.assert_allclose(largest, [values.mean(1).max() for values in K], rtol=1e-12)
    np.testing.assert_allclose(line(near, 1)[1], [values.mean() for values in K], rtol=1e-12)
    assert reach(near, 1, 4) == pytest.approx(tuple(student(K[3].mean(0))))
    unnumbered = plot([make(draws=3, checkpoint=f"run/{name}") for name in "ab"], figure="steps")
    assert unnumbered.axes[1].get_xlabel() == "checkpoint, in the order given [1]"
    with pytest.raises(UsageError, match="steps shows 2 runs or more, and there is 1"):
        plot([runs[0]], figure="steps")


def test_a_single_timestep_has_its_interval_as_a_bar_and_the_enlarged_part_holds_it(run):
    picture = plot([run(np.array([500]), draws=8)], figure="singularity")
    s = read([run(np.array([500]), draws=8)])[0].statistics("time_difference")
    for axes, x in zip(picture.axes, (501, 500), strict=True):
        bars = [path.vertices for drawn in axes.collections for path in drawn.get_paths() if len(path.vertices) == 2]
        np.testing.assert_allclose(bars, [[[x, s.q05[0]], [x, s.q95[0]]], [[x, s.low[0]], [x, s.high[0]]]])
        assert axes.get_xlim()[0] < x < axes.get_xlim()[1]
