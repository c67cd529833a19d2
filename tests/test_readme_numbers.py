"""Every number that the README takes from a result is that of the committed table, to the digits that are written.

The README's words are found by regular expressions and the values computed from the tables in figures/, so that a
change of either side fails; no result stands in this file.
"""

import csv
import importlib
import json
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from scipy.special import betaincinv

import lipdiag
from lipdiag.cli import main
from lipdiag.design.plan import Plan
from lipdiag.quantities.sensitivity import STEPS
from lipdiag.study import measure as run

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "figures"
README = (ROOT / "README.md").read_text()
PROSE = " ".join(README.split())
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
WORDS = {"three": 3, "five": 5}


def said(pattern: str) -> tuple[str, ...]:
    """The groups of what the README says in one place alone; # stands for a number, spaces for any white space."""
    found = list(re.finditer(pattern.replace("#", f"({NUMBER})"), PROSE))
    assert len(found) == 1, f"{pattern!r} stands {len(found)} times in the README"
    return found[0].groups()


def rounded(value: float, text: str) -> bool:
    """Whether a text is the value to as many digits as it has."""
    written = Decimal(text.replace(",", ""))
    return Decimal(repr(float(value))).quantize(written, ROUND_HALF_UP) == written


def rows(name: str, **where: str) -> list[dict[str, str]]:
    with open(FIGURES / name, newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in where.items())]


def statement(name: str, table: str = "study.csv") -> dict[str, str]:
    (row,) = rows(table, statement=name)
    return row


ABOUT = json.loads((FIGURES / "study" / "about.json").read_text())["runs"]


def test_a_number_is_known_by_its_digits():
    assert rounded(0.456477, "0.456")
    assert rounded(-9.2428e-4, "-9.24e-4")
    assert rounded(6000, "6,000")
    assert not rounded(0.4566, "0.456")


def test_the_study_is_the_table():
    lines = re.findall(r"^\| (.+?) \| (\S+) \| (\S+) \| (.+?) \| (.+?) \|$", README, re.MULTILINE)
    lines = [line for line in lines if re.fullmatch(r"(x |[+-]).*\[.*\]", line[3])]
    assert [line[0].replace("&lt;", "<").replace("&gt;", ">") for line in lines] == [
        row["statement"] for row in rows("study.csv") if row["statement"]
    ]
    for name, a, b, change, verdict in lines:
        row = statement(name.replace("&lt;", "<").replace("&gt;", ">"))
        effect = "ratio" if change.startswith("x ") else "difference"
        expected = [row["a"], row["b"], *(row[effect + end] for end in ("", "_low", "_high"))]
        texts = [a, b, *re.findall(NUMBER, change)]
        assert all(rounded(float(value), text) for value, text in zip(expected, texts, strict=True)), (expected, texts)
        assert verdict == row["verdict"], name


def test_the_table_is_the_trainings(monkeypatch):
    """What figures/study.csv holds is what figures/study/ gives, by the script that made both."""
    monkeypatch.syspath_prepend(FIGURES)
    sizes, tables = (importlib.import_module(name) for name in ("sizes", "tables"))
    statements = tables.kept(sizes.SIZES["digits"], FIGURES / "study").statements
    assert [s.name for s in statements] == [row["statement"] for row in rows("study.csv") if row["statement"]]
    for s in statements:
        row = statement(s.name)
        assert s.verdict == row["verdict"]
        interval = (row["difference"], row["difference_low"], row["difference_high"])
        np.testing.assert_allclose([float(z) for z in s.effect.difference], list(map(float, interval)), rtol=1e-9)
        np.testing.assert_allclose(float(s.effect.a), float(row["a"]), rtol=1e-9)


def test_words_on_the_study_are_the_table_too():
    share, largest, loss = said(r"falls to # %, its largest value grows # times, the loss below 100 rises by # %")
    assert rounded(100 * float(statement("K, sum < 100")["ratio"]), share)
    assert rounded(float(statement("K, largest")["ratio"]), largest)
    assert rounded(100 * (float(statement("loss < 100")["ratio"]) - 1), loss)
    assert "no difference of sample quality is shown with any sampler" in PROSE
    assert {row["verdict"] for metric in ("fid", "kid") for row in rows("study.csv", variable=metric)} == {
        "no difference shown"
    }


