"""Redraw every figure in this folder from the embedded models: `make figures`, a few minutes on one core.

Each picture is made by the commands written beside it, run here in a temporary folder. `figures/make.py NAME...` makes
those figures alone; with LIPDIAG_FIGURES=FOLDER the runs are kept there and gone on with.
"""

import contextlib
import csv
import io
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lipdiag
from lipdiag import Plan, report
from lipdiag.cli import main as command
from lipdiag.report.source import LOG, MEASURED, open_source

HERE = Path(__file__).parent
BLOCK_ENDS = (19, 39, 59, 79, 99)
PAIR = ("digits-ddpm", "digits-etsdm")
STEPS, MEASURE_EVERY = 250, 50


class Run(NamedTuple):
    """What is measured once, for one or several figures, of one model or both."""

    options: str
    models: tuple[str, ...] = PAIR


def near_zero() -> str:
    """64 timesteps from first to last, with all of the first ones and the end of each block."""
    from lipdiag.study.plan import resolve_timesteps

    clock = lipdiag.load("digits-etsdm").clock
    times = sorted({*range(16), *BLOCK_ENDS, *resolve_timesteps("log:64", clock).astype(int).tolist()})
    return ",".join(map(str, times))


def quantities(*names: str) -> str:
    return " ".join(f"--quantity {name}" for name in names)


RUNS = {
    "time": Run(
        f"--timesteps {near_zero()} --draws 64 "
        + quantities("time_derivative", "time_difference", "trajectory_derivative", "embedding", "loss")
    ),
    "matrix": Run(f"--timesteps log:24 --draws 24 {quantities('pairs', 'swap')}"),
    "jacobian": Run(
        "--timesteps log:20 --draws 16 "
        + quantities("spectral_norm", "singular_values", "one_sided_lipschitz", "squared_frobenius_norm", "trace")
    ),
    "vectors": Run(f"--timesteps 0,10,100,500 --draws 1 {quantities('vectors')}", PAIR[:1]),
}
FIGURES = {
    "singularity": ("time", PAIR),
    "jumps": ("time", PAIR),
    "derivatives": ("time", PAIR[:1]),
    "pairs": ("matrix", PAIR),
    "swap": ("matrix", PAIR),
    "distribution": ("time", PAIR[:1]),
    "jacobian": ("jacobian", PAIR),
    "spectrum": ("jacobian", PAIR[:1]),
    "vectors": ("vectors", PAIR[:1]),
    "schedules": ("time", PAIR[:1]),
    "embedding": ("time", PAIR),
}
"""Figure -> the run it is drawn from, and of which models."""

VECTOR = ("singularity", "compare")
"""Kept as PDF and SVG too."""


def measure(name: str, model: str) -> tuple[str, str]:
    """The run's folder, and the command that made it."""
    out = f"{model.removeprefix('digits-')}-{name}.zarr"
    text = f"measure {model} {RUNS[name].options} --out {out}"
    with contextlib.redirect_stdout(io.StringIO()):  # its table
        command([*shlex.split(text), "--quiet"], standalone_mode=False)
    return out, f"lipdiag {text}"


def measured(figure: str) -> tuple[list[str], list[str]]:
    """What a figure is drawn from, and the commands."""
    name, models = FIGURES[figure]
    made = [measure(name, model) for model in models]
    return [out for out, _ in made], [text for _, text in made]


def sampled() -> tuple[list[str], list[str]]:
    """Samples of both models from the same noise."""
    from lipdiag.quality.sample import sample

    for model in PAIR:
        images = sample(lipdiag.load(model), 64, steps=50, seed=0).numpy()
        np.savez(f"{model}.npz", samples=images)
    said = f"`lipdiag.quality.sample.sample(lipdiag.load(MODEL), 64, steps=50, seed=0)` for {' and '.join(PAIR)}"
    return [f"{model}.npz" for model in PAIR], [said]


def trained() -> tuple[list[str], list[str]]:
    """A short training with K measured on the way, logged as `lipdiag train` does."""
    from dataclasses import replace

    from lipdiag.training.loop import train
    from lipdiag.training.recipe import RECIPES

    out = Path("digits-short")
    out.mkdir(exist_ok=True)
    plan = Plan(timesteps=(0, 10, 100, 500), draws=16, quantities=("time_difference",))
    with open(out / LOG, "w", newline="") as log, open(out / MEASURED, "w", newline="") as measures:
        steps, timesteps = csv.writer(log), csv.writer(measures)
        steps.writerow(["step", "loss", "learning_rate", "gradient_norm"])
        timesteps.writerow(["step", "timestep", "mean", "standard_error"])
        for state in train(replace(RECIPES["digits"], steps=STEPS)):
            steps.writerow([state.step, state.loss, state.learning_rate, state.gradient_norm])
            if state.step % MEASURE_EVERY == 0:
                found = lipdiag.summarize(
                    lipdiag.measure(state.predictor, data="digits", plan=plan, progress=False)
                ).time_difference
                for i, timestep in enumerate(found["timestep"].values):
                    values = (float(found.sel(statistic=s)[i]) for s in ("mean", "standard_error"))
                    timesteps.writerow([state.step, timestep, *values])
    said = f"the recipe `digits`, {STEPS} steps, K of the raw weights every {MEASURE_EVERY} steps over 16 draws"
    return [str(out)], [said]


OTHERS: dict[str, Callable[[], tuple[list[str], list[str]]]] = {"samples": sampled, "training": trained}


def draw(figure: str, sources: list[str]) -> Any:
    """The picture, from what was saved."""
    return report.plot([open_source(source, report.FIGURES[figure].source) for source in sources], figure=figure)


def write(figure: str, picture: Any, made: list[str], drawn: str) -> None:
    """The files of a figure: pictures, data, and words."""
    for suffix in (".pdf", ".svg", ".png") if figure in VECTOR else (".png",):
        report.save(picture, HERE / f"{figure}{suffix}", dpi=200)
    words = [f"# {figure}", "", picture.caption, "", "Made by `make figures`, which runs:", "", "```", *made]
    words += [drawn, "```", "", f"The data drawn: `{figure}.csv`. torch {version('torch')}, {platform.machine()} CPU, "]
    words[-1] += f"{datetime.now(UTC).date()}."
    (HERE / f"{figure}.md").write_text("\n".join([*words, ""]))


def main() -> None:
    wanted = sys.argv[1:] or [*FIGURES, *OTHERS]
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(os.environ.get("LIPDIAG_FIGURES") or scratch)
        for figure in wanted:
            sources, made = OTHERS[figure]() if figure in OTHERS else measured(figure)
            write(figure, draw(figure, sources), made, f"lipdiag plot {' '.join(sources)} --figure {figure}")
        os.chdir(HERE)


if __name__ == "__main__":
    main()
