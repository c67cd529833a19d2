"""The picture against its data: what is drawn is what numpy and scipy find in the dataset, nothing else."""

import copy
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from scipy import stats

from lipdiag.errors import UsageError
from lipdiag.figures import STYLES, plot
from lipdiag.figures.style import applied, colour
from tests.runs import EDGES, linear_table

DIFFERENT = {look: name for name, look in STYLES.items()}.values()
"""Presets without those that equal another."""

BLOCK_ENDS = np.array(EDGES[1:]) - 1


@pytest.fixture(scope="module")
def pair(ddpm, etsdm):
    return plot([ddpm, etsdm])


def drawn(axes, number: int, hollow: bool, joined: bool) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a run's line, of its jumps (not joined), or of its exact zeros (hollow)."""
    for line in axes.lines:
        edges = {line.get_color(), line.get_markerfacecolor()}
        kind = (line.get_markerfacecolor() == "white", line.get_linestyle() != "None")
        if colour(number) in edges and kind == (hollow, joined):
            x, y = line.get_data()
            return np.asarray(x)[np.isfinite(y)], np.asarray(y)[np.isfinite(y)]
    raise AssertionError("no such line")


@pytest.mark.parametrize("panel", [0, 1])
def test_line_is_the_mean_over_draws(pair, ddpm, panel):
    x, y = drawn(pair.axes[panel], 0, hollow=False, joined=True)
    np.testing.assert_array_equal(x, ddpm["timestep"].values + (1 - panel))
    np.testing.assert_allclose(y, ddpm["time_difference"].values.mean(1), rtol=1e-12)


@pytest.mark.parametrize("panel", [0, 1])
def test_jumps_are_drawn_where_the_blocks_end(pair, etsdm, panel):
    x, y = drawn(pair.axes[panel], 1, hollow=False, joined=False)
    np.testing.assert_array_equal(x, BLOCK_ENDS + (1 - panel))
    np.testing.assert_allclose(
        y, etsdm["time_difference"].sel(time=np.isin(etsdm["timestep"], BLOCK_ENDS)).mean("draw")
    )


def test_exact_zeros_lie_at_zero_on_the_linear_scale_and_below_all_else_on_the_logarithmic_one(pair, etsdm):
    k = etsdm["timestep"].values
    inside = k[(k < 100) & ~np.isin(k, BLOCK_ENDS)]
    x, y = drawn(pair.axes[1], 1, hollow=True, joined=True)
    np.testing.assert_array_equal(x, inside)
    assert not y.any()
    x, y = drawn(pair.axes[0], 1, hollow=True, joined=True)
    np.testing.assert_array_equal(x, inside + 1)
    ticks = dict(zip(pair.axes[0].get_yticks(), (t.get_text() for t in pair.axes[0].get_yticklabels()), strict=True))
    assert ticks[y[0]] == "0"
    seen = [np.asarray(line.get_ydata(), dtype=float) for line in pair.axes[0].lines]
    positive = [values[np.isfinite(values) & (values != y[0])] for values in seen]
    assert y[0] < min(values.min() for values in positive if values.size)


def test_bands_are_students_interval_and_the_quantiles(ddpm):
    axes = plot(ddpm).axes[1]
    light, dark = (collection.get_paths()[0].vertices for collection in axes.collections[:2])
    values = ddpm["time_difference"].values
    interval = stats.t.interval(0.95, values.shape[1] - 1, values.mean(1), stats.sem(values, axis=1))
    for polygon, (low, high) in ((dark, interval), (light, np.quantile(values, [0.05, 0.95], axis=1))):
        for i in (0, 5, 30):
            at = polygon[polygon[:, 0] == ddpm["timestep"].values[i], 1]
            assert at.min() == pytest.approx(low[i])
            assert at.max() == pytest.approx(high[i])


def test_theory_between_a_few_measured_timesteps_is_no_straight_line(run):
    """At timestep 50 between 10 and 100 it has its own value there."""
    _, sigma = linear_table()
    picture = plot(run(np.array([0.0, 1, 10, 100, 500, 900])))
    for axes in picture.axes[:2]:
        x, y = next(line.get_data() for line in axes.lines if line.get_color() == "0.25")
        k = 50 + (axes.get_xscale() == "log")
        assert np.interp(k, x, y) == pytest.approx(8 * (1 - sigma[50] / sigma[51]), rel=0.05)


def test_theory_lines_are_the_schedules_own(pair, ddpm):
    _, sigma = linear_table()
    k = ddpm["timestep"].values.astype(int)[:-1]
    dashed, dotted = (line.get_data() for line in pair.axes[1].lines if line.get_color() == "0.25")
    measured = np.isin(dashed[0].round(6), ddpm["timestep"].values)
    assert measured.sum() == ddpm.sizes["time"]
    dashed, dotted = ([part[measured] for part in line] for line in (dashed, dotted))
    np.testing.assert_allclose(dashed[1][:-1], 8 * (1 - sigma[k] / sigma[k + 1]), rtol=1e-3)
    rise = dotted[1][:-1] / (sigma[k + 1] - sigma[k])
    np.testing.assert_allclose(rise, rise[0], rtol=3e-3)
    mean = ddpm["time_difference"].values.mean(1)
    anchor = np.argmax(ddpm["t"].values > 0.1)
    assert dotted[1][anchor] == pytest.approx(mean[anchor])


