"""The study's small tables: what is kept of its runs and evaluations, and what is said and drawn from that alone."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import xarray as xr
from sizes import KINDS, Size

from lipdiag import figures, open_run
from lipdiag.comparison.comparison import Comparison, compare
from lipdiag.comparison.statements import Statement
from lipdiag.comparison.table import bounded, number
from lipdiag.figures.comparison import draw
from lipdiag.printing import plain
from lipdiag.results.run import COORDINATES
from lipdiag.statistics import half_width, moments
from lipdiag.store.reader import open_evaluation

HERE = Path(__file__).parent
LABELS = ("DDPM", "E-TSDM")
KEPT = ("time_difference", "time_derivative", "spectral_norm", "loss", "sensitivity", "spectral_norm_upper")
DISTANCES = ("fid", "kid", "kid_standard_error", "nearest_ratio", "copies")
ABOUT = ("extractor", "n", "n_real", "floor_fid", "floor_kid")
OF_VARIANTS = (
    "One training each (seed 0), so that there is no interval over trainings: "
    "in bold what lies outside of where one more DDPM would lie at 95 % (Student's prediction interval over the seeds "
    "of the first column; of so many numbers some lie outside by chance). `log_snr`: the network is told the log-SNR, "
    "and trained at continuous t; its K is per timestep of the table, as all. `penalty`: 1e4 times the mean square of "
    "the output's derivative in the timestep is added to the loss. `sine`: the table with sigma = sin(pi t / 2), whose "
    "slope at t = 0 is finite; the same timestep is another noise level there, so that its K, loss and norms at a "
    "timestep are of another task."
)
SWAPPED_LABELS = {"ddpm_shared": "DDPM, shared", "etsdm_unshared": "E-TSDM, unshared"}
OF_SWAPPED = (
    "No weights but those of above. `DDPM, shared` was trained without sharing, and is told the shared times of its "
    "twin when it is measured and when it is sampled; `E-TSDM, unshared` was trained with sharing, and is told every "
    "timestep, of which it has seen one a block. Each stands beside the same weights under the clock that they were "
    "trained by, paired over the training seeds, every interval at 95 % by itself. Samples that do not change at all "
    "are those of a sampler that asks for no time below 100 but the first of a block, which is told as it is."
)
CROWDED = 6
"""Samplers that have a place each in the figure of a comparison; more are drawn over their steps."""


def run_of(models: Path, name: str) -> Path:
    return models / f"{name}.zarr"


def evaluation_of(models: Path, name: str, features: str) -> Path:
    return models / f"{name}-{features}.zarr"


def keep(size: Size, models: Path, out: Path) -> None:
    """The means of every run and the distances of every evaluation that there are, as small tables."""
    curves, distances, about, axis = [], [], {}, None
    for name in [name for name in size.models if run_of(models, name).exists()]:
        kind, _, seed = name.rpartition("-")
        run = open_run(run_of(models, name)).load()
        axis = run if axis is None else axis  # of the first model: a variant's schedule may be another
        done = run["done"] == 1
        means = {v: run[v].where(done).mean("draw").values for v in KEPT}
        for i, timestep in enumerate(run["timestep"].values):
            curves.append({"kind": kind, "seed": seed, "timestep": timestep} | {v: means[v][i] for v in KEPT})
        judged = {features: evaluation_of(models, name, features) for features in size.extractors}
        opened = {features: open_evaluation(path) for features, path in judged.items() if path.exists()}
        for features, evaluation in opened.items():
            for sampler in evaluation["sampler"].values.tolist():
                for sampling in evaluation["seed"].values.tolist():
                    cell = evaluation.sel(sampler=sampler, seed=sampling)
                    place = {"kind": kind, "seed": seed, "extractor": features}
                    place |= {"sampler": sampler, "sampling_seed": sampling}
                    distances.append(place | {v: float(cell[v]) for v in DISTANCES})
        about[name] = {
            "frozen": run.attrs["frozen"],
            "data": size.data,
            "checkpoint": PurePath(run.attrs["checkpoint"]).name,
            "draws": int(done.sum("draw").min()),
            "torch": run.attrs["launches"][0]["versions"]["torch"],
            "evaluations": {features: {key: e.attrs[key] for key in ABOUT} for features, e in opened.items()},
        }
    assert axis is not None, f"there is no run in {models}"
    coordinates = [{c: float(axis[c][i]) for c in COORDINATES} for i in range(axis.sizes["time"])]
    described = {v: axis[v].attrs for v in KEPT} | {"timestep": axis["timestep"].attrs}
    tables = out / size.file
    tables.mkdir(parents=True, exist_ok=True)
    for file, rows in (("curves", curves), ("quality", distances), ("timesteps", coordinates)):
        write(tables / f"{file}.csv", rows)
    (tables / "about.json").write_text(json.dumps({"runs": about, "variables": described}, indent=1) + "\n")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{x:.10g}" if isinstance(x, float) else x for key, x in row.items()} for row in rows)


@dataclass(frozen=True)
class Tables:
    """What is kept, read back: a run with a single draw, which is the mean of them all.

    Args:
        folder: That it is in.
    """

    folder: Path

    @cached_property
    def about(self) -> dict[str, Any]:
        return json.loads((self.folder / "about.json").read_text())

    @cached_property
    def rows(self) -> dict[str, list[dict[str, str]]]:
        """File -> its rows."""
        found = {}
        for name in ("curves", "quality", "timesteps"):
            with open(self.folder / f"{name}.csv", newline="") as file:
                found[name] = list(csv.DictReader(file))
        return found

    def of(self, file: str, name: str) -> list[dict[str, str]]:
        return [row for row in self.rows[file] if f"{row['kind']}-{row['seed']}" == name]

    def run(self, name: str) -> xr.Dataset:
        described, rows = self.about["variables"], self.of("curves", name)
        axis: dict[str, Any] = {
            c: ("time", np.array([float(r[c]) for r in self.rows["timesteps"]])) for c in COORDINATES
        }
        axis["timestep"] = (*axis["timestep"], described["timestep"])
        dims = "time", "draw"
        values: dict[str, Any] = {v: (dims, np.array([[float(r[v])] for r in rows]), described[v]) for v in KEPT}
        values["done"] = dims, np.ones((len(rows), 1), dtype="int8")
        return xr.Dataset(values, axis | {"draw": [0]}, self.about["runs"][name])

    def evaluation(self, name: str, features: str) -> xr.Dataset | None:
        rows = [row for row in self.of("quality", name) if row["extractor"] == features]
        if not rows:
            return None
        samplers = list(dict.fromkeys(row["sampler"] for row in rows))
        seeds = list(dict.fromkeys(int(row["sampling_seed"]) for row in rows))
        values = {
            v: (("sampler", "seed"), np.array([float(row[v]) for row in rows]).reshape(len(samplers), -1))
            for v in DISTANCES
        }
        known = self.about["runs"][name]
        attributes = known["evaluations"][features] | {"checkpoint": known["checkpoint"]}
        return xr.Dataset(values, {"sampler": samplers, "seed": seeds}, attributes)

    def pairs(self, size: Size, kinds: Sequence[str] = tuple(KINDS)) -> list[tuple[str, ...]]:
        """Names of both models of each seed that has both."""
        pairs = [tuple(f"{kind}-{seed}" for kind in kinds) for seed in range(size.seeds)]
        return [pair for pair in pairs if all(name in self.about["runs"] for name in pair)]

    def compared(self, pairs: list[tuple[str, ...]], features: str, labels: tuple[str, str] = LABELS) -> Comparison:
        """The comparison of some pairs, with the quality of samples where all have it."""
        runs = [tuple(map(self.run, pair)) for pair in pairs]
        judged = [tuple(self.evaluation(name, features) for name in pair) for pair in pairs]
        whole = all(evaluation is not None for pair in judged for evaluation in pair)
        return compare(*runs[0], runs[1:], judged if whole else (), labels)


def kept(size: Size, tables: Path, features: str | None = None) -> Comparison:
    """The comparison of all trainings, from the tables; samples as one of the extractors sees them, else the first."""
    read = Tables(tables)
    return read.compared(read.pairs(size), features or size.extractors[0])


def judgements(statements: "tuple[Statement, ...] | list[Statement]") -> list[str]:
    """Rows of a table in Markdown, one a statement."""
    return [
        f"| {escaped(s.name)} | {number(s.effect.a)} | {number(s.effect.b)} | {change(s)} | {s.verdict} |"
        for s in statements
    ]


def change(s: Statement) -> str:
    """How the second model differs, with the interval."""
    return f"x {bounded(s.effect.ratio)}" if s.by_ratio else bounded(s.effect.difference, sign=True)


def escaped(name: str) -> str:
    return name.replace("<", "&lt;").replace(">", "&gt;")


def swaps(size: Size, read: Tables, features: str) -> list[Comparison]:
    """Each swapped kind that there is beside the same weights under their own clock, of all training seeds."""
    owners = dict(zip(KINDS, LABELS, strict=True))
    found = []
    for kind, (owner, _) in size.swapped.items():
        if pairs := read.pairs(size, (owner, kind)):
            found.append(read.compared(pairs, features, (owners[owner], SWAPPED_LABELS[kind])))
    return found


def of_swapped(size: Size, read: Tables) -> list[str]:
    """A table in Markdown of each extractor: the swapped kinds side by side, the first with K and all else too."""
    lines: list[str] = []
    for features in size.extractors:
        found = swaps(size, read, features)
        if not found or any(each.quality is None for each in found):
            continue
        if lines:
            lines += ["", f"The same samples, seen by {found[0].quality.extractor}:"]
        heads = [cell for each in found for cell in (each.labels[1], f"against {each.labels[0]}, 95 %", "is")]
        lines += ["", f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        for same in zip(*(each.statements for each in found), strict=True):
            if features == size.extractors[0] or same[0].variable in found[0].quality.values:
                cells = [cell for s in same for cell in (number(s.effect.b), change(s), s.verdict)]
                lines.append(f"| {escaped(same[0].name)} | {' | '.join(cells)} |")
    return ["", "## Shared times at sampling alone, or in training alone", "", OF_SWAPPED, *lines] if lines else []


def of_variants(size: Size, read: Tables) -> list[str]:
    """Rows of a table in Markdown: each variant beside where one more DDPM would lie, marked where it lies outside."""
    pairs = read.pairs(size)
    there = [variant for variant in size.variants if f"{variant}-0" in read.about["runs"]]
    if not there or len(pairs) < 2:
        return []
    against = {
        variant: [read.compared([(pair[0], f"{variant}-0")], size.extractors[0]).statements for pair in pairs]
        for variant in there
    }
    lines = [f"| | DDPM, one more training, 95 % | {' | '.join(there)} |", "|---|---|" + "---|" * len(there)]
    found = {variant: {s.name: s for s in each[0]} for variant, each in against.items()}
    for name in dict.fromkeys(name for statements in found.values() for name in statements):
        cells = []
        for variant in there:
            if name in found[variant]:
                seeds = np.array([float(s.effect.a) for one in against[variant] for s in one if s.name == name])
                low, high = one_more(seeds, found[variant][name].by_ratio)
                value = float(found[variant][name].effect.b)
                cells.append(f"**{plain(value)}**" if value < low or value > high else plain(value))
            else:
                cells.append("-")
        lines.append(f"| {escaped(name)} | {plain(low)} to {plain(high)} | {' | '.join(cells)} |")
    return lines


def one_more(seeds: np.ndarray, by_ratio: bool) -> tuple[float, float]:
    """Where one more training lies at 95 %, by Student's prediction interval, of the logarithms if ratios count."""
    seeds = seeds[np.isfinite(seeds)]
    logarithms = by_ratio and bool((seeds > 0).all())
    mean, error = moments(np.log(seeds) if logarithms else seeds)
    half = float(half_width(np.asarray(error * math.sqrt(len(seeds) + 1)), np.array(len(seeds))))
    ends = float(mean) - half, float(mean) + half
    return (math.exp(ends[0]), math.exp(ends[1])) if logarithms else ends


