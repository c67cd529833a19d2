"""Commands about what a model draws: samples, and how good they are."""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..hub import spelled
from ..progress import bar
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

if TYPE_CHECKING:
    import torch

    from ..diffusion.predictor import Predictor
    from ..quality.extractor import Extractor

SAMPLERS = "ddpm, ddim, dpm, unipc, or euler (flow matching)"


def placed(given: dict[str, Any], checkpoint: str | None, command: str) -> "Predictor":
    """The model that the options name, on its device, ready to be sampled."""
    require_model(checkpoint, given["factory"], command)
    use_threads(given["threads"])
    from ..study.resolve import resolve_device, resolve_model

    predictor = resolve_model(checkpoint, read_reading(given)).to(resolve_device(given["device"]))
    return predictor.eval().requires_grad_(False)


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
    from ..sampling.sampler import require_sampler
    from ..sampling.sampler import sample as draw

    quiet = given["quiet"]
    out = out or Path(stem(checkpoint, given["factory"]) + ".png")
    if out.suffix not in ("", ".png", ".npz"):
        raise UsageError(f"--out {out} ends in {out.suffix}: give a .png, a .npz, or a folder, which has no suffix")
    predictor = placed(given, checkpoint, "sample")
    require_sampler(predictor.schedule, sampler, steps)
    if not quiet:
        for note in predictor.notes:
            click.echo(note, err=True)
    with stoppable(), bar(n * steps, "eval", "sampling", quiet, unit_scale=True) as progress:
        x = draw(predictor, n, steps, given["seed"], sampler=sampler, batch=batch, advance=progress.update)
    if not x.isfinite().all():
        from ..errors import NonFiniteError

        raise NonFiniteError(
            f"{int((~x.isfinite()).flatten(1).any(1).sum())} of {n} samples are not finite; none are written"
        )
    write(x, out)
    facts = {
        "out": str(out),
        "n": n,
        "sampler": sampler,
        "steps": steps,
        "seed": given["seed"],
        "shape": list(x.shape[1:]),
    }
    click.echo(json.dumps(facts) if given["as_json"] else f"wrote {n} samples to {out}")


def write(x: "torch.Tensor", out: Path) -> None:
    """Write samples as what `out` says: a grid, an array, or a folder of pictures."""
    import numpy as np

    from ..files import atomic_write, make_folder
    from ..sampling.picture import grid, pixels, png

    if out.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, samples=x.float().cpu().numpy())
        atomic_write(out, buffer.getvalue())
    elif out.suffix == ".png":
        atomic_write(out, png(grid(pixels(x))))
    else:
        make_folder(out)
        for i, picture in enumerate(pixels(x)):
            atomic_write(out / f"{i:06d}.png", png(picture))


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
    help="Features for FID and KID: pixels, digits, mnist, efficientnet-lite0, or PKG.MOD:FUNCTION of your own that "
    "returns a module.  "
    "[default: digits for the embedded digits, else pixels]",
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
    from ..data.dataset import dataset
    from ..quality.evaluate import evaluate as measure
    from ..quality.evaluate import parse_sampler
    from ..quality.evaluation import table
    from ..sampling.sampler import require_sampler

    quiet, as_json = given["quiet"], given["as_json"]
    samplers = samplers or ("ddim:20", "dpm:20")
    out = out or Path(stem(checkpoint, given["factory"]) + "-quality.zarr")
    predictor = placed(given, checkpoint, "evaluate")
    for text in samplers:
        require_sampler(predictor.schedule, *parse_sampler(text))
    name = data or predictor.data
    if name is None:
        raise UsageError("the checkpoint does not tell its data, which samples are compared with: give --data")
    real = dataset(name, shape=predictor.shape, resize=given["resize"])
    chosen = choose(extractor, real.name)
    evaluations = n * seeds * sum(parse_sampler(text)[1] for text in samplers)
    if not quiet:
        for line in (
            *predictor.notes,
            f"{len(samplers)} samplers x {seeds} seeds x {n} samples = {evaluations:,} evaluations of the model; "
            f"data: {real.name} ({len(real)})",
        ):
            click.echo(line, err=True)
    if dry_run:
        facts = {"samplers": samplers, "seeds": seeds, "n": n, "evaluations": evaluations, "extractor": chosen.name}
        click.echo(json.dumps(facts | {"data": real.name, "out": str(out)}))
        return
    import torch

    x = torch.stack([real[i] for i in range(len(real))])
    with stoppable() as received, bar(evaluations, "eval", "sampling", quiet, unit_scale=True) as progress:
        try:
            result = measure(
                predictor,
                x,
                chosen,
                samplers,
                n,
                range(given["seed"], given["seed"] + seeds),
                out,
                batch=batch,
                attributes=provenance(predictor, checkpoint, given, real),
                advance=progress.update,
            )
        except KeyboardInterrupt:
            progress.close()
            click.echo(f"lipdiag: interrupted; the same command goes on with {out}", err=True)
            raise SystemExit(128 + received["signal"] if received else INTERRUPTED) from None
    click.echo(json.dumps(machine_line(result, out)) if as_json else table(result))


def choose(name: str | None, data: str) -> "Extractor":
    """The extractor of that name; without a name the one that knows the data, else pixels."""
    from ..quality.extractor import EXTRACTORS, extractor

    return extractor(name or (data if data in EXTRACTORS else "pixels"))


def provenance(predictor: "Predictor", checkpoint: str | None, given: dict[str, Any], real: Any) -> dict[str, Any]:
    """What an evaluation is of: model, data, and the program that made it."""
    from .. import checkpoints
    from ..diffusion.spelling import spell
    from ..provenance import command, versions
    from ..sampling.sampler import placement
    from ..study.description import fingerprint

    stored = (
        None if given["factory"] else checkpoints.inspection(predictor.path or str(checkpoint), read_reading(given))
    )
    device, dtype = placement(predictor, real[0])
    names = ("python", "lipdiag", "torch", "diffusers", "torchmetrics", "numpy")
    return {
        "checkpoint": spelled(predictor.path or checkpoint) if checkpoint else given["factory"],
        "sha256": stored.sha256 if stored else fingerprint(predictor),
        "weights": given["weights"],
        "schedule": spell(predictor.schedule),
        "parameterization": spell(getattr(predictor, "parameterization", None)),
        "clock": spell(predictor.clock),
        "data": real.name,
        "data_sha256": real.fingerprint,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "versions": versions(*names),
        "command": command(),
    }


def machine_line(result: Any, out: Path) -> dict[str, Any]:
    """An evaluation as JSON holds it, null where nothing is known."""
    values = {name: variable.values.tolist() for name, variable in result.items()}
    wanted = ("extractor", "n", "n_real", "floor_fid", "floor_kid", "floor_n")
    about = {name: result.attrs[name] for name in wanted}
    lists = {name: result[name].values.tolist() for name in ("sampler", "seed")}
    return strict({"evaluation": str(out), **about, **lists, **values})
