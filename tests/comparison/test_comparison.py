"""Comparisons of synthetic runs whose difference is known, and what may be said of them."""

import json
import math
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import lipdiag
from lipdiag.comparison.comparison import compare
from lipdiag.comparison.effect import HIGHER, LOWER, NOT_SHOWN, over_draws, over_pairs, verdict
from lipdiag.comparison.quality import METRICS, Quality
from lipdiag.comparison.statements import of_samples
from lipdiag.comparison.table import table
from lipdiag.comparison.weights import interpolation
from lipdiag.errors import RunError, UsageError
from lipdiag.figures.comparison import draw
from lipdiag.quality.evaluation import FORMAT
from lipdiag.quality.evaluation import write as keep
from tests.holm import coverage
from tests.runs import EDGES, LOG_TIMES, write

TIMES = np.union1d(np.union1d(LOG_TIMES, np.arange(0.0, 110, 5)), np.array(EDGES[1:]) - 1)
ALL_QUANTITIES = ("time_difference", "time_derivative", "spectral_norm", "loss")


def statement(found, name):
    (one,) = [s for s in found.statements if s.name == name]
    return one


def lognormal(generator, shape, mean, spread):
    return mean * np.exp(spread * generator.standard_normal(shape) - spread**2 / 2)


@pytest.mark.parametrize(("n", "ratio"), [(64, 1.0), (64, 0.7), (256, 2.0)])
def test_the_intervals_cover_the_truth_as_often_as_they_say(n, ratio, seed, p_value):
    """94 to 96 of 100, over correlated log-normal draws (relative spread 0.5) of known means."""
    generator = np.random.default_rng(seed)
    common = lognormal(generator, (2000, n), 1.0, 0.4)
    a, b = (common * lognormal(generator, (2000, n), height, 0.3) for height in (1.0, ratio))
    found = over_draws(a, b)
    for interval, truth in ((found.ratio, ratio), (found.difference, ratio - 1)):
        p_value(coverage(np.sum((interval.low <= truth) & (truth <= interval.high)), 2000, 0.94, 0.96))


def test_over_training_seeds_the_intervals_cover_the_truth_too(seed, p_value):
    """2000 repetitions of five pairs whose log ratio is normal: Student's interval is exact."""
    generator = np.random.default_rng(seed)
    a = np.exp(generator.standard_normal((2000, 5)))
    b = a * 0.8 * np.exp(0.1 * generator.standard_normal((2000, 5)))
    ratio = over_pairs(a, b).ratio
    p_value(coverage(np.sum((ratio.low <= 0.8) & (ratio.high >= 0.8)), 2000, 0.95, 0.95))
    c = a + 0.3 + generator.standard_normal((2000, 5))
    difference = over_pairs(a, c).difference
    p_value(coverage(np.sum((difference.low <= 0.3) & (difference.high >= 0.3)), 2000, 0.95, 0.95))


def test_models_without_a_difference_are_called_different_once_in_twenty(seed, p_value):
    """In 4 to 6.5 of 100: the delta method and Student's t cost skewed draws a little (5.7 in 40 000 repetitions)."""
    generator = np.random.default_rng(seed)
    common = lognormal(generator, (2000, 64), 1.0, 0.5)
    a, b = (common * lognormal(generator, (2000, 64), 1.0, 0.2) for _ in range(2))
    alarms = 0
    for i in range(2000):
        alarms += verdict(over_draws(a[i], b[i]), by_ratio=True) != NOT_SHOWN
    p_value(coverage(alarms, 2000, 0.04, 0.065))


def test_pairing_removes_what_draws_share():
    """a and b = 1.1 a have a known ratio in every draw: the interval has no width, however much the draws spread."""
    a = np.random.default_rng(0).exponential(size=50)
    found = over_draws(a, 1.1 * a)
    np.testing.assert_allclose(found.ratio, 1.1, rtol=1e-12)
    assert found.difference.high - found.difference.low > 0.01