def words(size: Size, read: Tables, caption: str, pictures: Sequence[str]) -> str:
    """The tables of statements, pictures of what the first does not show, and what it takes to read them."""
    runs = read.about["runs"]
    first, pairs = next(iter(runs.values())), read.pairs(size)
    found = kept(size, read.folder)
    heads = [
        f"| | {LABELS[0]} | {LABELS[1]} | ratio (x) or difference, 95 % | {LABELS[1]} is |",
        "|---|---|---|---|---|",
    ]
    lines = [f"# {size.file}", "", caption, "", *heads, *judgements(found.statements)]
    count, judged = len(found.statements), [found.quality] if found.quality else []
    for features in size.extractors[1:]:
        other = kept(size, read.folder, features)
        if other.quality is not None:
            samples = [s for s in other.statements if s.variable in other.quality.values]
            lines += ["", f"The same samples, seen by {other.quality.extractor}:", "", *heads, *judgements(samples)]
            count, judged = count + len(samples), [*judged, other.quality]
    lines += [
        "",
        f"Means over {len(pairs)} training seeds. {found.method[0].upper()}{found.method[1:]}. Each interval is at 95 "
        f"% by itself: of {count} statements about equal ways of training one in twenty would be "
        "called different. K below 100 is exactly 0 inside E-TSDM's blocks by construction, so that its sum is that "
        "of its jumps; sums and means are linear between measured timesteps.",
    ]
    lines += of_swapped(size, read)
    if variants := of_variants(size, read):
        lines += ["", "## What the paper weighs against sharing", "", OF_VARIANTS, "", *variants]
    for picture in pictures:
        lines += ["", f"![FID and KID over the steps of each sampler]({picture})"]
    floors = "; ".join(
        f"{quality.extractor}: " + ", ".join(f"{name.upper()} {plain(x)}" for name, x in quality.floors.items())
        for quality in judged
    )
    command = "python figures/study.py" if size.file == "study" else f"python figures/study.py {size.file}"
    lines += [
        "",
        *([size.remarks, ""] if size.remarks else []),
        f"- {first['draws']} draws of {first['data']} a timestep and model, the same in all; sampling seeds: "
        f"{size.sampling_seeds}; real data against real data: {floors}",
        f"- made by `{command} {'--data FILE ' if size.side else ''}--models DIR` (torch {first['torch']}); redrawn by "
        f"`{command} --redraw` from `{size.file}/`: `curves.csv`, `quality.csv`, `timesteps.csv`, `about.json`",
        "- weights: " + ", ".join(f"{name} `{weights_of(runs[name])}`" for name in runs if name in size.trainings),
        f"- the data drawn: `{size.file}.csv`",
        "",
    ]
    return "\n".join(lines)


