"""The command that trains."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..progress import bar
from .options import INTERRUPTED, computing, describe_facts, everywhere, stoppable, use_threads

SAMPLES = 16
MOST_STEPS = 50


@click.command()
@click.option("--recipe", "name", default="digits", show_default=True, help="digits, mnist, emoji, cifar10, full256.")
@click.option(
    "--etsdm",
    is_flag=False,
    flag_value="default",
    metavar="[END,BLOCKS]",
    help="Share timesteps below END in BLOCKS blocks, or edges:0,5,15,40,100. Alone: a tenth of the timesteps in 5 "
    "blocks, 100,5 of 1000.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Training steps.  [default: the recipe's]")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a field of the recipe; repeatable.")
@click.option("--data", help="Train on this instead of the recipe's data.")
@click.option("--out", type=click.Path(path_type=Path), help="The checkpoint, a folder.  [default: the recipe's name]")
@click.option("--measure-every", type=click.IntRange(min=1), metavar="N", help="Log K(t, t+1) every N steps.")
@click.option("--sample-every", type=click.IntRange(min=1), metavar="N", help="Draw a grid of samples every N steps.")
@click.option(
    "--snapshot-every",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How much a crash may cost.",
)
@click.option("--dry-run", is_flag=True, help="Show the recipe, its size and its cost, train nothing.")
@computing
@everywhere
def train(
    name: str,
    etsdm: str | None,
    steps: int | None,
    changes: tuple[str, ...],
    data: str | None,
    out: Path | None,
    measure_every: int | None,
    sample_every: int | None,
    snapshot_every: float,
    dry_run: bool,
    device: str,
    threads: int | None,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a DDPM, or its E-TSDM twin that differs in the clock alone.

    Under torchrun (python -m torch.distributed.run ... -m lipdiag train ...) the processes share each batch.
    """
    from dataclasses import replace

    from .. import distributed
    from ..training.recipe import RECIPES, set_fields
    from ..training.session import session, shared

    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}; known are {', '.join(RECIPES)}")
    recipe = set_fields(replace(RECIPES[name], seed=seed), changes)
    recipe = replace(recipe, steps=steps or recipe.steps, data=data or recipe.data)
    if etsdm is not None:
        recipe = shared(recipe, etsdm)
    if sample_every and (len(recipe.shape) != 3 or recipe.shape[0] not in (1, 3)):
        raise UsageError(f"--sample-every draws pictures of 1 or 3 channels, and a sample has the shape {recipe.shape}")
    out = out or Path(f"{name}-{'ddpm' if etsdm is None else 'etsdm'}")
    use_threads(threads)
    from ..study.resolve import resolve_device

    place = resolve_device(device)
    if dry_run:
        from ..training.estimate import estimate

        facts = {**recipe.to_dict(), **estimate(recipe, place), "out": str(out)}
        click.echo(json.dumps(facts) if as_json else describe_facts(facts))
        return
    if distributed.launched() and place.type == "cuda":
        import torch

        place = torch.device("cuda", distributed.local_rank())
        torch.cuda.set_device(place)
    leader = int(os.environ.get("RANK", "0")) == 0
    with stoppable(gently=True) as received:
        states = session(recipe, out, place, lambda: bool(received), measure_every or 0, snapshot_every)
        finished = under_a_bar(states, recipe.steps, quiet or not leader, out, sample_every or 0)
    if not finished:
        if leader:
            click.echo(f"lipdiag: stopped; the same command goes on with {out}", err=True)
        raise SystemExit(INTERRUPTED)
    if leader:
        click.echo(json.dumps({"checkpoint": str(out)}) if as_json else f"wrote {out}; next: lipdiag measure {out}")


def under_a_bar(states: Iterator[Any], steps: int, quiet: bool, out: Path, sample_every: int) -> bool:
    """Go through a training with a bar on standard error; whether it came to its end."""
    from .. import distributed

    step, smooth = 0, None
    with bar(steps, "step", "training", quiet) as progress:
        for state in states:
            smooth = state.loss if smooth is None else 0.98 * smooth + 0.02 * state.loss
            if step == 0:
                progress.initial = progress.n = state.step - 1  # steps that were done before do not count as fast ones
            step = state.step
            progress.update(step - progress.n)
            progress.set_postfix_str(f"loss {smooth:.4f}", refresh=False)
            if sample_every and step % sample_every == 0 and distributed.rank() == 0:
                save_samples(state.ema, out / f"samples-{step:07d}.png")
    return step == steps


def save_samples(predictor: Any, path: Path) -> None:
    """A grid of samples of a model of pictures, the same first noise at every step of the training."""
    import io

    import numpy as np
    from PIL import Image

    from ..files import atomic_write
    from ..sampling.sampler import sample

    channels = predictor.shape[0]
    if len(predictor.shape) != 3 or channels not in (1, 3):
        raise UsageError(
            f"--sample-every draws pictures of 1 or 3 channels, and a sample has the shape {predictor.shape}"
        )
    count = getattr(predictor.clock.base, "count", MOST_STEPS)
    steps = max(steps for steps in range(1, MOST_STEPS + 1) if count % steps == 0)
    x = sample(predictor, SAMPLES, steps).float().cpu().clamp(-1, 1).add(1).mul(127.5).round().byte().numpy()
    side = round(SAMPLES**0.5)
    channels, height, width = predictor.shape
    grid = x.reshape(side, side, channels, height, width).transpose(0, 3, 1, 4, 2)
    picture = Image.fromarray(np.squeeze(grid.reshape(side * height, side * width, channels)))
    scale = max(1, 256 // (side * height))
    buffer = io.BytesIO()
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(buffer, "PNG")
    atomic_write(path, buffer.getvalue())