PHOTOGRAPHS, *_ = (FIGURES / "photographs8.md").read_text().partition("\n## ")  # what follows is of other models


def test_words_on_photographs_are_their_table():
    table = "photographs8.csv"
    share, largest = said(
        r"K summed below timestep 100 falls to # %, its largest value grows # times, and no difference"
    )
    assert rounded(100 * float(statement("K, sum < 100", table)["ratio"]), share)
    assert rounded(float(statement("K, largest", table)["ratio"]), largest)
    for variable in ("loss", "sensitivity", "spectral_norm"):
        verdicts = {row["verdict"] for row in rows(table, variable=variable) if row["statement"]}
        assert verdicts == {"no difference shown"}
    verdicts = re.findall(r"^\| [FK]ID .*\| (lower|higher|no difference shown) \|$", PHOTOGRAPHS, re.MULTILINE)
    many, different = said(r"Of # statements on FID and KID # are called different, where chance")
    assert (len(verdicts), len(verdicts) - verdicts.count("no difference shown")) == (int(many), int(different))
    (flat,) = said(r"their K is flat below timestep #\.")
    curve = [row for row in rows(table, variable="time_difference", statement="") if float(row["timestep"]) < int(flat)]
    assert len(curve) > 5
    assert max(float(row["a"]) for row in curve) < 2 * min(float(row["a"]) for row in curve)


def test_words_on_shared_times_at_sampling_alone_are_the_trainings(monkeypatch):
    monkeypatch.syspath_prepend(FIGURES)
    sizes, tables = (importlib.import_module(name) for name in ("sizes", "tables"))
    size, read = sizes.SIZES["photographs8"], tables.Tables(FIGURES / "photographs8")
    shared = [tables.swaps(size, read, features)[0] for features in size.extractors]
    assert {found.labels for found in shared} == {("DDPM", "DDPM, shared")}
    effects = {s.name: s.effect for s in shared[0].statements}
    share, largest, *loss = said(
        r"a DDPM has its K summed below 100 at # % and # times its largest, .*? below 100 rises by # \[#, #\], and"
    )
    assert rounded(100 * effects["K, sum < 100"].ratio.value, share)
    assert rounded(effects["K, largest"].ratio.value, largest)
    for value, text in zip(effects["loss < 100"].difference, loss, strict=True):
        assert rounded(value, text)
    samples = [s for found in shared for s in found.statements if s.variable in ("fid", "kid")]
    verdicts = [s.verdict for s in samples]
    different, many, worse, ancestral = said(
        r"and # of # statements .*?, # of them to the worse, all # on 250 ancestral"
    )
    assert (len(samples), len(samples) - verdicts.count("no difference shown")) == (int(many), int(different))
    assert verdicts.count("higher") == int(worse)
    assert [s.verdict for s in samples if s.name.endswith("ddpm:250")] == int(ancestral) * ["higher"]
    none = {s.name.split()[1] for s in samples if s.effect.a == s.effect.b}
    assert {f"{sampler}:{steps}" for sampler in ("ddim", "ddpm") for steps in (5, 10, 50)} <= none
    assert said(r"# of the 60 differences are exactly 0") == (str(sum(s.effect.a == s.effect.b for s in samples)),)


def test_the_study_is_described_as_it_was():
    each, side, across, steps, samplers = said(
        r"(\w+) trainings of each \(#x# digits, # steps, [^)]*\), (\w+) samplers"
    )
    kinds = [name.rpartition("-")[0] for name in ABOUT]
    assert [kinds.count(kind) for kind in dict.fromkeys(kinds)] == 2 * [WORDS[each.lower()]]
    assert len(rows("study.csv", variable="fid")) == WORDS[samplers]
    config = json.loads((ROOT / "lipdiag" / "assets" / "digits-ddpm" / "config.json").read_text())
    assert rounded(config["training"]["recipe"]["steps"], steps)
    assert config["shape"] == [1, int(side), int(across)]
    fid, kid, n = said(r"FID\[digits\] #, KID\[digits\] #, n = #\)")
    for about in ABOUT.values():
        held = about["evaluations"]["digits"]
        assert rounded(held["floor_fid"], fid)
        assert rounded(held["floor_kid"], kid)
        assert held["n"] == int(n)