def weights_of(run: dict[str, Any]) -> str:
    """The beginning of their hash."""
    return run["frozen"]["model"]["weights_sha256"][:8]


def over_trainings(size: Size, read: Tables, features: str) -> list[xr.Dataset]:
    """An evaluation of each kind whose seeds are those of the trainings, for the figure over the samplers' steps."""
    found = []
    for side in range(len(KINDS)):
        each = [read.evaluation(pair[side], features) for pair in read.pairs(size)]
        means = [evaluation.mean("seed", keep_attrs=True) for evaluation in each if evaluation is not None]
        found += [xr.concat(means, "seed", combine_attrs="override")] if means else []
    return found


def redraw(size: Size, out: Path = HERE) -> None:
    """Figures and words from the tables that are kept."""
    read = Tables(out / size.file)
    found = kept(size, read.folder)
    crowded = found.quality is not None and len(found.quality.samplers) > CROWDED
    picture = draw(replace(found, quality=None) if crowded else found)
    for suffix in (".pdf", ".svg", ".png"):
        figures.save(picture, out / f"{size.file}{suffix}")
    pictures = []
    for features in size.extractors if crowded else ():
        if judged := over_trainings(size, read, features):
            pictures.append(f"{size.file}-{features}.png")
            figures.save(figures.plot(judged, figure="quality", labels=LABELS), out / pictures[-1])
    (out / f"{size.file}.md").write_text(words(size, read, picture.caption, pictures))