def test_rows_hold_all_that_is_drawn(pair, ddpm, etsdm):
    rows = [row for row in pair.rows if row["series"] == "digits-etsdm"]
    assert [row["timestep"] for row in rows] == etsdm["timestep"].values.tolist()
    assert [row["timestep"] for row in rows if row["kind"] == "jump between blocks"] == BLOCK_ENDS.tolist()
    assert {row["mean"] for row in rows if row["kind"] == "exactly zero"} == {0.0}
    first = next(row for row in pair.rows if row["series"] == "digits-ddpm")
    values = ddpm["time_difference"].values[0]
    assert first["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert first["q95"] == pytest.approx(np.quantile(values, 0.95), rel=1e-12)
    assert first["draws"] == 64


def test_the_derivative_of_a_shared_model_has_no_jumps(ddpm, etsdm):
    picture = plot([ddpm, etsdm], variable="time_derivative")
    assert {row["kind"] for row in picture.rows} == {"curve", "exactly zero", "theory"}
    assert "interpolation" in picture.caption
    assert "jumps from" not in picture.caption


def test_caption_says_draws_norm_unit_data_and_what_is_by_construction(pair):
    for words in (
        "n = 64 draws of digits",
        "95 % interval",
        "Euclidean norm",
        "1/timestep",
        "exactly 0 by construction",
    ):
        assert words in pair.caption
    assert "theory of the training target, not of the network" in pair.caption


def test_caption_names_jumps_that_were_not_measured(run):
    picture = plot(run(np.array([0.0, 5, 19, 39, 120, 500, 999]), shared=True))
    assert "jumps at timesteps 59, 79, 99" in picture.caption


@pytest.mark.parametrize("style", DIFFERENT)
def test_width_is_exact_and_nothing_overlaps_or_is_cut(ddpm, etsdm, style):
    picture = plot([ddpm, etsdm], style=style, labels=["a DDPM", "the same with shared timesteps"])
    assert picture.get_size_inches()[0] == STYLES[style].width
    picture.canvas.draw()
    with applied(STYLES[style]):
        assert_apart(picture)


def assert_apart(picture) -> None:
    whole, legend = picture.bbox, picture.legends[0].get_window_extent()
    boxes = [axes.get_tightbbox() for axes in picture.axes]
    for box in (legend, *boxes):
        assert box.x0 >= -0.5
        assert box.y0 >= -0.5
        assert box.x1 <= whole.x1 + 0.5
        assert box.y1 <= whole.y1 + 0.5
    assert not any(legend.overlaps(box) for box in boxes)
    assert not boxes[0].overlaps(boxes[1])
    for axes in picture.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
            shown = [box for box in labels if box.overlaps(axes.get_tightbbox())]
            assert not any(a.overlaps(b) for i, a in enumerate(shown) for b in shown[:i])


@pytest.mark.parametrize("style", [name for name in DIFFERENT if name != "slides"])
def test_text_is_readable_at_print_size(ddpm, style):
    picture = plot(ddpm, style=style)
    sizes = {text.get_fontsize() for text in picture.findobj(matplotlib.text.Text) if text.get_text()}
    assert sizes <= {7.0, 8.0, 9.0}


@pytest.mark.parametrize("variable", ["time_difference", "time_derivative"])
def test_every_axis_has_a_label_with_its_unit(ddpm, variable):
    for axes in plot(ddpm, variable=variable).axes:
        assert "timestep" in axes.get_xlabel()
        assert axes.get_ylabel().endswith("[1/timestep]")


def test_same_data_same_bytes_whatever_the_user_set(ddpm, etsdm):
    files = [".pdf", ".svg", ".png"]
    picture = plot([ddpm, etsdm])
    first = [picture.contents(suffix) for suffix in files]
    with matplotlib.rc_context(
        {
            "font.size": 20,
            "axes.grid": True,
            "savefig.bbox": "tight",
            "pdf.fonttype": 3,
            "svg.fonttype": "none",
            "axes.prop_cycle": matplotlib.cycler("color", ["red", "green"]),
            "axes.unicode_minus": False,
            "figure.facecolor": "yellow",
        }
    ):
        again = plot([ddpm, etsdm])
        assert [again.contents(suffix) for suffix in files] == first


@pytest.mark.parametrize("others", [0, 1])
def test_fonts_are_those_of_matplotlib_whatever_its_list_on_this_machine_holds(others, tmp_path):
    """A list that lacks the fonts, and one where others of the same name stand; in a process of its own."""
    names = ["STIXGeneral", "DejaVu Sans"]
    manager = copy.copy(font_manager.fontManager)
    rest = [entry for entry in manager.ttflist if entry.name not in names]
    mono = next(entry for entry in rest if entry.name == "DejaVu Sans Mono")
    manager.ttflist = [dataclasses.replace(mono, name=name) for name in names * others] + rest
    font_manager.json_dump(manager, tmp_path / f"fontlist-v{manager.__version__}.json")
    program = "import sys\nfrom lipdiag.figures.backend import matplotlib\n"
    program += "print(*map(matplotlib.font_manager.findfont, sys.argv[1:]), sep='\\n')"
    environment = os.environ | {"MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, env=environment)
    assert list(map(Path, done.stdout.splitlines())) == [
        Path(matplotlib.get_data_path()).resolve() / f"fonts/ttf/{name.replace(' ', '')}.ttf" for name in names
    ], done


def test_settings_of_the_user_are_left_alone(ddpm):
    before = dict(matplotlib.rcParams)
    plot(ddpm).contents(".png")
    assert dict(matplotlib.rcParams) == before


def test_pdf_has_the_exact_width_truetype_fonts_and_no_date(ddpm):
    content = plot(ddpm, style="cvpr-wide").contents(".pdf")
    (width,) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+)", content)
    assert float(width) == pytest.approx(72 * 6.875, abs=0.01)
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert b"CreationDate" not in content


def test_drawing_needs_neither_torch_nor_pyplot_nor_the_backend_of_a_notebook_that_started_it():
    """Found in a process of its own: here the tests have imported both."""
    program = """
import os, sys, warnings
warnings.simplefilter("error")
from tests.runs import make
from lipdiag.pages.tables import table
run = make(shared=True)
table([run])
assert "matplotlib" not in sys.modules
from lipdiag.figures import plot
plot(run).contents(".png")
print(sorted({"torch", "matplotlib.pyplot", "lipdiag.diffusion"} & set(sys.modules)), os.environ["MPLBACKEND"])
import matplotlib
print(dict.__getitem__(matplotlib.rcParams, "backend"))
"""
    for named, kept in {"nowhere_at_hand": "agg", "svg": "svg"}.items():
        elsewhere = os.environ | {"MPLBACKEND": named}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=elsewhere)
        first, second = done.stdout.splitlines() or [done.stderr, ""]
        assert first == f"[] {named}"
        assert second == kept or named != "svg"  # what can be had is kept for who plots in this process later