def test_the_figure_of_a_foreign_network_is_described_as_it_is():
    crops, first, close, at, times = said(
        r"on # crops of photographs: from sigma = # on its K is that of isolated points, sqrt\(d\)/sigma, to # %, "
        r"and at # it is # times that"
    )
    (shape,) = re.findall(r"--shape (\d+),(\d+),(\d+)", (FIGURES / "trained.md").read_text())
    root = np.sqrt(np.prod(list(map(int, shape))))
    curve = rows("trained.csv", series="ffdnet", variable="time_difference", kind="curve")
    assert {int(row["draws"]) for row in curve} == {int(crops)}
    over = {float(row["timestep"]): float(row["mean"]) * float(row["timestep"]) / root for row in curve}
    assert rounded(100 * max(abs(ratio - 1) for sigma, ratio in over.items() if sigma >= float(first)), close)
    assert rounded(over[float(at)], times)
    allowed, least, most = said(r"symmetric part, at most # for those, is # to #\.")
    largest = rows("trained_jacobian.csv", series="ffdnet", variable="one_sided_lipschitz", kind="curve")
    products = [float(row["mean"]) * float(row["timestep"]) for row in largest]
    assert rounded(min(products), least)
    assert rounded(max(products), most)
    assert min(products) > int(allowed)


def test_what_a_measurement_costs_is_the_benchmarks_last_result():
    width, took, size, shape, floor = said(
        r"spectral norm certified to # %, the time derivative, Frobenius norm and trace with intervals took # forward "
        r"passes a pair on a # M-parameter U-Net at (\S+), where the floor is #\."
    )
    bench = (FIGURES / "bench.md").read_text()
    (part,) = re.findall(rf"^.*: {size} M parameters, {shape}, .*\n(?:.+\n)*", bench, re.MULTILINE)
    ((_, found_floor, found),) = re.findall(rf"^the full report\s+({NUMBER})\s+({NUMBER})\s+({NUMBER})", part, re.M)
    assert (took, floor) == (found, found_floor)
    assert f"spectral norm certified to {width} %" in " ".join(bench.split())
    assert rounded(100 * Plan().certified_width, width)


def test_shares_of_the_store_and_of_workers_are_the_benchmarks_last_results():
    share, gain = said(
        r"the store takes of a run \(# % of units of a second\).*? than one \(# times, for a plan of minutes\)"
    )
    bench = (FIGURES / "bench.md").read_text()
    (clock,) = re.findall(rf"^share of units of a second, clock: ({NUMBER}) %", bench, re.M)
    (found,) = re.findall(rf"^2 workers are ({NUMBER}) times as fast as one", bench, re.M)
    assert rounded(float(clock), share)
    assert gain == found


def test_numbers_of_the_method_are_the_codes():
    (confidence,) = said(r"an upper bound at # % confidence")
    (steps,) = said(r"by # steps of DDIM from this timestep to the data")
    assert rounded(100 * Plan().confidence, confidence)
    assert int(steps) == STEPS
    end, blocks = said(r"timesteps below # shared in # blocks")
    clock = lipdiag.load("digits-etsdm").clock
    assert (clock.end, clock.blocks) == (float(end), int(blocks))


def assert_overlap(cell: str, row: dict[str, str]) -> None:
    """Both 95 % intervals; what is exactly 0 is so on both sides."""
    mean, half = (0.0, 0.0) if cell == "exactly 0" else map(float, cell.split(" +- "))
    expected = float(row["mean"])
    assert abs(mean - expected) <= half + float(row["high"]) - expected, (cell, row)
    assert (half == 0) == (expected == 0), (cell, row)


