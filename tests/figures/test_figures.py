"""What every figure must obey, over the list of figures: a new one is tested by being in it."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection, QuadMesh

import lipdiag.figures
from lipdiag.errors import UsageError
from lipdiag.figures import FIGURES, STYLES, plot
from lipdiag.figures.gallery import admit
from lipdiag.figures.style import appearance, applied, colour
from lipdiag.printing import rows_as_csv
from tests.runs import complete, images, make

NAMES = [name for name in FIGURES if name not in ("compare",)]
WITHOUT_AXES = ("samples", "vectors")
WITHOUT_MEANS = ("samples", "vectors", "schedules")
LOOKS = [("iclr", name) for name in NAMES if name != "singularity"]
LOOKS += [("icml", name) for _, name in LOOKS]
LOOKS += [("slides", name) for name in ("jumps", "pairs", "training", "quality")]
LOOKS += [(style, "jacobian") for style in ("icml-wide", "cvpr-wide")]


@pytest.fixture(scope="module")
def pictures(sources):
    """Each figure in the default style."""
    return {name: plot(sources[name], figure=name) for name in NAMES}


def panels(picture) -> list:
    """Axes with data: not the bars of colours."""
    return [axes for axes in picture.axes if axes.get_label() != "<colorbar>"]


@pytest.mark.parametrize(("style", "name"), LOOKS)
def test_every_style_draws_without_warnings_and_nothing_is_cut(sources, pictures, style, name):
    """Warnings are errors here, those of a layout that does not fit among them."""
    picture = pictures[name] if style == "iclr" else plot(sources[name], figure=name, style=style)
    assert picture.get_size_inches()[0] == STYLES[style].width
    with applied(STYLES[style]):
        boxes = [axes.get_tightbbox() for axes in picture.axes]
        legends = [legend.get_window_extent() for legend in picture.legends]
    for box in (*boxes, *legends):
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= picture.bbox.x1 + 1
        assert box.y1 <= picture.bbox.y1 + 1
    assert not any(legend.overlaps(box) for legend in legends for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "singularity"])
def test_same_data_same_bytes(sources, pictures, name):
    again = plot(sources[name], figure=name)
    for suffix in (".png", ".svg", ".pdf") if name == "jacobian" else (".svg",):
        assert again.contents(suffix) == pictures[name].contents(suffix)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_AXES])
def test_every_axis_has_a_label_and_every_measured_one_its_unit(pictures, name):
    for axes in pictures[name].axes:
        # an index counts itself
        assert re.search(r"\[.+\]$|^true: timestep", axes.get_ylabel()), axes.get_ylabel()
    for axes in panels(pictures[name]):
        assert re.search(r"timestep|time|step|\[.+\]$|rank", axes.get_xlabel()), axes.get_xlabel()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_MEANS])
def test_every_mean_has_its_interval_in_the_picture_and_in_the_table(pictures, name):
    picture = pictures[name]
    drawn = [axes for axes in panels(picture) if axes.findobj(PolyCollection) or axes.findobj(LineCollection)]
    meshes = [axes for axes in panels(picture) if axes.findobj(QuadMesh)]
    settings = [axes for axes in panels(picture) if axes.get_title(loc="left").endswith("learning rate")]
    assert len(drawn) >= len(panels(picture)) - len(meshes) - len(settings)
    measured = [row for row in picture.rows if "mean" in row and "low" in row and np.isfinite(row["low"])]
    assert measured
    assert all(row["low"] <= row["mean"] * (1 + 1e-12) and row["mean"] <= row["high"] * (1 + 1e-12) for row in measured)


@pytest.mark.parametrize("name", NAMES)
def test_captions_say_n_and_the_norm(pictures, name):
    caption = pictures[name].caption
    assert re.search(r"\bn = |n does not apply", caption), caption
    assert re.search(r"norm|Euclidean|squared error|distances", caption), caption
    assert caption.endswith(".")
    assert ".." not in caption


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*WITHOUT_AXES, "schedules")])
def test_lines_of_a_panel_are_told_apart_in_grey(pictures, name):
    assert_apart_in_grey(pictures[name])


def assert_apart_in_grey(picture) -> None:
    """By marker or dashes, never by colour alone."""
    for axes in panels(picture):
        seen = {}
        for line in axes.lines:
            kind = (
                line.get_marker(),
                line.get_linestyle(),
                str(line._dash_pattern),  # which the style does not tell: any of one's own is "--"
                line.get_markerfacecolor() == "white",
                line.get_linewidth(),
            )
            seen.setdefault(kind, set()).add(line.get_color())
        assert all(len(colours) == 1 for colours in seen.values()), axes.get_title(loc="left")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "embedding"])  # drawn as singularity is
def test_any_number_of_runs_is_drawn_and_each_is_called_by_its_name(sources, name):
    """A shell's variable or a price is no mathematics: the name stands in the picture letter by letter."""
    labels = ["lr$_{$", "run_$SLURM_JOB_ID_$", "beta$1-$2", *(f"run {i}" for i in range(4))]
    if name == "vectors":  # which shows one run
        labels = labels[:1]
    picture = plot((sources[name] * 7)[: len(labels)], figure=name, labels=labels)
    picture.contents(".svg")
    written = [text.get_text() for text in picture.findobj(matplotlib.text.Text)]
    for label in labels if name != "vectors" else []:
        assert any(label.replace("$", r"\$") in text for text in written)
        assert "$" not in label or not any(label in text for text in written)
    assert r"\$" not in picture.caption
    assert not any(r"\$" in str(row.get("series")) for row in picture.rows)
    letters = re.findall(r"^\((\w+)\) ", "\n".join(written), re.MULTILINE)
    assert len(set(letters)) == len(letters)
    if name in ("derivatives", "schedules", "training"):  # where runs lie in one panel, each in lines with markers
        assert_apart_in_grey(picture)


