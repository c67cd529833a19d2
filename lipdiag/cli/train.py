"""The command that trains."""

import json
from pathlib import Path
from typing import Any

import click

from ..printing import describe_facts
from .options import INTERRUPTED, computing, everywhere, stoppable, use_threads


@click.command()
@click.option(
    "--recipe",
    "name",
    default="digits",
    show_default=True,
    help="digits, mnist, emoji, tiny32, cifar10, cifar10-classes, full256.",
)
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
    "--on-step", metavar="PKG.MOD:FUNCTION", help="Your own function, called with (step, dict) after each step."
)
@click.option(
    "--snapshot-every",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How much a crash may cost; at least 50 times what writing a snapshot takes.",
)
@click.option("--dry-run", is_flag=True, help="Try two seconds of it; show its size, speed and price.")
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
    on_step: str | None,
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
    from .. import distributed
    from ..training import door
    from ..training.recipe import set_fields

    recipe = set_fields(door.described(name, None, {"seed": seed}), changes)
    recipe = door.described(recipe, etsdm, {"steps": steps, "data": data})
    out = out or door.default_out(recipe)
    use_threads(threads)
    if dry_run:
        from ..study.device import resolve_device
        from ..training.estimate import estimate

        facts = {**recipe.to_dict(), **estimate(recipe, resolve_device(device)), "out": str(out)}
        click.echo(json.dumps(facts) if as_json else describe_facts(facts))
        return
    watched: dict[str, Any] = {"measure_every": measure_every, "sample_every": sample_every, "on_step": on_step}
    how: dict[str, Any] = {"device": device, "snapshot_every": snapshot_every, "progress": not quiet}
    with stoppable(gently=True) as received:
        try:
            door.train(recipe, out, stop=lambda: bool(received), **watched, **how)
        except KeyboardInterrupt:
            if distributed.leads():
                click.echo(f"lipdiag: stopped; the same command goes on with {out}", err=True)
            raise SystemExit(INTERRUPTED) from None
    if distributed.leads():
        click.echo(json.dumps({"checkpoint": str(out)}) if as_json else f"wrote {out}; next: lipdiag measure {out}")