def test_an_effect_is_textbook_arithmetic():
    a, b = np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 2.0, 5.0, 9.0])
    found = over_draws(a, b)
    assert (found.count, found.a, found.b) == (3, 2, 3)
    half = 4.302652729911275 * np.std([1, 0, 2], ddof=1) / math.sqrt(3)
    np.testing.assert_allclose(found.difference, [1, 1 - half, 1 + half])
    spread = 4.302652729911275 * np.std([2 / 3 - 1 / 2, 2 / 3 - 1, 5 / 3 - 3 / 2], ddof=1) / math.sqrt(3)
    np.testing.assert_allclose(found.ratio, [1.5, 1.5 * math.exp(-spread), 1.5 * math.exp(spread)])
    pairs = over_pairs(a[:3], b[:3])
    logs = np.log([2, 1, 5 / 3])
    half = 4.302652729911275 * np.std(logs, ddof=1) / math.sqrt(3)
    np.testing.assert_allclose(pairs.ratio, np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]))


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        ([1.0, 1.1, 0.9], [1.0, 1.1, 0.9], NOT_SHOWN),
        ([1.0, 1.1, 0.9], [0.5, 0.56, 0.44], LOWER),
        ([1.0, 1.1, 0.9], [2.0, 2.3, 1.9], HIGHER),
        ([1.0, 1.1, 0.9], [0.0, 0.0, 0.0], LOWER),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], NOT_SHOWN),
        ([1.0], [0.1], NOT_SHOWN),
        ([1.0, 5.0, 9.0], [1.1, 3.0, 9.5], NOT_SHOWN),
    ],
)
def test_words_follow_the_interval(a, b, word):
    for function in (over_draws, over_pairs):
        for by_ratio in (True, False):
            assert verdict(function(np.array(a), np.array(b)), by_ratio) == word


def test_a_run_against_itself_shows_nothing(ddpm, etsdm):
    for run in (ddpm, etsdm):
        found = compare(run, run)
        assert len(found.statements) >= 7
        for s in found.statements:
            assert s.verdict == NOT_SHOWN, s.name
            assert tuple(s.effect.ratio) == (1, 1, 1), s.name
            assert tuple(s.effect.difference) == (0, 0, 0), s.name
        for effect in found.effects.values():
            moving = effect.a > 0
            assert (effect.ratio.value[moving] == 1).all()
        assert "1.00 exactly" in table(found)


def test_k_is_summed_below_the_end_and_found_at_the_edges(run):
    """All of the first 120 timesteps are measured, so that sums are sums; draws are the same in both."""
    times = np.union1d(np.arange(120.0), LOG_TIMES)
    a, b = run(times, checkpoint="a"), run(times, shared=True, checkpoint="b")
    found = compare(a, b)
    means = [dataset["time_difference"].values.mean(1) for dataset in (a, b)]
    s = statement(found, "K, sum < 100")
    np.testing.assert_allclose((s.effect.a, s.effect.b), [mean[:100].sum() for mean in means], rtol=1e-12)
    at = np.array(EDGES[1:]) - 1
    s = statement(found, "K at the 5 edges")
    np.testing.assert_allclose((s.effect.a, s.effect.b), [mean[at].mean() for mean in means], rtol=1e-12)
    assert s.verdict == HIGHER
    s = statement(found, "K, largest")
    np.testing.assert_allclose((s.effect.a, s.effect.b), [mean.max() for mean in means], rtol=1e-12)
    assert statement(found, "K, sum < 100").verdict == LOWER
    loss = statement(found, "loss < 100")
    np.testing.assert_allclose(loss.effect.a, a["loss"].values.mean(1)[:100].mean(), rtol=1e-12)


