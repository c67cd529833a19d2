"""Text for a terminal: never wider than it, with the dataset's own numbers."""

import re

import numpy as np
import pytest

from lipdiag.errors import UsageError
from lipdiag.pages.tables import table
from lipdiag.printing import abbreviated, plain, with_half_width
from tests.runs import EDGES, LOG_TIMES


def line_of(text: str, timestep: int) -> str:
    """The row of a timestep."""
    (line,) = [line for line in text.splitlines() if re.match(rf" *{timestep}[ *]", line)]
    return line


@pytest.mark.parametrize("labels", [None, ["a", "b" * 70], ["some/long/folder/first", "some/long/folder/second"]])
def test_lines_fit_a_terminal(ddpm, etsdm, labels):
    extra = ddpm.assign({f"quantity_{i}": ddpm["loss"] for i in range(4)})
    for text in (table([ddpm, etsdm], labels), table([extra]), table([etsdm]), table([ddpm, etsdm] * 3)):
        assert max(map(len, text.splitlines())) <= 80
        assert text.isascii()
    assert "Not shown: quantity_" in table([extra])


def test_cells_are_the_datasets_means_and_intervals(ddpm):
    text = table([ddpm])
    values = ddpm["time_difference"].values[0]
    half = 1.998 * values.std(ddof=1) / 8  # Student's 97.5 % point for 63 degrees of freedom
    assert f"{values.mean():.3f} +- {half:.3f}" in line_of(text, 0)
    lower, upper = (ddpm[name].values[0] for name in ("spectral_norm", "spectral_norm_upper"))
    half = (upper - lower).mean() / 2 + 1.998 * max(lower.std(ddof=1), upper.std(ddof=1)) / 8
    assert f"{(lower + upper).mean() / 2:.3f} +- {half:.3f}" in line_of(text, 0)
    assert line_of(text, 0).endswith(f"{ddpm['loss'].values[0].mean():.3f}")
    assert "64 draws of digits" in text


def test_rows_hold_the_first_timesteps_and_the_jumps(etsdm):
    shown = [int(k) for k in re.findall(r"^ *(\d+)[ *] ", table([etsdm]), re.MULTILINE)]
    assert shown[:5] == [0, 1, 2, 5, 10]
    assert {edge - 1 for edge in EDGES[1:]} <= set(shown)
    assert shown[-1] == 999
    assert len(shown) <= 17
    assert line_of(table([etsdm]), 19).startswith("     19* ")
    assert "exactly 0" in line_of(table([etsdm]), 10)


def test_two_runs_stand_side_by_side_with_their_ratio(ddpm, etsdm):
    text = table([ddpm, etsdm])
    at = int(np.argmax(ddpm["timestep"].values == 19))
    ratio = etsdm["time_difference"].values[at].mean() / ddpm["time_difference"].values[at].mean()
    assert f" {plain(ratio)} " in line_of(text, 19)
    assert re.search(r"exactly 0 +0 ", line_of(text, 5))


def test_words_are_the_peak_the_jumps_and_what_moved(run):
    """All of the first 100 timesteps are measured, so that the sums are sums."""
    times = np.union1d(np.arange(120.0), LOG_TIMES)
    a, b = run(times, checkpoint="a"), run(times, shared=True, checkpoint="b", seed=1)
    text = " ".join(table([a, b]).split())
    means, shared = (dataset["time_difference"].values.mean(1) for dataset in (a, b))
    assert f"a: K peaks at timestep 0 with {means[0]:.3f}" in text
    assert re.search(rf"{plain(means[0] / means[100])} \[[\d.]+, [\d.]+\] times its value at timestep 100", text)
    assert "exactly 0 inside its 5 blocks below timestep 100, by construction (95 of 95 measured timesteps)" in text
    assert f"at 19, 39, 59, 79, 99, by {', '.join(plain(shared[k - 1]) for k in EDGES[1:])}." in text
    before, after = means[:100].sum(), shared[:100].sum()
    assert f"K is {plain(before)} in a and {plain(after)} in b: {after / before:.0%}, all of it in the jumps" in text
    assert f"Mean over the timesteps below 100: {plain(after / 100)}; largest: {plain(shared.max())}" in text
    assert f"The largest jump is {plain(shared.max() / means.max())} times the peak of a" in text


