"""Commands about what a model draws: samples, and how good they are."""

import json
from pathlib import Path
from typing import Any

import click

from .options import (
    INTERRUPTED,
    computing,
    everywhere,
    read_reading,
    reading,
    require_model,
    resizing,
    stem,
    stoppable,
    use_threads,
)
from .outcome import strict
from .terminal import remark

SAMPLERS = "ddpm, ddim, dpm, unipc, or euler (flow matching)"


def told(checkpoint: str | None, given: dict[str, Any], command: str) -> dict[str, Any]:
    """The model that the options name and how it is computed with, as words of the functions behind the commands."""
    require_model(checkpoint, given["factory"], command)
    use_threads(given["threads"])
    how = {"device": given["device"], "seed": given["seed"], "progress": not given["quiet"]}
    return {"model": checkpoint, "reading": read_reading(given), **how}


@click.command()
@click.argument("checkpoint", required=False)
@click.option("-n", "--n", "n", type=click.IntRange(min=1), default=64, show_default=True, help="How many samples.")
@click.option("--sampler", default="ddim", show_default=True, help=SAMPLERS + ".")
@click.option("--steps", type=click.IntRange(min=1), default=50, show_default=True, help="Evaluations a sample.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A .png (all in a grid), a .npz (the model's own numbers), or a folder (a PNG each).  [default: STEM.png]",
)
@click.option("--batch", type=click.IntRange(min=1), default=256, show_default=True, help="Samples made together.")
@computing
@reading
@everywhere
def sample(
    checkpoint: str | None, n: int, sampler: str, steps: int, out: Path | None, batch: int, **given: Any
) -> None:
    """Draw samples of a model.

    Sample i follows from --seed and i alone: two models with one seed start
    from the same noise. A shared clock (E-TSDM) is shared here as in training.
    """
    from ..quality.sample import sample as draw

    out = out or Path(stem(checkpoint, given["factory"]) + ".png")

    def priced(draw: Any) -> None:
        for note in () if given["quiet"] else draw.notes:
            remark(note)

    with stoppable():
        x = draw(
            n=n, sampler=sampler, steps=steps, out=out, batch=batch, priced=priced, **told(checkpoint, given, "sample")
        )
    facts = {
        "out": str(out),
        "n": n,
        "sampler": sampler,
        "steps": steps,
        "seed": given["seed"],
        "shape": list(x.shape[1:]),
    }
    click.echo(json.dumps(facts) if given["as_json"] else f"wrote {n} samples to {out}")


@click.command()
@click.argument("checkpoint", required=False)
@click.option(
    "--sampler",
    "samplers",
    multiple=True,
    metavar="NAME:STEPS",
    help=f"{SAMPLERS}, with steps; repeatable.  [default: ddim:20, dpm:20]",
)
@click.option("--n", type=click.IntRange(min=8), default=1000, show_default=True, help="Samples a sampler and seed.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="How many, from --seed on.")
@click.option(
    "--extractor",
    help="Features for FID and KID: pixels, digits, mnist, efficientnet-lite0, efficientnet-lite1, or "
    "PKG.MOD:FUNCTION of your own that returns a module.  [default: digits for the embedded digits, else pixels]",
)
@click.option(
    "--data",
    help="What to compare with: a folder of images, .npy, .npz, or an embedded set.  [default: the checkpoint's own]",
)
@click.option("--out", type=click.Path(path_type=Path), help="The evaluation, a folder.  [default: STEM-quality.zarr]")
@click.option("--batch", type=click.IntRange(min=1), default=256, show_default=True, help="Samples made together.")
@click.option("--dry-run", is_flag=True, help="Show what will be done and its cost, sample nothing.")
@resizing
@computing
@reading
@everywhere
def evaluate(
    checkpoint: str | None,
    samplers: tuple[str, ...],
    n: int,
    seeds: int,
    extractor: str | None,
    data: str | None,
    out: Path | None,
    batch: int,
    dry_run: bool,
    **given: Any,
) -> None:
    """Measure how good a model's samples are: FID, KID, near-copies of data.

    Every sampler and seed that is finished is kept; the same command goes on
    from there, and more samplers or seeds can be asked for later.
    """
    from ..quality.evaluate import SAMPLERS as USUAL
    from ..quality.evaluate import evaluate as measure
    from ..quality.evaluation import table

    quiet, as_json = given["quiet"], given["as_json"]
    out = out or Path(stem(checkpoint, given["factory"]) + "-quality.zarr")
    asked: dict[str, Any] = {
        "samplers": samplers or USUAL,
        "n": n,
        "seeds": seeds,
        "extractor": extractor,
        "data": data,
        "batch": batch,
        "resize": given["resize"],
    }

    def priced(task: Any) -> bool:
        for line in () if quiet else (*task.model.notes, described(task)):
            remark(line)
        if dry_run:
            facts = {"samplers": task.samplers, "seeds": seeds, "n": n, "evaluations": task.evaluations}
            facts |= {"extractor": task.extractor.name, "data": task.data.name, "out": str(out)}
            click.echo(json.dumps(facts))
        return not dry_run

    with stoppable() as received:
        try:
            result = measure(out=out, priced=priced, **asked, **told(checkpoint, given, "evaluate"))
        except KeyboardInterrupt:
            remark(f"lipdiag: interrupted; the same command goes on with {out}")
            raise SystemExit(128 + received["signal"] if received else INTERRUPTED) from None
    if result is not None:
        click.echo(json.dumps(machine_line(result, out)) if as_json else table(result))


def described(task: Any) -> str:
    """What will be evaluated, in a line."""
    what = f"{len(task.samplers)} samplers x {len(task.seeds)} seeds x {task.n} samples"
    return f"{what} = {task.evaluations:,} evaluations of the model; data: {task.data.name} ({len(task.data)})"


def machine_line(result: Any, out: Path) -> dict[str, Any]:
    """An evaluation as JSON holds it, null where nothing is known."""
    values = {name: variable.values.tolist() for name, variable in result.items()}
    wanted = ("extractor", "n", "n_real", "floor_fid", "floor_kid", "floor_n")
    about = {name: result.attrs[name] for name in wanted}
    lists = {name: result[name].values.tolist() for name in ("sampler", "seed")}
    return strict({"evaluation": str(out), **about, **lists, **values})
