"""The command that says what is wrong with a model, or with a run of one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from .options import computing, everywhere, read_reading, reading, require_model, stoppable, use_threads


def listed(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print every check with its threshold, and end."""
    if not wanted or context.resilient_parsing:
        return
    from ..health.checks import CHECKS
    from ..printing import describe_facts

    facts = {name: f"{check.looks} {check.threshold:g}" for name, check in CHECKS.items()}
    click.echo(describe_facts(facts))
    context.exit()


@click.command()
@click.argument("model", required=False)
@click.option("--data", help="x0: a folder of images, .npy, .npz, or an embedded set.  [default: the model's record]")
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="CHECK=NUMBER",
    help="In the place of a check's own; repeatable.",
)
@click.option("--checks", is_flag=True, is_eager=True, expose_value=False, callback=listed, help="List the checks.")
@click.option("--level", type=float, default=0.01, show_default=True, help="False-alarm rate of all tests together.")
@click.option(
    "--fail-on",
    type=click.Choice(["faults", "undecided"]),
    help="End with exit code 1 where there are faults, or where the verdict is not healthy.",
)
@click.option("--draws", type=int, default=32, show_default=True, help="Samples at each timestep.")
@click.option(
    "--timesteps", default="pairs:10", show_default=True, help="As for measure; pairs: each with the next one."
)
@click.option("--out", type=click.Path(path_type=Path), help="Keep the run, a folder.  [default: in memory]")
@click.option("--dry-run", is_flag=True, help="Show the price, measure nothing.")
@computing
@reading
@everywhere
def doctor(
    model: str | None,
    data: str | None,
    thresholds: tuple[str, ...],
    level: float,
    fail_on: str | None,
    out: Path | None,
    dry_run: bool,
    **given: Any,
) -> None:
    """Say what is wrong with a model, where, and how sure that is.

    MODEL is a checkpoint, which is measured first, or a run, which is judged as
    it is. The verdict is healthy, faults or undecided; every fault comes with
    its timesteps, its evidence and what to do. What is allowed is in --checks.
    """
    from ..health.examine import PLAN, beside, examine
    from ..study.preparation import estimate
    from .measure import Teller, duration

    require_model(model, given["factory"], "doctor")
    use_threads(given["threads"])
    limits = dict(map(pair, thresholds))
    teller = Teller(given["quiet"], out)
    plan = dataclasses.replace(PLAN, **{name: given[name] for name in ("draws", "timesteps", "seed")})

    def priced(ready: Any) -> bool:
        teller.price(ready)
        each = estimate(ready)["pass_seconds"]
        passes, more = beside(plan)
        teller.say(
            ready,
            f"and {passes} forward passes for conventions and looks into the network, {duration(passes * each)}",
            f"and up to {more} more where all timesteps seem to be off by some, {duration(more * each)}",
        )
        if dry_run:
            raise click.exceptions.Exit(0)
        return True

    with stoppable():
        diagnosis = examine(
            model, data, plan=plan, thresholds=limits, level=level, out=out, device=given["device"],
            progress=not given["quiet"], priced=priced, reading=read_reading(given),
        )  # fmt: skip
    click.echo(json.dumps(diagnosis.to_dict(), allow_nan=False) if given["as_json"] else str(diagnosis))
    bad = diagnosis.verdict == "faults" or (fail_on == "undecided" and diagnosis.verdict != "healthy")
    if fail_on and bad:
        raise SystemExit(1)


def pair(text: str) -> tuple[str, float]:
    """A check and its threshold."""
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise UsageError(f"--threshold {text[:60]!r} is not CHECK=NUMBER, such as expansion=1.5") from None