def test_weights_integrate_lines_exactly():
    timesteps = np.array([0.0, 3, 10, 50, 99])
    grid = np.arange(100)
    np.testing.assert_allclose(interpolation(timesteps, 0, 99) @ (2 * timesteps + 1), (2 * grid + 1).sum())
    np.testing.assert_allclose(interpolation(timesteps, 5, 70) @ (2 * timesteps + 1), (2 * grid[5:71] + 1).sum())


def test_draws_are_paired_by_number_and_timesteps_by_value(run):
    """A run of more draws and other timesteps is compared on what both have, and that is said."""
    a = run(TIMES, draws=64)
    b = run(np.union1d(TIMES, [333.0]), draws=96).isel(time=slice(2, None))
    found = compare(a, b)
    assert found.timesteps.min() == TIMES[2]
    assert found.replicates == "64 draws"
    assert any("timesteps that all runs have" in note for note in found.notes)
    assert any("first 64 draws" in note for note in found.notes)
    at = int(np.argmax(a["timestep"].values == 200)) if 200 in a["timestep"].values else 5
    k = a["timestep"].values[at]
    here = int(np.argmax(found.timesteps == k))
    there = int(np.argmax(b["timestep"].values == k))
    truth = b["loss"].values[there, :64].mean() - a["loss"].values[at].mean()
    np.testing.assert_allclose(found.effects["loss"].difference.value[here], truth)


def test_draws_that_one_run_lacks_are_left_out(ddpm, etsdm):
    done = etsdm["done"].copy(deep=True)
    done.values[:, 40:] = 0
    found = compare(ddpm, etsdm.assign(done=done))
    assert found.replicates == "40 draws"
    truth = etsdm["loss"].values[0, :40].mean() - ddpm["loss"].values[0, :40].mean()
    np.testing.assert_allclose(found.effects["loss"].difference.value[0], truth)


def seeds(run, shared, number):
    """Further trainings: other heights, other draws."""
    return [
        run(TIMES, shared=shared, height=0.11 * (1 + 0.1 * i), seed=10 * i, checkpoint=f"m{i}") for i in range(number)
    ]


def test_with_several_pairs_the_trainings_are_the_replicates(run):
    a, b = seeds(run, False, 3), seeds(run, True, 3)
    found = compare(a[0], b[0], list(zip(a[1:], b[1:], strict=True)))
    assert found.replicates == "3 training seeds"
    losses = np.array([[dataset["loss"].values[7].mean() for dataset in side] for side in (a, b)])
    difference = losses[1] - losses[0]
    effect = found.effects["loss"]
    np.testing.assert_allclose(effect.difference.value[7], difference.mean(), atol=1e-15)
    k = np.array([[d["time_difference"].values[-1].mean() for d in side] for side in (a, b)])
    logs = np.log(k[1] / k[0])
    np.testing.assert_allclose(found.effects["time_difference"].ratio.value[-1], np.exp(logs.mean()))
    assert (found.effects["time_difference"].count == 3).all()
    assert "training seeds" in table(found)
    assert str(found) == repr(found) == table(found)
    frame = found.to_dataframe()
    shown = frame[frame["statement"] == statement(found, "K, largest").name]
    assert shown["ratio"].item() == statement(found, "K, largest").effect.ratio.value
    page = found._repr_html_()
    assert all(f"<td>{s.verdict}</td>" in page for s in found.statements)
    assert json.loads(found.to_json())["models"] == list(found.labels)
    assert "range of training seeds" in [text.get_text() for text in draw(found).legends[0].get_texts()]


@pytest.mark.parametrize(("wider", "whole"), [(4, True), (1000, False)])
def test_intervals_of_jumps_are_drawn_whole_unless_they_are_endless(ddpm, etsdm, wider, whole):
    found = compare(ddpm, etsdm)
    effect = found.effects["time_difference"]
    ratio = effect.ratio._replace(high=wider * effect.ratio.high)
    picture = draw(replace(found, effects=found.effects | {"time_difference": replace(effect, ratio=ratio)}))
    assert (picture.axes[1].get_ylim()[1] > ratio.high[found.pairs[0][1].jumps].max()) is np.bool_(whole)


