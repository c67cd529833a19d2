"""One HTML page about one or several runs: verdicts in words, figures, tables, provenance.

The page is one file. It asks for nothing: its style and script stand in it, and it forbids the browser any other. All
that comes from a run is escaped. The same runs give the same bytes.
"""

import base64
import hashlib
import os
from collections.abc import Container, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ..comparison.comparison import compare
from ..errors import RunError, UsageError
from ..figures.canvas import write
from ..figures.explorer import variables
from ..figures.gallery import FIGURES, plot
from ..health.diagnosis import HEADINGS
from ..health.judge import judge
from ..printing import counted, shortened, with_half_width
from ..results.run import Run, read
from ..text import printable
from .graphic import inline
from .html import Markup, element, joined, several_lines
from .latex import snippet
from .provenance import provenance, version
from .summary import summary, to_do
from .verdict import Verdict, between, verdicts

if TYPE_CHECKING:
    import xarray as xr

STYLE = "icml"
"""The preset of figures: one column, which a phone shows too."""

EVIDENCE = ("_standard_error", "_residual", "_steps")
"""How variables end that are not shown as columns of their own."""

READING = (
    "Norms are Euclidean over all entries of a sample. Intervals are Student's 95 % intervals of means over n draws, "
    "not corrected for looking at many of them. The largest value over draws is a lower bound of a Lipschitz "
    "constant at these points, never the constant. Inside the blocks of an E-TSDM model the derivative in time is 0 by "
    "construction, which is no evidence of quality: look at the jumps and at the loss."
)


