"""Redraw every figure in this folder from the embedded models: `make figures`, a few minutes on one core.

Each picture is made by the commands written beside it, run here in a temporary folder. `figures/make.py NAME...` makes
those figures alone; with LIPDIAG_FIGURES=FOLDER what was measured is kept there and gone on with. The figures of the
study (figures/study.py) are redrawn from its tables, without training.
"""

import contextlib
import io
import os
import platform
import shlex
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import tables
from sizes import SIZES

import lipdiag
from lipdiag import figures
from lipdiag.cli import main as command
from lipdiag.results.source import open_source

HERE = Path(__file__).parent
DDPM, ETSDM = "digits-ddpm", "digits-etsdm"
CHECKPOINTS = (10, 30, 100)
"""Steps after which a training is looked at."""
BLOCK_ENDS = (19, 39, 59, 79, 99)
LARGEST_TABLE, LARGEST_PICTURE = 100_000, 120_000
RESOLUTIONS = (200, 160, 130)
"""Dots per inch of a PNG: the first that is small enough for the repository."""
VECTOR = ("singularity", "compare")
"""Figures that are kept as PDF and SVG too."""


class Recipe(NamedTuple):
    """What a figure is drawn from, and the commands that make it, all without the word `lipdiag`."""

    sources: tuple[str, ...]
    commands: tuple[str, ...]


def near_zero() -> str:
    """64 timesteps from first to last, with all of the first ones and the end of each block."""
    from lipdiag.design.plan import resolve_timesteps

    times = resolve_timesteps("log:64", lipdiag.load(ETSDM).clock).astype(int).tolist()
    return ",".join(map(str, sorted({*range(16), *BLOCK_ENDS, *times})))


def measured(name: str, options: str, quantities: str, models: tuple[str, ...] = (DDPM, ETSDM)) -> Recipe:
    """A run of each model."""
    asked = " ".join(f"--quantity {quantity}" for quantity in quantities.split())
    outs = tuple(f"{model}-{name}.zarr" for model in models)
    texts = [f"measure {model} {options} {asked} --out {out}" for model, out in zip(models, outs, strict=True)]
    return Recipe(outs, tuple(texts))


def recipes() -> dict[str, Recipe]:
    """Every figure's."""
    time = measured(
        "time",
        f"--timesteps {near_zero()} --draws 64",
        "time_derivative time_difference trajectory_derivative embedding loss",
    )
    matrix = measured("matrix", "--timesteps log:24 --draws 24", "pairs swap")
    space = measured(
        "jacobian",
        "--timesteps log:20 --draws 16",
        "spectral_norm singular_values one_sided_lipschitz squared_frobenius_norm trace",
    )
    plain = {name: Recipe(r.sources[:1], r.commands[:1]) for name, r in (("time", time), ("space", space))}
    samplers = " ".join(f"--sampler {name}" for name in ("ddim:5", "ddim:10", "ddim:20", "dpm:5", "dpm:10", "dpm:20"))
    return {
        "singularity": time,
        "compare": time,
        "jumps": time,
        "derivatives": plain["time"],
        "pairs": matrix,
        "swap": matrix,
        "distribution": plain["time"],
        "jacobian": space,
        "spectrum": plain["space"],
        "vectors": measured("vectors", "--timesteps 0,10,100,500 --draws 1", "vectors", (DDPM,)),
        "schedules": plain["time"],
        "embedding": time,
        "modules": measured("modules", "--timesteps log:16 --draws 16", "modules"),
        "samples": Recipe(
            (f"{DDPM}.npz", f"{ETSDM}.npz"),
            tuple(f"sample {model} --n 64 --steps 50 --out {model}.npz" for model in (DDPM, ETSDM)),
        ),
        "training": Recipe(("short",), ("train --recipe digits --steps 250 --measure-every 25 --out short",)),
        "steps": Recipe(
            tuple(f"runs/checkpoint-{steps}.zarr" for steps in CHECKPOINTS),
            (
                *(
                    f"train --recipe digits --set batch=8 --steps {steps} --out checkpoint-{steps}"
                    for steps in CHECKPOINTS
                ),
                f"measure {' '.join(f'checkpoint-{steps}' for steps in CHECKPOINTS)} --out runs "
                "--timesteps log:16 --draws 8 --quantity time_difference --quantity spectral_norm --quantity loss",
            ),
        ),
        "quality": Recipe(
            ("quality.zarr",), (f"evaluate {DDPM} {samplers} --n 256 --seeds 3 --extractor digits --out quality.zarr",)
        ),
    }


def call(text: str) -> None:
    """A command of lipdiag's; what it prints is not wanted here."""
    with contextlib.redirect_stdout(io.StringIO()):
        command([*shlex.split(text), "--quiet"], standalone_mode=False)


def draw(figure: str, recipe: Recipe) -> None:
    """The files of a figure: pictures, data, and words."""
    kind = figures.FIGURES[figure].source
    sources = [open_source(source, kind) for source in recipe.sources]
    picture = figures.plot(sources, figure=figure)
    for suffix in (".pdf", ".svg") if figure in VECTOR else ():
        figures.save(picture, HERE / f"{figure}{suffix}")
    for dpi in RESOLUTIONS:
        written = figures.save(picture, HERE / f"{figure}.png", dpi=dpi)
        if written[0].stat().st_size <= LARGEST_PICTURE:
            break
    commands = [*recipe.commands, f"plot {' '.join(recipe.sources)} --figure {figure}"]
    beside = f"The data drawn: `{figure}.csv`." if keep_table(HERE / f"{figure}.csv") else "The data are those runs."
    made = f"torch {version('torch')}, {platform.machine()} CPU, {datetime.now(UTC).date()}."
    words = [f"# {figure}", "", picture.caption, "", "Made by `make figures`:", "", "```sh"]
    words += [*(f"lipdiag {text}" for text in commands), "```", "", f"{beside} {made}"]
    models = [(source.attrs["checkpoint"], source.attrs["frozen"]["model"]) for source in sources if kind == "run"]
    words += [f"Weights of {name}: {model['weights_sha256'][:16]}." for name, model in models]
    words.append("")
    (HERE / f"{figure}.md").write_text("\n".join(words))


def keep_table(path: Path) -> bool:
    """Whether the table is small enough for the repository; a larger one is removed."""
    if path.stat().st_size <= LARGEST_TABLE:
        return True
    path.unlink()
    return False


def main() -> None:
    known = recipes()
    done = set[str]()
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(os.environ.get("LIPDIAG_FIGURES") or scratch):
        for figure in sys.argv[1:] or known:
            for text in known[figure].commands:
                if text not in done and not (text.startswith("train") and Path(text.split()[-1]).exists()):
                    call(text)
                done.add(text)
            draw(figure, known[figure])
    if not sys.argv[1:]:
        for size in SIZES.values():
            if (HERE / size.file).exists():
                tables.redraw(size)


if __name__ == "__main__":
    main()