def test_a_mean_a_draw_gives_the_same_as_the_draws_when_trainings_are_the_replicates(run):
    """So that a study can be kept as one number a timestep and training."""
    a, b = seeds(run, False, 3), seeds(run, True, 3)

    def small(dataset):
        return dataset.mean("draw", keep_attrs=True).expand_dims(draw=[0], axis=1)

    small_a, small_b = ([small(dataset) for dataset in side] for side in (a, b))
    whole, kept = (compare(x[0], y[0], list(zip(x[1:], y[1:], strict=True))) for x, y in ((a, b), (small_a, small_b)))
    for s, t in zip(whole.statements, kept.statements, strict=True):
        assert (s.name, s.verdict) == (t.name, t.verdict)
        np.testing.assert_allclose(tuple(s.effect.difference), tuple(t.effect.difference), rtol=1e-9, err_msg=s.name)


def changed(dataset, part, **fields):
    frozen = {**dataset.attrs["frozen"], part: {**dataset.attrs["frozen"][part], **fields}}
    return dataset.assign_attrs(frozen=frozen)


@pytest.mark.parametrize(
    ("part", "fields", "words"),
    [
        ("data", {"name": "faces"}, "their data differ"),
        ("plan", {"seed": 1}, "their seed differ"),
        ("plan", {"step": 2.0}, "their step differ"),
        ("model", {"shape": [3, 8, 8]}, "their shape differ"),
        ("model", {"clock": "unit()"}, "count time differently"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused(ddpm, etsdm, part, fields, words):
    with pytest.raises(RunError, match=words) as refused:
        compare(ddpm, changed(etsdm, part, **fields))
    assert refused.value.exit_code == 4


def test_runs_without_a_common_timestep_are_refused(run):
    with pytest.raises(RunError, match="no timestep in common"):
        compare(run(np.array([0.0, 2, 4])), run(np.array([1.0, 3])))


def test_pairs_that_are_no_further_seeds_are_refused(ddpm, etsdm):
    same = [changed(dataset, "model", weights_sha256="1") for dataset in (ddpm, etsdm)]
    with pytest.raises(RunError, match="same model"):
        compare(*same, [tuple(same)])
    other = changed(etsdm, "model", clock="shared(timesteps(1000), 100, 10)")
    with pytest.raises(RunError, match="different blocks"):
        compare(ddpm, etsdm, [(ddpm, other)])


def test_another_schedule_is_said(ddpm, etsdm):
    found = compare(ddpm, changed(etsdm, "model", schedule="cosine()"))
    assert any("another noise level" in note for note in found.notes)


def test_what_was_not_measured_is_said_with_what_would_add_it(run, ddpm):
    found = compare(run(quantities=("loss",)), run(quantities=("loss",)))
    text = " ".join(table(found).split())
    assert "Missing: no time_difference, no sensitivity: `lipdiag measure CKPT --quantity time_difference" in text
    assert "Missing: no sample quality: `lipdiag evaluate CKPT" in text
    assert "K" not in {s.name[0] for s in found.statements}
    holes = np.array([0.0, 10, 19, 30, 99, 200, 999])
    found = compare(run(holes), run(holes, shared=True))
    assert any("jumps at 39,59,79 were not measured" in sentence for sentence in found.missing)
    assert statement(found, "K at 2 of 5 edges")
    assert not [s for s in found.statements if "sum" in s.name or "largest" in s.name]
    assert any("no largest K" in sentence for sentence in found.missing)


def test_the_largest_k_of_blocks_in_continuous_time_needs_their_edges_too(etsdm):
    """The clock is no index: what was measured across is seen from the pairs of times alone."""
    clock = "shared(unit(), edges=(0, 0.1, 0.2))"
    for times, known in (([0.05, 0.15, 0.5], False), ([0.05, 0.0996, 0.1996, 0.5], True)):
        a = etsdm.isel(time=slice(len(times)), draw=slice(3)).assign_coords(timestep=("time", times), t=("time", times))
        a = a.assign_coords(dt_dtimestep=("time", np.ones(len(times))))
        a.attrs = {"frozen": {**a.attrs["frozen"], "model": {"clock": clock, "shape": [2]}}}
        found = compare(a, a)
        assert ("K, largest" in {s.name for s in found.statements}) == known
        assert any("jumps were not all measured" in sentence for sentence in found.missing) != known


def test_numbers_that_are_none_are_counted(ddpm, etsdm):
    broken = etsdm.copy(deep=True)
    broken["loss"].values[3, 5] = np.nan
    found = compare(ddpm, broken)
    assert "1 values are not finite and were left out" in found.notes
    assert found.effects["loss"].count[3] == 63


def evaluation(fid, checkpoint="digits-ddpm", samplers=("ddim:20", "dpm:20"), **attributes):
    fid = np.asarray(fid, dtype=float)
    fields = {
        "fid": fid,
        "kid": fid / 100,
        "kid_standard_error": 0 * fid + 0.01,
        "nearest_ratio": fid,
        "copies": 0 * fid,
        "seconds": 1 + 0 * fid,
    }
    about = {
        "format_version": FORMAT,
        "extractor": "digits",
        "n": 1000,
        "n_real": 898,
        "floor_fid": 2.0,
        "floor_kid": 0.01,
    } | attributes
    return xr.Dataset(
        {name: (("sampler", "seed"), value) for name, value in fields.items()},
        {"sampler": np.array(samplers, dtype=object), "seed": np.arange(fid.shape[1])},
        {"format_version": FORMAT, "checkpoint": checkpoint, **about},
    )


FID_A, FID_B = np.array([[5.0, 7, 6], [3.0, 3.2, 3.4]]), np.array([[4.0, 6.1, 4.9], [3.1, 3.1, 3.5]])


def test_quality_is_paired_by_seed(ddpm, etsdm):
    """Means differ by less than seeds do; paired, the first sampler's difference shows and the second's does not."""
    found = compare(ddpm, etsdm, quality=[(evaluation(FID_A), evaluation(FID_B, "somewhere/digits-etsdm"))])
    s = statement(found, "FID ddim:20")
    half = 4.302652729911275 * np.std(FID_B[0] - FID_A[0], ddof=1) / math.sqrt(3)
    np.testing.assert_allclose(s.effect.difference, [-1, -1 - half, -1 + half])
    assert s.verdict == LOWER
    assert statement(found, "FID dpm:20").verdict == NOT_SHOWN
    text = " ".join(table(found).split())
    assert "sample quality over 3 sampling seeds" in text
    assert "real data against real data: FID 2.00, KID 0.0100" in text
    assert "no sample quality" not in text
    assert {"FID, etsdm minus ddpm", "loss, etsdm minus ddpm"} <= {
        title.split(") ")[1] for title in titles(draw(found))
    }


def titles(picture):
    return [axes.get_title("left") or axes.get_title() for axes in picture.axes]


def test_quality_of_several_trainings_is_paired_by_training(run):
    a, b = seeds(run, False, 2), seeds(run, True, 2)
    judged = [(evaluation(FID_A + i, f"m{i}"), evaluation(FID_B + 2 * i, f"m{i}")) for i in range(2)]
    found = compare(a[0], b[0], [(a[1], b[1])], judged)
    gaps = [(FID_B + 2 * i - FID_A - i)[0].mean() for i in range(2)]
    np.testing.assert_allclose(statement(found, "FID ddim:20").effect.difference.value, np.mean(gaps))
    assert statement(found, "FID ddim:20").effect.count == 2


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (evaluation(FID_B, "digits-etsdm", extractor="inception"), "different extractor"),
        (evaluation(FID_B, "digits-etsdm", n=10), "different n "),
        (evaluation(FID_B, "digits-etsdm", samplers=("a:1", "b:2")), "no sampler in common"),
        (evaluation(FID_B, "digits-ddpm"), "where one of digits-etsdm belongs"),
        (xr.Dataset(), "no evaluation"),
    ],
)
def test_evaluations_that_do_not_compare_are_refused(ddpm, etsdm, other, words):
    with pytest.raises(RunError, match=words):
        compare(ddpm, etsdm, quality=[(evaluation(FID_A), other)])


def test_there_is_an_evaluation_for_each_pair(ddpm, etsdm):
    judged = (evaluation(FID_A), evaluation(FID_B, "digits-etsdm"))
    with pytest.raises(UsageError, match="1 pairs of runs and 2 of evaluations"):
        compare(ddpm, etsdm, quality=[judged, judged])


def test_json_is_strict(ddpm, etsdm, run):
    judged = [(evaluation(FID_A), evaluation(FID_B, "digits-etsdm"))]
    for found in (compare(ddpm, etsdm, quality=judged), compare(run(draws=1), run(draws=1, shared=True))):
        text = json.dumps(found.to_dict(), allow_nan=False)
        back = json.loads(text)
        assert back["format"] == "lipdiag-comparison/1"
        assert {s["verdict"] for s in back["statements"]} <= {LOWER, HIGHER, NOT_SHOWN}
        assert len(back["curves"]["loss"]["ratio"]) == len(back["timesteps"])


def test_an_interval_that_is_almost_a_point_shows_how_wide_it_is(ddpm):
    """Another micro-batch of the same model: ends that all read as 1 would say nothing."""
    again = ddpm.assign(time_difference=ddpm["time_difference"] * (1 + 1e-7 * np.sin(np.arange(ddpm.sizes["draw"]))))
    found = compare(ddpm, again)
    text = table(found)
    ratio = statement(found, "K, largest").effect.ratio
    assert f"x 1.0000 +- {(ratio.high - ratio.low) / 2:.0e}".replace("e-0", "e-") in text
    assert "[1e+0" not in text
    assert "ddpm (2)" in text


def test_lines_fit_a_terminal(ddpm, etsdm, run):
    judged = [(evaluation(FID_A), evaluation(FID_B, "digits-etsdm"))]
    sensitive = [dataset.assign(sensitivity=dataset["loss"]) for dataset in (ddpm, etsdm)]
    named = [
        dataset.assign_attrs(checkpoint=name)
        for dataset, name in zip(sensitive, ("long-" * 8, "name-" * 8), strict=True)
    ]
    cut = [dataset.isel(time=slice(3, -3)) for dataset in sensitive]
    for found in (
        compare(*sensitive, quality=judged),
        compare(*named),
        compare(*cut),
        compare(run(draws=1), run(draws=1)),
    ):
        text = table(found)
        assert max(map(len, text.splitlines())) <= 80, text
        assert text.isascii()
        assert len(re.findall(r"(lower|higher|no difference shown)$", text, re.MULTILINE)) == len(found.statements)


def test_models_of_continuous_time_are_compared_too(run):
    """K = 1 and 2 everywhere, on a time axis without integers: ratios are 2, sums are not told."""
    t = np.geomspace(1e-3, 0.999, 12)
    coordinates = dict.fromkeys(("timestep", "t", "alpha", "sigma", "dlogsnr_dtimestep"), ("time", t))
    coordinates |= {"logsnr": ("time", -np.log(t)), "dt_dtimestep": ("time", np.ones(12)), "draw": np.arange(3)}
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal((12, 3))
    frozen = {"model": {"clock": "unit()", "shape": [2]}, "data": {"name": "ones"}, "plan": {}}
    pair = [
        xr.Dataset(
            dict.fromkeys(("time_difference", "loss"), (("time", "draw"), height * noise))
            | {"done": (("time", "draw"), np.ones((12, 3), "int8"))},
            coordinates,
            {"frozen": frozen},
        )
        for height in (1.0, 2.0)
    ]
    found = compare(*pair)
    assert [s.name for s in found.statements] == [
        "K t < 0.1", "K t >= 0.1", "K, largest", "loss t < 0.1", "loss t >= 0.1",
    ]  # fmt: skip
    for s in found.statements:
        assert s.effect.ratio.value == pytest.approx(2, rel=1e-12)
        assert "sum" not in s.name
    assert draw(found).rows


def test_the_figure_holds_the_numbers(ddpm, etsdm):
    picture = lipdiag.plot([ddpm, etsdm], figure="compare", labels=("DDPM", "E-TSDM"))
    row = next(row for row in picture.rows if row["variable"] == "loss")
    truth = etsdm["loss"].values[0].mean() - ddpm["loss"].values[0].mean()
    assert row["difference"] == pytest.approx(truth)
    assert "E-TSDM (second) against DDPM (first)" in picture.caption
    assert [title[:3] for title in titles(picture)] == ["(a)", "(b)", "(c)"]
    with pytest.raises(UsageError, match="two a pair"):
        lipdiag.plot([ddpm, etsdm, ddpm], figure="compare")


def test_the_figure_is_the_same_every_time(ddpm, etsdm):
    first, second = (draw(compare(ddpm, etsdm)).contents(".svg") for _ in range(2))
    assert first == second


@pytest.mark.parametrize("style", ["icml", "slides"])
def test_every_style_draws_it_without_a_warning(ddpm, etsdm, style):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw(compare(ddpm, etsdm), style).contents(".png")


def test_paths_are_read(tmp_path, ddpm, etsdm):
    a, b = write(ddpm, tmp_path / "a.zarr"), write(etsdm, tmp_path / "b.zarr")
    keep(evaluation(FID_A), tmp_path / "qa.zarr")
    keep(evaluation(FID_B, "digits-etsdm"), tmp_path / "qb.zarr")
    found = lipdiag.compare(a, str(b), quality=[(tmp_path / "qa.zarr", tmp_path / "qb.zarr")])
    assert (
        found.to_dict()["statements"]
        == compare(ddpm, etsdm, quality=[(evaluation(FID_A), evaluation(FID_B, "digits-etsdm"))]).to_dict()[
            "statements"
        ]
    )
    with pytest.raises(RunError, match="there is no evaluation"):
        compare(a, b, quality=[(tmp_path / "none.zarr", tmp_path / "qb.zarr")])


def test_over_three_sampling_seeds_the_difference_of_a_distance_is_covered(seed, p_value):
    """800 repetitions of three normal differences, for which Student's interval is exact."""
    generator = np.random.default_rng(seed)
    fid = 5 + generator.standard_normal((800, 2, 3))
    fid[:, 1] += 0.7 + fid[:, 0]  # what a seed's first noise brings both models; it is no part of their difference
    found = Quality(tuple(map(str, range(800))), dict.fromkeys(METRICS, fid.transpose(1, 0, 2)[None]), "", {})
    effects = [s.effect.difference for s in of_samples(found)[:800]]
    covered = sum(bool(low <= 5.7 <= high) for _, low, high in effects)
    p_value(coverage(covered, 800, 0.95, 0.95))


def test_trainings_are_averaged_over_the_draws_that_both_models_have(run):
    a, b = seeds(run, False, 2), seeds(run, True, 2)
    b[0]["loss"].values[3, :50] = np.nan
    found = compare(a[0], b[0], [(a[1], b[1])]).effects["loss"]
    means = [[d["loss"].values[3, 50:] if i == 0 else d["loss"].values[3] for i, d in enumerate(s)] for s in (a, b)]
    truth = [np.mean([values.mean() for values in side]) for side in means]
    np.testing.assert_allclose([found.a[3], found.b[3]], truth, rtol=1e-12)
