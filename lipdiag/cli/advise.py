"""Advice: where to share timesteps, from a run, and at which times to sample, from a model."""

import json
from typing import Any

import click
from click.core import ParameterSource

from ..errors import UsageError
from ..progress import bar, say
from .measure import duration
from .options import computing, everywhere, read_reading, reading, stoppable, use_threads


def numbers(ctx: click.Context, parameter: click.Parameter, text: str | None) -> list[int] | None:
    """Whole numbers between commas."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--steps {text[:60]!r} is no list of whole numbers, such as 5,10,20") from None


@click.command()
@click.argument("source", metavar="RUN|CHECKPOINT", required=False)
@click.option("--end", type=float, help="Where sharing ends.  [default: where K is no longer high]")
@click.option("--blocks", type=click.IntRange(min=1), help="How many.  [default: as few as the model's error allows]")
@click.option("--above", type=float, help="K is high at this many times its median elsewhere.  [default: 10]")
@click.option("--sampler", help="Advise on a model's sampling instead: ddim, euler, heun or dpm.")
@click.option("--steps", callback=numbers, metavar="N,N,...", help="With --sampler.  [default: 5,10,20]")
@click.option("--draws", type=int, help="With --sampler: half of them fit, half judge.  [default: 96]")
@computing
@reading
@everywhere
def advise(
    source: str | None,
    end: float | None,
    blocks: int | None,
    above: float | None,
    sampler: str | None,
    steps: list[int] | None,
    draws: int | None,
    **given: Any,
) -> None:
    """Propose settings: of a RUN where to share timesteps (E-TSDM); with
    --sampler, of a CHECKPOINT at which times to sample it.

    Prints them as `lipdiag train --etsdm`, diffusers, k-diffusion and ComfyUI
    take them, and the evidence. With --quiet the setting alone: "none" where no
    sharing is needed.
    """
    from ..advice.sharing import Advice
    from ..checkpoints.reading import WORDS
    from ..tuning.advise import advise as propose

    quiet = given["quiet"]
    if source is None and given["factory"] is None:
        raise UsageError("advise needs a run, or with --sampler a checkpoint")
    use_threads(given["threads"])
    if sampler is None:
        context = click.get_current_context()
        for name in ("steps", "draws", "seed", "device", *WORDS):
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} is about sampling a model; say how with --sampler, or leave it out")
        advice = propose(source, end, blocks, above)
    else:
        of_model = {"sampler": sampler, "steps": steps, "draws": draws, "seed": given["seed"]}
        told = {"device": given["device"], "reading": read_reading(given)}
        with stoppable(), bar(None, "eval", "sampling", quiet, unit_scale=True) as shown:

            def priced(count: int, seconds: float) -> None:
                shown.total = count
                if not quiet:
                    say(f"at most {count:,} evaluations of the model, {duration(seconds)} at this speed")

            advice = propose(source, end, blocks, above, **of_model, **told, advance=shown.update, priced=priced)
    if given["as_json"]:
        click.echo(json.dumps(advice.to_dict()))
    elif not quiet:
        click.echo(str(advice))
    elif isinstance(advice, Advice):
        click.echo(advice.etsdm or "none")
    else:
        click.echo("\n".join(", ".join(f"{level:g}" for level in advice.levels(i)) for i in range(len(advice.choices))))