def test_few_draws_and_missing_ones_are_drawn_as_they_are(ddpm, run):
    alone = plot(ddpm.isel(draw=slice(0, 1)))
    assert "95 % interval" not in " ".join(text.get_text() for text in alone.legends[0].get_texts())
    assert "n = 1 draw of" in alone.caption
    dataset = run().copy(deep=True)
    dataset["done"].values[3:, 10:] = 0
    dataset["time_difference"].values[3:, 10:] = np.nan
    dataset["done"].values[5] = 0
    picture = plot(dataset)
    assert "n = 10 to 64 draws" in picture.caption
    _, y = drawn(picture.axes[1], 0, hollow=False, joined=True)
    assert y.size == dataset.sizes["time"] - 1


def test_a_model_that_ignores_time_is_all_zeros(run):
    dataset = run() * 1.0
    dataset.attrs = run().attrs
    dataset["time_difference"] = dataset["time_difference"] * 0
    picture = plot(dataset)
    assert {row["kind"] for row in picture.rows} == {"exactly zero", "theory"}


def test_errors_say_what_is_missing_and_how_to_measure_it(ddpm, etsdm, run):
    with pytest.raises(UsageError, match="no run to show; give at least one dataset"):
        plot([])
    with pytest.raises(UsageError, match=r"digits-ddpm has no time_derivative; measure it with `lipdiag measure "):
        plot(ddpm.drop_vars("time_derivative"), variable="time_derivative")
    bare = run(quantities=("loss",), checkpoint="a/b/ckpt.pt")
    with pytest.raises(UsageError, match=r"b/ckpt has no time_difference; .* a/b/ckpt.pt --quantity time_difference"):
        plot(bare)
    with pytest.raises(UsageError, match="no style 'nature'; known are iclr"):
        plot(ddpm, style="nature")
    with pytest.raises(UsageError, match="no figure 'histogram'; known are singularity"):
        plot(ddpm, figure="histogram")
    with pytest.raises(UsageError, match="2 runs and 1 labels"):
        plot([ddpm, etsdm], labels=["one"])
    with pytest.raises(UsageError, match="no lipdiag run, it lacks alpha"):
        plot(ddpm.drop_vars("alpha"))
    with pytest.raises(UsageError, match="cannot show a str: give datasets"):
        plot(["run.zarr"])
    other = run()
    other.attrs = {"frozen": {"model": {"clock": "unit(1)"}}}
    with pytest.raises(UsageError, match=r"count time differently \(timesteps\(1000\) and unit\(1\)\)"):
        plot([ddpm, other])
    unfinished = run().assign(done=run()["done"] * 0)
    with pytest.raises(UsageError, match="no finished draws"):
        plot(unfinished)