def test_a_line_looks_like_no_other_however_many_there_are():
    assert len({appearance(number)[1:] for number in range(36)}) == 36
    assert len({appearance(number) for number in range(216)}) == 216
    assert all(appearance(number)[0] == colour(number) for number in range(216))


def test_files_that_are_no_figure_are_few():
    """What a figure is made of has twelve files at most; all others are called by the figure that they draw."""
    folder = Path(lipdiag.figures.__file__).parent
    assert len([path for path in folder.iterdir() if path.is_file() and path.stem not in FIGURES]) <= 12


@pytest.mark.parametrize("name", NAMES)
def test_there_is_a_table_to_lie_beside_each_picture(pictures, name):
    lines = rows_as_csv(pictures[name].rows).splitlines()
    assert len(lines) == len(pictures[name].rows) + 1 > 1


@pytest.mark.parametrize("name", NAMES)
def test_text_is_readable_at_print_size(pictures, name):
    texts = [text for text in pictures[name].findobj(matplotlib.text.Text) if text.get_text()]
    assert {text.get_fontsize() for text in texts} <= {7.0, 8.0}


@pytest.mark.parametrize(
    ("name", "lost", "asked"),
    [
        ("singularity", ["time_difference", "time_derivative"], "--quantity time_difference"),
        ("jumps", ["time_difference"], "--quantity time_difference"),
        ("derivatives", ["trajectory_derivative"], "--quantity time_derivative --quantity trajectory_derivative"),
        ("pairs", ["pair_difference"], "--quantity pairs --timesteps log:24 --draws 32"),
        ("swap", ["swap_loss"], "--quantity swap --timesteps log:24 --draws 32"),
        ("distribution", ["time_difference", "time_derivative"], "--quantity time_difference"),
        (
            "jacobian",
            ["spectral_norm", "one_sided_lipschitz", "squared_frobenius_norm", "trace"],
            "--quantity spectral_norm --quantity one_sided_lipschitz --quantity squared_frobenius_norm "
            "--quantity trace",
        ),
        ("spectrum", ["singular_values"], "--quantity singular_values"),
        ("vectors", ["right_singular_vectors"], "--quantity vectors --timesteps 0,10,100,500 --draws 2"),
        ("embedding", ["embedding_norm"], "--quantity embedding --draws 2"),
        (
            "modules",
            ["module_output_derivative", "module_output_derivative_x"],
            "--quantity modules --quantity modules_x --draws 8",
        ),
    ],
)
def test_missing_data_are_a_sentence_with_the_command_that_makes_them(sources, name, lost, asked):
    datasets = [dataset.drop_vars(lost) for dataset in sources[name]]
    command = re.escape(asked)
    with pytest.raises(UsageError, match=rf"^[^.\n]*`lipdiag measure digits-\w+ {command} --out NEW\.zarr`$"):
        plot(datasets, figure=name)