def test_the_demo_prints_what_the_figure_shows(tmp_path, monkeypatch):
    """K of both models, at the timesteps of both grids, and where it peaks; nothing else is measured here.

    The demo's draws are the first of the figure's. Means of n and of all N draws differ with variance
    s^2 (1/n - 1/N), less than that of the smaller mean alone, so that an interval that misses its other by chance does
    so in less than 5 % of all choices of draws; these are fixed, so that what passes once always does.
    """
    prepared = run.prepared

    def k_alone(model, data, plan, out):
        return prepared(model, data, plan.replace(quantities=("time_difference",)), out)

    monkeypatch.setattr(run, "prepared", k_alone)
    monkeypatch.setattr(run, "calibration", lambda *_: [])
    result = CliRunner().invoke(main, ["demo", "--quiet", "--draws", "6", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    curves: dict[str, dict[int, dict[str, str]]] = {}
    for row in rows("singularity.csv", variable="time_difference"):
        if row["kind"] != "theory":
            curves.setdefault(row["series"], {})[int(float(row["timestep"]))] = row
    table = re.findall(r"^ +(\d+)\*? +(\S+ \+- \S+) +(exactly 0|\S+ \+- \S+) ", result.output, re.MULTILINE)
    both = [(int(k), cells) for k, *cells in table if int(k) in curves["digits-ddpm"]]
    assert len(both) > len(table) / 2 > 5
    for timestep, cells in both:
        for series, cell in zip(("digits-ddpm", "digits-etsdm"), cells, strict=True):
            assert_overlap(cell, curves[series][timestep])
    ((where, peak),) = re.findall(r"digits-ddpm: K peaks at timestep (\d+)\s+with\s+(\S+ \+- \S+),", result.output)
    assert int(where) == max(curves["digits-ddpm"], key=lambda k: float(curves["digits-ddpm"][k]["mean"]))
    assert_overlap(peak, curves["digits-ddpm"][int(where)])


def test_planted_faults_are_named_as_often_as_the_table_says():
    """figures/naming.md holds a row each; the interval is Clopper and Pearson's."""
    table = re.findall(r"^  (\S.*?) {2,}(\w+) *(is \w+)?$", (FIGURES / "naming.md").read_text(), re.MULTILINE)
    sound, planted = ([row for row in table if (row[0] == "no fault") == without] for without in (True, False))
    named, n = sum(not wrong for *_, wrong in planted), len(planted)
    low, high = betaincinv([named, named + 1], [n - named + 1, max(n - named, 1e-9)], [0.025, 0.975])
    found = said(r"# of # planted faults are named first \[#, #\], and # of # sound networks are called healthy")
    truth = named, n, low, high, sum(verdict == "healthy" for _, verdict, _ in sound), len(sound)
    assert all(rounded(a, b) for a, b in zip(truth, found, strict=True)), truth


def test_advice_is_what_the_commands_said():
    """figures/advice.md holds them and what they printed."""
    text = (FIGURES / "advice.md").read_text()
    interval = rf"{NUMBER} \[{NUMBER}, {NUMBER}\]"
    told = re.findall(rf"^(\d+) .* ({NUMBER}) \[({NUMBER}), ({NUMBER})\]$", text, re.MULTILINE)
    assert [row[0] for row in told] == ["5", "10", "20"]
    found = said(r"of DDIM with 5, 10 and 20 steps is # \[#, #\], # \[#, #\] and # \[#, #\] times that")
    assert all(rounded(float(a), b) for a, b in zip([x for row in told for x in row[1:]], found, strict=True))
    blocks = [float(a) for a in re.findall(rf"equal blocks +({NUMBER}) \[", text)]
    low, high, ours = said(r"hide # to # times as much at the worst timestep as equal ones .*?, and # times as much")
    assert rounded(min(blocks), low)
    assert rounded(max(blocks), high)
    best, uniform = (
        re.search(rf"^{name} +5 to 100 +({NUMBER})", text, re.MULTILINE) for name in ("least largest", "uniform")
    )
    assert rounded(float(best[1]) / float(uniform[1]), ours)
    assert len(re.findall(rf"best (?:uniform|published) +{interval}", text)) == 120
    assert "worse" not in text.partition("selftest --advice")[2]