def report(
    runs: "xr.Dataset | Sequence[xr.Dataset]", path: str | os.PathLike[str], labels: Sequence[str] | None = None
) -> Path:
    """Write a page about one or several runs.

    Args:
        runs: What `measure` returned.
        path: Of the file, `.html`.
        labels: What to call the runs; by default the checkpoints' names.

    Raises:
        UsageError: For another suffix, or datasets that are no runs.
        StorageError: If the file cannot be written; what was there before is untouched.

    Example:
        >>> run = lipdiag.open_run("digits-ddpm.zarr")
        >>> lipdiag.report(run, "report.html").name
        'report.html'
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"cannot write a page to {path}: its name must end in .html")
    return write(path, page(runs, labels).encode())


def page(runs: "xr.Dataset | Sequence[xr.Dataset]", labels: Sequence[str] | None = None) -> str:
    """The page that `report` writes, as text."""
    import xarray as xr

    datasets = [runs] if isinstance(runs, xr.Dataset) else list(runs)
    names = [printable(run.label) for run in read(datasets, labels)]
    named = read(datasets, names)
    style, script = (files(__package__).joinpath(f"page.{kind}").read_text() for kind in ("css", "js"))
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    title = f"lipdiag: {', '.join(names)}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element("body", *content(named), element("script", Markup(script)))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def content(runs: Sequence[Run]) -> list[Markup]:
    """What stands on the page, from top to bottom."""
    places = [(f"run-{number}", run) for number, run in enumerate(runs, start=1)]
    parts = [element("h1", "Where is ", " and ".join(run.label for run in runs), " ill-conditioned?")]
    cautions = [
        element("li", coded(f"{run.label}: {shortened(caution)}"))
        for run in runs
        for caution in run.remarks("warnings")
    ]
    parts += [element("ul", cautions, class_="cautions")] if cautions else []
    parts += [element("p", coded(" ".join(summary(runs))), class_="summary")]
    todo = [element("li", coded(sentence)) for sentence in to_do(runs)]
    parts += [element("h2", "What to do next"), element("ul", todo)] if todo else []
    names: set[str] = set()
    if len(runs) > 1:
        links = [element("a", run.label, href=f"#{place}") for place, run in places]
        section, names = together(runs)
        parts += [element("nav", element("a", "Side by side", href="#together"), links), section]
    parts += [alone(run, place, names) for place, run in places]
    how = element("h2", "How to read the numbers"), element("p", READING, class_="soft")
    versions = ", ".join(dict.fromkeys(map(version, runs)))
    return [*parts, *how, element("footer", f"Made by lipdiag from runs of lipdiag {versions}.")]


def alone(run: Run, place: str, drawn_already: set[str]) -> Markup:
    """The section of a run; figures that show it beside others are not drawn again."""
    return element(
        "section",
        element("h2", run.label),
        element("p", about(run), class_="soft"),
        folded("Notes", run.remarks("notes")),
        element("ul", [judged(verdict) for verdict in verdicts(run)], class_="verdicts"),
        checked(run),
        drawn([run], place, drawn_already)[0],
        element("h3", f"All {counted(run.timestep.size, 'timestep')}"),
        numbers(run),
        element("h3", "Where it comes from"),
        provenance(run),
        id=place,
    )


def checked(run: Run) -> Markup:
    """The verdict by the laws of true models, and each check beside its threshold; nothing where none was tried."""
    if run.raw or run.over_logsnr or not (diagnosis := judge(run.dataset, label=run.label)).cells:
        return Markup()
    rows = [element("tr", [element("td", text) for text in row]) for row in diagnosis.cells]
    table = element("table", element("tr", [element("th", text) for text in HEADINGS]), rows)
    checks = element("details", element("summary", f"Checks ({len(rows)})"), table)
    return joined([element("h3", "Laws of true models"), element("p", diagnosis.headline), checks])


def together(runs: Sequence[Run]) -> tuple[Markup, set[str]]:
    """The section that compares runs with the first of them, and the names of its figures."""
    said = [compared(runs[0], run) for run in runs[1:]]
    figures, names = drawn(runs, "together")
    return element("section", element("h2", "Side by side"), said, figures, id="together"), names


def compared(first: Run, second: Run) -> Markup:
    """What can be said of a run beside another: paired statements, how they were made, and what they lack."""
    try:
        comparison = compare(first.dataset, second.dataset, labels=(first.label, second.label))
    except (RunError, UsageError) as error:
        return element("p", coded(f"{second.label} is not compared with {first.label}: {error}."))
    verdicts = [judged(verdict) for verdict in between(comparison)]
    notes = element("p", f"Intervals: {comparison.method}.", class_="soft")
    return joined([element("ul", verdicts, class_="verdicts"), notes, folded("Not compared", comparison.missing)])


def folded(title: str, texts: Sequence[str]) -> Markup:
    """A list that is shown when it is asked for; nothing where it is empty."""
    items = element("ul", [element("li", coded(shortened(text))) for text in texts])
    return element("details", element("summary", f"{title} ({len(texts)})"), items) if texts else Markup()


def about(run: Run) -> str:
    """A run in a line."""
    entries = f" of {run.dimension} entries" if run.dimension else ""
    return f"{run.draws} of {run.data}{entries} at {counted(run.timestep.size, 'timestep')}. {run.own_time}"


def coded(sentence: str) -> Markup:
    """A sentence in which what stands between backticks is code."""
    parts = sentence.split("`")
    return joined([element("code", part) if odd % 2 else part for odd, part in enumerate(parts)])


def judged(verdict: Verdict) -> Markup:
    return element("li", verdict.words, element("small", f"{verdict.quantity}: ", element("b", str(verdict.estimate))))


def drawn(runs: Sequence[Run], place: str, but: Container[str] = ()) -> tuple[Markup, set[str]]:
    """Every figure that these runs have the data for, and their names; for the others, what they lack."""
    shown, missing, names = [], [], set()
    labels = [run.label for run in runs]
    for name, spec in FIGURES.items():
        if name in but or spec.source != "run":
            continue
        try:
            picture = plot([run.dataset for run in runs], figure=name, style=STYLE, labels=labels)
        except (RunError, UsageError) as error:
            missing.append(f"{name}: {error}")
            continue
        names.add(name)
        words = element("figcaption", element("output"), captioned(name, picture.caption or spec.line))
        shown.append(element("figure", inline(picture, f"{place}-{name}-", name), words))
    return joined([element("div", shown, class_="figures"), folded("Not drawn", missing)]), names


def captioned(name: str, caption: str) -> Markup:
    """The caption of a figure, and what to copy for a paper: that, and the LaTeX of the float."""
    buttons = [
        element("button", f"Copy {what}", type="button", class_="copy", data_text=several_lines(text))
        for what, text in (("caption", caption), ("LaTeX", snippet(name, caption)))
    ]
    return joined([element("p", caption), element("p", buttons, class_="buttons")])


def numbers(run: Run) -> Markup:
    """A table of means with their intervals; a click on a heading sorts it."""
    names = [name for name in variables(run) if not name.endswith(EVIDENCE)]
    statistics = {name: run.statistics(name) for name in names}
    axis = {"timestep": run.timestep, "t": run.time("t"), "log SNR": run.time("logsnr")}
    described = {name: about_variable(run, name) for name in names}
    headings = [
        element("th", element("button", name, type="button"), title=described.get(name), scope="col")
        for name in (*axis, *names, "n")
    ]
    rows = []
    count = (run.dataset["done"] == 1).sum("draw").values
    for i in range(run.timestep.size):
        cells = [cell(values[i], f"{values[i]:.6g}") for values in axis.values()]
        for s in statistics.values():
            cells.append(cell(s.mean[i], with_half_width(s.mean[i], s.half_width[i]).replace("+-", "±")))
        rows.append(element("tr", cells, cell(float(count[i]), str(count[i]))))
    table = element("table", element("thead", element("tr", headings)), element("tbody", rows))
    note = "Means over draws ± half of the 95 % interval; click a heading to sort."
    return joined([element("p", note, class_="soft"), element("div", table, class_="scroll", tabindex="0")])


def cell(value: float, text: str) -> Markup:
    return element("td", text, data_value=f"{float(value):.9g}")


def about_variable(run: Run, name: str) -> str:
    """What a variable is, in which unit and norm."""
    attributes = run.dataset[name].attrs
    return "; ".join(str(attributes[key]) for key in ("long_name", "units", "norm") if key in attributes)
