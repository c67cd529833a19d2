"""The HTML page: one file that asks for nothing, escapes what strangers wrote, and shows the dataset's numbers."""

import base64
import hashlib
import html
import re
import shlex
import subprocess
import sys
import warnings
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from scipy import stats

import lipdiag
from lipdiag.cli import main
from lipdiag.comparison.comparison import compare
from lipdiag.errors import UsageError
from lipdiag.figures.gallery import FIGURES, plot
from lipdiag.pages.graphic import points
from lipdiag.pages.html import element
from lipdiag.pages.latex import SPECIAL
from lipdiag.pages.page import page
from lipdiag.pages.provenance import provenance, version
from lipdiag.pages.summary import summary, to_do
from lipdiag.pages.verdict import between, verdicts
from lipdiag.results.command import commands
from lipdiag.results.run import read
from lipdiag.statistics import mean, ratio
from tests.holm import coverage

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp; $\\frac{ ]]> --> \u202e \x07\n&#x3c;"
VOID = {"meta", "br", "hr", "link", "input", "img"}


class Reader(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self.open, f"<{tag}/> outside of SVG is not closed"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def attributes(self, name):
        return [values[name] for _, values in self.elements if name in values]


def text(reader):
    return " ".join(part for tag, parts in reader.texts.items() if tag not in ("script", "style") for part in parts)


def seeded(dataset, seed=0):
    """A run whose draws are on record."""
    return dataset.assign_attrs(frozen={**dataset.attrs["frozen"], "plan": {"step": None, "seed": seed}})


@pytest.fixture(scope="module")
def pair(ddpm, etsdm):
    """With every figure."""
    return page([seeded(ddpm), seeded(etsdm)])


@pytest.fixture(autouse=True)
def one_figure(monkeypatch, pair):
    """Pages made within a test have one, to be quick."""
    monkeypatch.setattr("lipdiag.pages.page.FIGURES", {"singularity": FIGURES["singularity"]})


@pytest.fixture(scope="module")
def single(ddpm):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lipdiag.pages.page.FIGURES", {"singularity": FIGURES["singularity"]})
        return page(ddpm)


def test_the_page_is_well_formed_and_refers_to_nothing_outside(pair):
    reader = Reader(pair)
    ids = reader.attributes("id")
    assert len(ids) == len(set(ids))
    assert all(link.startswith("#") and link[1:] in ids for link in reader.attributes("href"))
    assert all(target in ids for target in re.findall(r"url\(#([^)]*)\)", pair))
    assert not [
        tag for tag, _ in reader.elements if tag in ("link", "iframe", "object", "embed", "base", "form", "a:href")
    ]
    assert not reader.attributes("src")
    assert not re.search(r"url\((?!#)", pair)
    assert "@import" not in pair
    assert "://" not in pair
    assert len(pair) < 3e6


def test_the_browser_is_told_to_fetch_nothing_and_to_run_this_script_alone(pair):
    reader = Reader(pair)
    (script,) = reader.texts["script"]
    (policy,) = [values["content"] for _, values in reader.elements if "http-equiv" in values]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def hostile(dataset):
    model = {**dataset.attrs["frozen"]["model"], "network": HOSTILE, HOSTILE: HOSTILE}
    frozen = {"model": model, "data": {"name": HOSTILE}, "plan": {HOSTILE: [HOSTILE], "step": None, "seed": HOSTILE}}
    launch = {"argv": ["lipdiag", HOSTILE], "started": HOSTILE, "device": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    found = dataset.assign({HOSTILE: dataset["loss"]})
    for variable in found.data_vars.values():
        variable.attrs = {"long_name": HOSTILE, "units": HOSTILE, "norm": HOSTILE, "confidence": HOSTILE}
    return found.assign_attrs(frozen=frozen, data=HOSTILE, checkpoint=HOSTILE, launches=[launch, HOSTILE])


def test_what_strangers_wrote_is_text(ddpm):
    reader = Reader(page([hostile(ddpm), hostile(ddpm)]))
    tags = [tag for tag, _ in reader.elements]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert not [name for _, values in reader.elements for name in values if name.startswith("on")]
    shown = text(reader)
    assert "<script>alert(1)</script>" in shown
    assert "\\u202e" in shown
    assert "\u202e" not in shown
    assert "\x07" not in shown


@pytest.mark.parametrize(
    "launches", [None, "x", [None], [{"argv": "x", "versions": 3, "seconds": "y"}], [{"argv": []}]]
)
@pytest.mark.parametrize("frozen", [{"model": {"clock": "timesteps(1000)"}}, {"model": {}, "plan": 3, "data": "x"}])
def test_records_that_are_missing_or_damaged_are_left_out(ddpm, launches, frozen):
    (run,) = read([ddpm.assign_attrs(frozen=frozen, launches=launches)])
    Reader(element("main", provenance(run), version(run)))


def test_the_weights_own_digest_is_not_called_as_that_of_files(ddpm):
    told = text(Reader(page(ddpm.assign_attrs(frozen={"model": {"weights_sha256": "8f37"}}))))
    assert "sha256 of tensors" in told
    assert "weights sha256" not in told


def test_the_table_holds_the_means(ddpm, single):
    reader = Reader(single)
    titles = ["timestep", "t", "log SNR", "time_difference", "time_derivative", "spectral_norm", "loss"]
    values = np.array([float(value) for value in reader.attributes("data-value")]).reshape(ddpm.sizes["time"], -1)
    headings = [text for text in reader.texts["button"] if not text.startswith("Copy ")]
    assert headings[: len(titles)] == titles
    np.testing.assert_allclose(values[:, 0], ddpm["timestep"])
    np.testing.assert_allclose(values[:, titles.index("loss")], ddpm["loss"].mean("draw"), rtol=1e-8)
    np.testing.assert_array_equal(values[:, -1], 64)


def test_points_are_told_where_matplotlib_draws_them(ddpm):
    """The markers of the SVG file are the truth, every one of the curve in both panels."""
    picture = plot(ddpm, style="icml", show_theory=False)
    svg = picture.contents(".svg").decode()
    told = np.array(
        [(x * 72 / picture.dpi, picture.get_figheight() * 72 - y * 72 / picture.dpi) for x, y, _ in points(picture)]
    )
    blue = re.findall(r'<use xlink:href="#m\w+" x="([\d.]+)" y="([-\d.]+)" style="fill: #0072b2"/>', svg)
    drawn = [(float(x), float(y)) for x, y in blue]
    distance = np.abs(told[:, None] - np.array(drawn)[None]).max(-1).min(1)
    assert told.shape[0] > 60
    assert distance.max() < 0.01


def test_points_tell_the_mean_and_how_many_draws(ddpm, single):
    titles = Reader(single).texts["title"]
    mean_ = float(ddpm["time_difference"].isel(time=3).mean())
    (told,) = {title for title in titles if title.startswith("digits-ddpm, timestep 3:")}
    assert float(told.split(": ")[1].split(",")[0]) == pytest.approx(mean_, rel=5e-3)
    assert told.endswith("n = 64")


def test_the_command_that_made_a_run_is_given_or_spelled_from_its_plan(ddpm):
    launched = ddpm.assign_attrs(launches=[{"argv": ["lipdiag", "measure", "my model.pt"]}])
    assert commands(launched) == ["lipdiag measure 'my model.pt'"]
    frozen = {**ddpm.attrs["frozen"], "plan": {"step": None, "seed": 3, "quantities": ["loss"]}}
    spelled = commands(ddpm.assign_attrs(frozen=frozen).isel(time=[0, 5]))
    assert spelled == ["lipdiag measure digits-ddpm --timesteps 0,5 --draws 64 --seed 3 --quantity loss"]


def test_a_run_made_in_python_tells_the_whole_command(tmp_path):
    """What was told besides the plan stands in it too, and the command measures the same numbers."""
    told = {"schedule": "quadratic", "weights": "ema", "shape": (1, 8, 8), "probe": False, "progress": False}
    plan = lipdiag.Plan(timesteps=(0.0, 500.0), draws=2, quantities=("loss",))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = lipdiag.measure("digits-ddpm", "digits", plan, **told)
    (command,) = commands(run)
    assert "--data digits --schedule quadratic --weights ema --shape 1,8,8" in command
    found = CliRunner().invoke(main, [*shlex.split(command)[1:], "--no-probe", "--out", str(tmp_path / "a.zarr")])
    assert found.exit_code == 0, found.output
    np.testing.assert_array_equal(lipdiag.open_run(tmp_path / "a.zarr")["loss"], run["loss"])


def test_a_figure_is_copied_with_its_caption_as_the_reader_of_a_paper_sees_it(ddpm, single):
    """The LaTeX of the page, its commands taken for what they print, is the figure's caption."""
    caption, latex = Reader(single).attributes("data-text")
    assert caption == plot(ddpm, style="icml").caption
    prints = {v.removeprefix("\\"): k for k, v in SPECIAL.items()}
    (inside,) = re.findall(r"\\caption\{(.*)\}\n", latex)
    assert re.sub(r"\\(text\w+\{\}|[&%$#_{}])", lambda found: prints[found[1]], inside) == caption
    assert not re.search(r"(?<!\\)[&%$#_^~|<>]", inside)
    assert latex.splitlines()[0] == r"\begin{figure}[t]"
    assert r"\includegraphics[width=\columnwidth]{singularity.pdf}" in latex


def test_tables_of_betas_are_told_by_their_ends(ddpm):
    betas = [f"{0.0001 + 0.00002 * k:.5f}" for k in range(1000)]
    spelled = f"discrete({', '.join(betas)})"
    model = {**ddpm.attrs["frozen"]["model"], "schedule": spelled, "betas": betas}
    told = ddpm.assign_attrs(
        frozen={**ddpm.attrs["frozen"], "model": model},
        warnings=[f"a caution about {spelled}"],
        notes=[f"of {spelled}"],
    )
    found = page(told)
    assert betas[500] not in found
    assert found.count("1000 numbers from 0.00010 to 0.02008") >= 4


def test_the_top_says_in_three_sentences_what_was_found_and_what_to_do(ddpm, etsdm, pair, single):
    runs = read([seeded(ddpm), seeded(etsdm)])
    assert summary(runs[:1]) == [verdict.words for verdict in verdicts(runs[0])][:3]
    said = [verdict.words for verdict in between(compare(seeded(ddpm), seeded(etsdm)))]
    assert len(summary(runs)) == 3
    assert {words.lower() for words in summary(runs)} <= {words.lower() for words in said}
    assert [words.split(":")[0] for words in summary(runs)] == ["K, sum < 100", "K, largest", "Loss < 100"]
    for found, shown in ((runs, pair), (read([ddpm]), single)):
        (top,) = re.findall(r'<p class="summary">(.*?)</p>', shown)
        assert html.unescape(top) == " ".join(summary(found))
    assert "What to do next" in single
    assert single.count("What to do") == 1
    assert "<code>lipdiag advise RUN</code>" in single
    assert "<code>lipdiag compare A B --pair A2 B2</code>" in pair
    assert "lipdiag advise" not in "".join(to_do(runs))


def test_missing_pairs_are_to_be_measured_first(ddpm):
    done = ddpm["done"].copy()
    done[0, :3], done[1, 0] = 0, 2
    (said, *_) = to_do(read([ddpm.assign(done=done)]))
    assert f"4 of {done.size} pairs are missing" in said
    assert "--retry" in said


def test_the_same_runs_give_the_same_bytes_and_leave_matplotlib_alone(ddpm, single):
    before = dict(matplotlib.rcParams)
    assert page([ddpm]) == single
    assert dict(matplotlib.rcParams) == before


def test_a_mean_has_students_interval():
    values = np.random.default_rng(0).standard_normal(7)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(mean(values)[:3], [values.mean(), low, high])


def test_a_ratio_of_means_is_covered(seed, p_value):
    """Paired log-normal draws of ratio 3, 2000 times 24: in 94 to 96 % of them."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((2000, 24))
    a, b = (height * np.exp(0.2 * common + 0.1 * rng.standard_normal((2000, 24))) for height in (3, 1))
    covered = [found.low <= 3 <= found.high for found in map(ratio, a, b)]
    p_value(coverage(sum(covered), 2000, 0.94, 0.96))


def test_verdicts_say_what_was_put_in(ddpm, etsdm):
    first, second = read([seeded(ddpm), seeded(etsdm)])
    words = [verdict.words for verdict in verdicts(first)]
    assert words[0].startswith("The noise prediction changes fastest at timestep 0, near the data")
    flat = ddpm.assign(time_difference=1 + 0.1 * (ddpm["time_difference"] / ddpm["time_difference"].mean("draw") - 1))
    assert "No singularity was seen" in verdicts(read([flat])[0])[0].words
    noisy = flat.assign(time_difference=flat["time_difference"] * np.exp(noise(flat, 1.0))).isel(draw=slice(3))
    assert "Whether there is a singularity is not decided" in verdicts(read([noisy])[0])[0].words
    assert "exactly 0 inside its 5 blocks" in verdicts(second)[0].words
    jump = float(etsdm["time_difference"].sel(time=etsdm["timestep"] == 19).mean())
    assert verdicts(second)[0].estimate.value == pytest.approx(jump)
    assert all(verdict.estimate.draws == 64 for verdict in (*verdicts(first), *verdicts(second)))


def test_two_runs_are_judged_by_their_comparison(ddpm, etsdm, pair):
    """Of the largest K: 64 paired draws, and the ratio of its means on the page as `compare` states it."""
    found = compare(seeded(ddpm), seeded(etsdm))
    largest = next(verdict for verdict in between(found) if verdict.words.startswith("K, largest: higher"))
    heights = [float(run["time_difference"].mean("draw").max()) for run in (ddpm, etsdm)]
    assert largest.estimate.value == pytest.approx(heights[1] / heights[0])
    assert largest.estimate.low < largest.estimate.value < largest.estimate.high
    assert largest.estimate.draws == 64
    assert str(largest.estimate) in Reader(pair).texts["b"]


@pytest.mark.parametrize(("value", "word"), [(0.9, "keeps"), (1.1, "breaks"), (1.0, "not decided")])
def test_the_bound_of_true_models_is_judged_by_its_interval(ddpm, value, word):
    spread = (ddpm["draw"] - 31.5) / 315
    run = read([ddpm[["done"]].assign(denoising_bound=xr.zeros_like(ddpm["loss"]) + value + spread)])[0]
    assert word in verdicts(run)[0].words


@pytest.mark.parametrize(("slope", "words"), [(1.0, "right size"), (1.2, "too small"), (0.8, "too large")])
def test_the_slope_is_a_ratio_of_means(ddpm, slope, words):
    """Of draws whose mean ratio is far from the ratio of the means."""
    square = 0 * ddpm["loss"] + 1 + ddpm["draw"] % 2
    product = 0 * ddpm["loss"] + slope * 1.5 + 0.01 * (ddpm["draw"] - 31.5) / 64
    (verdict,) = verdicts(read([ddpm[["done"]].assign(stein_product=product, stein_square=square)])[0])
    assert words in verdict.words
    assert verdict.estimate.value == pytest.approx(slope)


def test_the_commands_name_the_folders_of_the_runs(ddpm, etsdm):
    opened = [run.copy() for run in (ddpm, etsdm)]
    for run, path in zip(opened, ("my runs/a.zarr", "b.zarr"), strict=True):
        run.encoding["source"] = path
    assert any("`lipdiag advise 'my runs/a.zarr'`" in said for said in to_do(read(opened[:1])))
    assert any("`lipdiag compare 'my runs/a.zarr' b.zarr --pair" in said for said in to_do(read(opened)))


def noise(run, size):
    """Gaussian noise of that size for each pair of a run."""
    return run["loss"] * 0 + size * np.random.default_rng(5).standard_normal(run["loss"].shape)


def test_the_size_is_right_only_where_the_interval_excludes_that_it_is_wrong(ddpm):
    """Two draws that lie 30 % apart have a mean slope near 1 and say nothing."""
    square = 0 * ddpm["loss"] + 1
    for size, draws, words in ((0.3, 2, "not decided"), (0.3, 8, "not decided"), (0.01, 64, "right size, within 10%")):
        product = square + noise(ddpm, size)
        run = ddpm[["done"]].assign(stein_product=product, stein_square=square).isel(time=[0, 1], draw=slice(draws))
        (verdict,) = verdicts(read([run])[0])
        assert words in verdict.words


def test_what_to_do_is_said_with_its_evidence(ddpm):
    """A loss of 3 is worse than that of a model that always answers 0; what was not measured is said."""
    said = text(Reader(page(ddpm)))
    assert "Of digits-ddpm it is not judged whether a multiple of its answer would do better, whether" in said
    assert "`" not in said
    said = text(Reader(page(ddpm.assign(loss=ddpm["loss"] + 3))))
    assert "untrained" in said
    assert "check that trained weights are loaded" in said


def test_runs_of_other_draws_are_not_compared(ddpm, etsdm):
    text_ = text(Reader(page([seeded(ddpm), seeded(etsdm, seed=1)])))
    assert "digits-etsdm is not compared with digits-ddpm" in text_
    assert "seed" in text_


def test_an_element_escapes_content_and_attributes():
    assert element("p", '<&">', title='"<') == '<p title="&quot;&lt;">&lt;&amp;&quot;&gt;</p>'
    assert element("p", element("b", "x"), hidden=True, lang=None) == "<p hidden><b>x</b></p>"


def test_the_package_is_the_function_too(ddpm, single, tmp_path):
    path = lipdiag.report(ddpm, tmp_path / "a.html")
    assert path.read_text() == single
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UsageError, match=r"must end in \.html"):
        lipdiag.report(ddpm, tmp_path / "a.pdf")


def test_a_page_needs_no_torch():
    code = (
        "import sys; from tests.runs import make; from lipdiag.pages.page import page; "
        "page(make(draws=4)); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = lipdiag.Plan(timesteps="log:12", draws=2, quantities=("time_difference", "loss"))
    for name in ("ddpm", "etsdm"):
        lipdiag.measure(f"digits-{name}", plan=plan, out=f"{name}.zarr", progress=False, probe=False)

    def run(*arguments):
        return CliRunner().invoke(main, list(arguments))

    written = run("report", "ddpm.zarr", "etsdm.zarr")
    assert written.output == "report.html\n", written.exception
    Reader((tmp_path / "report.html").read_text())
    assert run("advise", "ddpm.zarr", "--quiet", "--blocks", "2", "--end", "10").output.startswith("edges:0,")
    assert "not a guarantee" in run("advise", "ddpm.zarr").output.replace("\n", " ")
    assert run("report").exit_code == 2
    assert run("advise", "etsdm.zarr").exit_code == 2
    assert run("report", "nothing.zarr").exit_code == 4
    assert run("report", "ddpm.zarr", "--out", "a.txt").exit_code == 2
    assert run("report", "ddpm.zarr", "--out", "/proc/none/a.html").exit_code == 5


def test_a_bound_of_the_dimension_that_says_nothing_is_not_told_as_one(run):
    """A loss of 1 and more, as of an untrained network, bounds the data's dimension by no fewer than all of x."""
    dataset = run(np.array([0.0, 10]), quantities=("loss",))
    for loss, said in (
        (0.5, "By its loss the data have at most 32.0 of 64 dimensions"),
        (1.1, "by no fewer than all 64"),
    ):
        dataset["loss"].values[:] = loss + 1e-3 * np.tile([-1.0, 1.0], 32)
        assert any(said in verdict.words for verdict in verdicts(read([dataset])[0]))