def test_all_quantities_have_their_interval_and_unit_or_are_said_to_be_left_out(run):
    one = run(quantities=("loss",))
    values = one["loss"].values
    one = one.assign(sensitivity=one["loss"].assign_attrs(units="1/timestep"))
    one["singular_values"] = (("time", "draw", "rank"), values[..., None])
    text = table([one])
    assert with_half_width(values[0].mean(), 1.998 * values[0].std(ddof=1) / 8) in line_of(text, 0)
    assert re.search(r"sensitivity\n +1/timestep", text)
    assert "Not shown: singular_values." in text
    text = table([one[["singular_values", "done"]]])
    assert "Not shown: singular_values." in text
    assert "+-" not in text


def test_of_jumps_that_were_not_all_measured_none_is_the_largest(run):
    times = np.array([0.0, 10, 19, 100, 500])
    text = " ".join(table([run(times, checkpoint="a"), run(times, shared=True, checkpoint="b")]).split())
    assert "Its jumps at 39, 59, 79, 99 were not measured" in text
    assert "The largest jump" not in text


def test_values_inside_blocks_that_are_not_zero_are_told(run):
    dataset = run(np.arange(120.0), shared=True).copy(deep=True)
    dataset["time_difference"].values[7] = 1e-6
    text = " ".join(table([dataset]).split())
    assert "(94 of 95 measured timesteps). It is not 0 at 1 timesteps inside blocks (at most 1.00e-6)" in text
    assert "Mean over" not in text


def test_jumps_that_were_not_measured_are_told(run):
    text = " ".join(table([run(np.array([0.0, 10, 19, 30, 200, 999]), shared=True)]).split())
    assert "Its jumps at 39, 59, 79, 99 were not measured." in text
    assert "Mean over" not in text


def test_one_quantity_is_enough(run):
    text = table([run(quantities=("loss",))])
    assert "loss" in text
    assert "K(t" not in text
    with pytest.raises(UsageError, match="measure it with `lipdiag measure"):
        table([run(quantities=("loss",)), run()])
    with pytest.raises(UsageError, match="no run to show"):
        table([])


def test_unfinished_runs_say_how_many_draws_each_timestep_has(ddpm):
    done = ddpm["done"].copy(deep=True)
    done.values[10:, 32:] = 0
    done.values[20] = 0
    text = table([ddpm.assign(done=done)])
    assert "0 to 64 draws" in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.2123, 0.0113, "0.212 +- 0.011"),
        (0.0, 0.0, "exactly 0"),
        (1234.5, 12.3, "1234 +- 12"),
        (1.991e-3, 5.4e-5, "1.99e-3 +- 5e-5"),
        (2.5e7, 3e5, "2.50e+7 +- 3e+5"),
        (0.5, np.inf, "0.500"),
        (np.nan, np.nan, "-"),
    ],
)
def test_numbers_have_the_digits_they_deserve(mean, half, text):
    assert with_half_width(mean, half) == text


def test_plain_numbers():
    assert [plain(x) for x in (0, 1, 0.012345, 123456.0, 99999.0, 1e-5, -2.5)] == [
        "0", "1.00", "0.0123", "1.23e+5", "99999", "1.00e-5", "-2.50",
    ]  # fmt: skip


def test_common_beginnings_are_left_out():
    assert abbreviated(["digits-ddpm", "digits-etsdm"]) == ["ddpm", "etsdm"]
    assert abbreviated(["runs/a", "runs/b"]) == ["a", "b"]
    assert abbreviated(["left", "lean"]) == ["left", "lean"]
    assert abbreviated(["x-", "x-"]) == ["x-", "x-"]
