"""The study: DDPMs and their E-TSDM twins from several training seeds, measured, judged and compared.

`python figures/study.py --models DIR` trains what is not in DIR yet (seed 0 is the embedded pair), measures every
model, evaluates its samples, and keeps small tables of it in figures/study/; it can be stopped and started again at
any time.
`python figures/study.py --redraw` draws figure and table anew from these tables alone, in seconds.

With several trainings a training is the replicate, so one mean a timestep and training is all that is kept of a run.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import xarray as xr

from lipdiag import figures, open_run
from lipdiag.comparison.comparison import Comparison, compare
from lipdiag.comparison.table import bounded
from lipdiag.figures.comparison import draw
from lipdiag.printing import plain
from lipdiag.results.run import COORDINATES
from lipdiag.store.reader import open_evaluation

HERE = Path(__file__).parent
TABLES = HERE / "study"
KINDS: dict[str, list[str]] = {"ddpm": [], "etsdm": ["--etsdm"]}
LABELS = ("DDPM", "E-TSDM")
SEEDS = range(5)
TIMESTEPS = (
    "0,1,2,3,5,7,10,14,19,20,24,30,39,40,49,59,60,70,79,80,90,99,100,110,130,160,200,260,330,420,530,670,830,999"
)
"""Dense below the end of sharing, with both sides of every edge, and evenly spaced in log t from there on."""

QUANTITIES = ("time_difference", "time_derivative", "spectral_norm", "loss", "sensitivity")
KEPT = (*QUANTITIES, "spectral_norm_upper")
DISTANCES = ("fid", "kid", "kid_standard_error", "nearest_ratio", "copies")
ABOUT = ("extractor", "n", "n_real", "floor_fid", "floor_kid")
SAMPLERS = ("ddim:20", "dpm:20", "ddpm:100")
SAMPLING_SEEDS = range(2)


def lipdiag(*arguments: str) -> None:
    """A command of this installation, in a process of its own; it goes on with what it began before."""
    ended = subprocess.run([sys.executable, "-m", "lipdiag", *arguments]).returncode
    if ended:
        sys.exit(ended)  # the command has said why


def carry_out(models: Path, draws: int, samplers: list[str], n: int) -> None:
    """Train, measure and evaluate every model that is not done yet."""
    models.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        for kind, options in KINDS.items():
            name = f"{kind}-{seed}"
            checkpoint = f"digits-{kind}" if seed == 0 else str(models / name)
            if seed and not (models / name / "model.safetensors").exists():
                lipdiag("train", "--recipe", "digits", "--seed", str(seed), *options, "--out", checkpoint)
            asked = [word for quantity in QUANTITIES for word in ("--quantity", quantity)]
            run = ["--timesteps", TIMESTEPS, "--draws", str(draws), *asked, "--out", str(run_of(models, name))]
            lipdiag("measure", checkpoint, *run, "--data", "digits", "--json")
            asked = [word for sampler in samplers for word in ("--sampler", sampler)]
            judged = ["--n", str(n), "--seeds", str(len(SAMPLING_SEEDS)), "--extractor", "digits", "--data", "digits"]
            lipdiag("evaluate", checkpoint, *asked, *judged, "--out", str(evaluation_of(models, name)), "--json")


def run_of(models: Path, name: str) -> Path:
    return models / f"{name}.zarr"


def evaluation_of(models: Path, name: str) -> Path:
    return models / f"{name}-quality.zarr"


def keep(models: Path, tables: Path) -> None:
    """The means of every run and the distances of every evaluation, as small tables."""
    curves, distances, about = [], [], {}
    for kind in KINDS:
        for seed in SEEDS:
            name = f"{kind}-{seed}"
            run, judged = open_run(run_of(models, name)).load(), open_evaluation(evaluation_of(models, name))
            done = run["done"] == 1
            means = {v: run[v].where(done).mean("draw").values for v in KEPT}
            for i, timestep in enumerate(run["timestep"].values):
                curves.append({"kind": kind, "seed": seed, "timestep": timestep} | {v: means[v][i] for v in KEPT})
            for sampler in judged["sampler"].values.tolist():
                for sampling in SAMPLING_SEEDS:
                    cell = judged.sel(sampler=sampler, seed=sampling)
                    place = {"kind": kind, "seed": seed, "sampler": sampler, "sampling_seed": sampling}
                    distances.append(place | {v: float(cell[v]) for v in DISTANCES})
            about[name] = {
                "frozen": run.attrs["frozen"],
                "data": run.attrs["data"],
                "checkpoint": PurePath(run.attrs["checkpoint"]).name,
                "draws": int(done.sum("draw").min()),
                "torch": run.attrs["launches"][0]["versions"]["torch"],
                "evaluation": {key: judged.attrs[key] for key in ABOUT},
            }
    coordinates = [{c: float(run[c][i]) for c in COORDINATES} for i in range(run.sizes["time"])]
    described = {v: run[v].attrs for v in KEPT} | {"timestep": run["timestep"].attrs}
    tables.mkdir(parents=True, exist_ok=True)
    for file, rows in (("curves", curves), ("quality", distances), ("timesteps", coordinates)):
        with open(tables / f"{file}.csv", "w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {key: f"{x:.10g}" if isinstance(x, float) else x for key, x in row.items()} for row in rows
            )
    (tables / "about.json").write_text(json.dumps({"runs": about, "variables": described}, indent=1) + "\n")


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def kept(tables: Path) -> Comparison:
    """The comparison of all trainings, from the tables: a run with a single draw, which is the mean of them all."""
    about = json.loads((tables / "about.json").read_text())
    times, curves, distances = (table(tables / f"{file}.csv") for file in ("timesteps", "curves", "quality"))
    axis = {c: ("time", np.array([float(row[c]) for row in times])) for c in COORDINATES}
    axis["timestep"] = (*axis["timestep"], about["variables"]["timestep"])

    def run(name: str, kind: str, seed: int) -> xr.Dataset:
        rows = [row for row in curves if (row["kind"], int(row["seed"])) == (kind, seed)]
        values: dict[str, Any] = {
            v: (("time", "draw"), np.array([[float(row[v])] for row in rows]), about["variables"][v]) for v in KEPT
        }
        values["done"] = (("time", "draw"), np.ones((len(rows), 1), dtype="int8"))
        return xr.Dataset(values, axis | {"draw": [0]}, about["runs"][name])

    def evaluation(name: str, kind: str, seed: int) -> xr.Dataset:
        rows = [row for row in distances if (row["kind"], int(row["seed"])) == (kind, seed)]
        samplers = list(dict.fromkeys(row["sampler"] for row in rows))
        seeds = list(dict.fromkeys(int(row["sampling_seed"]) for row in rows))
        values = {
            v: (("sampler", "seed"), np.array([float(row[v]) for row in rows]).reshape(len(samplers), -1))
            for v in DISTANCES
        }
        known = about["runs"][name]
        known = {**known["evaluation"], "checkpoint": known["checkpoint"]}
        return xr.Dataset(values, {"sampler": samplers, "seed": seeds}, known)

    names = {(kind, seed): f"{kind}-{seed}" for kind in KINDS for seed in SEEDS}
    pairs, judged = (
        [tuple(make(names[kind, seed], kind, seed) for kind in KINDS) for seed in SEEDS] for make in (run, evaluation)
    )
    return compare(*pairs[0], pairs[1:], judged, LABELS)


def words(found: Comparison, caption: str, tables: Path) -> str:
    """The table of statements, and what it takes to read it."""
    about = json.loads((tables / "about.json").read_text())["runs"]
    first = next(iter(about.values()))
    assert found.quality is not None
    floors = ", ".join(f"{name.upper()} {plain(value)}" for name, value in found.quality.floors.items())
    lines = ["# study", "", caption, ""]
    lines += [
        f"| | {LABELS[0]} | {LABELS[1]} | ratio (x) or difference, 95 % | {LABELS[1]} is |",
        "|---|---|---|---|---|",
    ]
    for s in found.statements:
        change = f"x {bounded(s.effect.ratio)}" if s.by_ratio else bounded(s.effect.difference, sign=True)
        means = f"{plain(float(s.effect.a))} | {plain(float(s.effect.b))}"
        lines.append(f"| {s.name.replace('<', '&lt;').replace('>', '&gt;')} | {means} | {change} | {s.verdict} |")
    lines += [
        "",
        f"Means over {len(SEEDS)} training seeds. {found.method[0].upper()}{found.method[1:]}. Each interval is at 95 "
        f"% by itself: of {len(found.statements)} statements about equal ways of training one in twenty would be "
        "called different. K below 100 is exactly 0 inside E-TSDM's blocks by construction, so that its sum is that "
        "of its jumps; sums and means are linear between measured timesteps.",
        "",
        f"- {first['draws']} draws of {first['data']} a timestep and model, the same in all; "
        f"samples: {found.quality.extractor}, {len(SAMPLING_SEEDS)} sampling seeds; real data against real data: "
        f"{floors}",
        f"- made by `python figures/study.py --models DIR` (torch {first['torch']}); redrawn by "
        "`python figures/study.py --redraw` from `study/`: `curves.csv`, `quality.csv`, `timesteps.csv`, `about.json`",
        "- weights: "
        + ", ".join(f"{name} `{run['frozen']['model']['weights_sha256'][:8]}`" for name, run in about.items()),
        "- the data drawn: `study.csv`",
        "",
    ]
    return "\n".join(lines)


def redraw(tables: Path = TABLES, out: Path = HERE) -> None:
    """Figure and Markdown table from the tables that are kept."""
    found = kept(tables)
    picture = draw(found)
    for suffix in (".pdf", ".svg", ".png"):
        figures.save(picture, out / f"study{suffix}")
    (out / "study.md").write_text(words(found, picture.caption, tables))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="where trainings, runs and evaluations are, or will be")
    parser.add_argument(
        "--out", type=Path, default=TABLES, help="where the small tables go; figure and words beside it"
    )
    parser.add_argument("--draws", type=int, default=32, help="samples x0 a timestep and model")
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    parser.add_argument("--n", type=int, default=1000, help="samples an evaluation")
    parser.add_argument("--redraw", action="store_true", help="only draw, from the tables that are kept")
    asked = parser.parse_args()
    if not asked.redraw:
        if asked.models is None:
            parser.error("--models DIR is needed, or --redraw")
        carry_out(asked.models, asked.draws, asked.samplers, asked.n)
        keep(asked.models, asked.out)
    redraw(asked.out, asked.out.parent)


if __name__ == "__main__":
    main()
