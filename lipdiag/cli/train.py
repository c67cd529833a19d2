"""The command that trains."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from .options import INTERRUPTED, computing, describe_facts, everywhere, use_threads


@click.command()
@click.option("--recipe", "name", default="digits", show_default=True, help="What to train on what.")
@click.option(
    "--etsdm",
    is_flag=False,
    flag_value="100,5",
    metavar="[END,BLOCKS]",
    help="Share timesteps below END in BLOCKS blocks (alone: 100,5), or edges:0,5,15,40,100.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Training steps.  [default: the recipe's]")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a field of the recipe; repeatable.")
@click.option("--data", help="Train on this instead of the recipe's data.")
@click.option("--out", type=click.Path(path_type=Path), help="The checkpoint, a folder.  [default: the recipe's name]")
@click.option("--dry-run", is_flag=True, help="Show the recipe and its size, train nothing.")
@computing
@everywhere
def train(
    name: str,
    etsdm: str | None,
    steps: int | None,
    changes: tuple[str, ...],
    data: str | None,
    out: Path | None,
    dry_run: bool,
    device: str,
    threads: int | None,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a small DDPM, or its E-TSDM twin that differs in the clock alone."""
    from dataclasses import replace

    from ..training.recipe import RECIPES, set_fields
    from ..training.session import parameters, shared

    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}; known are {', '.join(RECIPES)}")
    recipe = set_fields(replace(RECIPES[name], seed=seed), changes)
    recipe = replace(recipe, steps=steps or recipe.steps, data=data or recipe.data)
    if etsdm is not None:
        recipe = shared(recipe, etsdm)
    out = out or Path(f"{name}-{'ddpm' if etsdm is None else 'etsdm'}")
    use_threads(threads)
    if dry_run:
        facts = {**recipe.to_dict(), "parameters": parameters(recipe), "out": str(out)}
        click.echo(json.dumps(facts) if as_json else describe_facts(facts))
        return
    from ..run import resolve_device

    finished = train_under_a_bar(recipe, resolve_device(device), out, quiet)
    if not finished:
        click.echo(f"lipdiag: stopped; the same command goes on with {out}", err=True)
        raise SystemExit(INTERRUPTED)
    click.echo(json.dumps({"checkpoint": str(out)}) if as_json else f"wrote {out}; next: lipdiag measure {out}")


def train_under_a_bar(recipe: Any, device: Any, out: Path, quiet: bool) -> bool:
    """Train with a bar on standard error; a signal ends the training after the step it is in."""
    from tqdm import tqdm

    from ..training.session import session

    stopped: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, lambda *_: stopped.append(1)) for number in numbers}
    bar = tqdm(total=recipe.steps, unit="step", desc="training", file=sys.stderr, disable=quiet, dynamic_ncols=True)
    step, smooth = 0, None
    try:
        for state in session(recipe, out, device, lambda: bool(stopped)):
            smooth = state.loss if smooth is None else 0.98 * smooth + 0.02 * state.loss
            bar.update(state.step - step)
            bar.set_postfix_str(f"loss {smooth:.4f}", refresh=False)
            step = state.step
    finally:
        bar.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return step == recipe.steps