@pytest.mark.parametrize("name", [name for name, spec in FIGURES.items() if spec.needs])
def test_every_variable_that_a_figure_says_it_needs_is_missed(sources, name):
    """And none that it does not say: with those alone, and the axes, it is drawn."""
    datasets, spec = sources[name], FIGURES[name]
    for variable in spec.needs:
        with pytest.raises(
            UsageError, match=rf"has no {variable}; measure it with .* --quantity {spec.quantities} --out"
        ):
            admit(name, [dataset.drop_vars(variable) for dataset in datasets])
    admit(name, [dataset[[*spec.needs, "done"]] for dataset in datasets])


def test_several_labels_and_runs_are_counted_and_each_must_have_all(sources):
    for name in ("samples", "training", "quality", "jacobian"):
        with pytest.raises(UsageError, match=f"there are {len(sources[name])} runs and 3 labels"):
            plot(sources[name], figure=name, labels=["a", "b", "c"])
        with pytest.raises(UsageError, match=r"nothing to show|no run to show"):
            plot([], figure=name)
    first, second = sources["derivatives"]
    with pytest.raises(UsageError, match="digits-etsdm has no trajectory_derivative"):
        plot([first, second.drop_vars("trajectory_derivative")], figure="derivatives")
    with pytest.raises(UsageError, match="the number given is 3; give two a pair"):
        plot(sources["compare"] + sources["compare"][:1], figure="compare")
    assert plot(sources["compare"] * 2, figure="compare", labels=["A", "B"]).caption.startswith("B (second) against A")


def test_a_timestep_without_draws_is_left_out_of_a_matrix(sources):
    dataset = sources["swap"][0].copy(deep=True)
    dataset["done"].values[3] = 0
    rows = plot(dataset, figure="swap").rows
    assert float(dataset["timestep"][3]) not in {row["timestep"] for row in rows}
    assert len({row["timestep"] for row in rows}) == dataset.sizes["time"] - 1


@pytest.mark.parametrize(("name", "command"), [("samples", "sample"), ("training", "train"), ("quality", "evaluate")])
def test_what_is_no_run_is_asked_for_by_name(sources, name, command):
    with pytest.raises(UsageError, match=f"lipdiag {command}"):
        plot(sources["jumps"], figure=name)


def test_one_draw_is_drawn_without_interval():
    dataset = complete(draws=1)
    for name in ("derivatives", "jacobian"):
        picture = plot(dataset, figure=name)
        assert "n = 1 " in picture.caption
        assert not any(np.isfinite(row.get("low", np.nan)) for row in picture.rows)


def test_samples_are_those_given_in_their_order():
    picture = plot([images(), images(10, "other")], figure="samples")
    for axes, number in zip(picture.axes, (32, 10), strict=True):
        page = axes.images[0].get_array()
        corners = page[0::9, 0::9]
        found = corners[corners < 1][:number] if number == 10 else corners.ravel()
        expected = np.arange(number) / (40 if number == 32 else 10)
        np.testing.assert_allclose(np.ravel(found), expected, atol=1e-12)


@pytest.mark.parametrize("edges", [f"({'0, ' * 5000}100)", str(tuple(range(5001)))], ids=["equal", "rising"])
def test_thousands_of_blocks_are_shaded_as_one(edges):
    """A stranger's clock may have any number: each would be an artist of its own, in every figure."""
    dataset = make(draws=4, shared=True)
    dataset.attrs["frozen"]["model"]["clock"] = f"shared(timesteps(10000), 5000, 5, {edges})"
    picture = plot([dataset], figure="singularity")
    assert all(len(axes.patches) < 20 for axes in picture.axes)
