"""Commands that look: at a checkpoint, at runs, at the installation itself."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import LipdiagError, UsageError
from ..printing import describe_facts
from .options import drawing, everywhere, pictures, read_range, read_reading, reading, save_figure
from .terminal import inline

if TYPE_CHECKING:
    from ..checkpoints.reading import Reading


@click.command()
@click.argument("checkpoint")
@click.option("--data", help="x0 as for `measure`: also compares the common conventions on it, in 2,000 passes.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N; with --data.")
@click.option("--write-factory", metavar="FILE.py", help="Begin a factory for a network that lipdiag does not have.")
@pictures
@reading
@everywhere
def inspect(
    checkpoint: str, data: str | None, device: str, write_factory: str | None, quiet: bool, as_json: bool, **given: Any
) -> None:
    """Say what a checkpoint is, how it will be read, and what is unknown.

    Whether its weights are whole is seen when the network is built: by
    measure, or here with --data or --factory.
    """
    from .. import checkpoints

    asked = read_reading(given)
    if write_factory is not None:
        command = checkpoints.write_factory(checkpoint, write_factory, asked)
        written = {"factory": write_factory, "command": command}
        click.echo(json.dumps(written) if as_json else f"wrote {write_factory}; complete it, and run\n\n    {command}")
        return
    facts = made(checkpoint, asked) if asked.factory else checkpoints.inspection(checkpoint, asked).to_dict()
    if data is not None:
        from ..study.measure import calibrated

        bounds = read_range(given["bounds"])
        said = calibrated(checkpoint, data, device, replace(asked, function="eps"), given["resize"], bounds)
        facts["calibration"] = [line.removeprefix("calibration: ") for line in said]
    click.echo(json.dumps(facts) if as_json else describe_facts(facts))


def made(checkpoint: str, asked: "Reading") -> dict[str, Any]:
    """What a factory makes of a file."""
    from ..design.description import describe
    from ..study.resolve import resolve_model

    model = resolve_model(checkpoint, asked)
    weights = sum(parameter.numel() for parameter in model.parameters())
    facts = {"path": checkpoint, "kind": f"made by {asked.factory}", "parameters": weights}
    return facts | describe(model) | {"notes": list(model.notes)}


@click.command()
@click.argument("runs", nargs=-1, type=click.Path())
@click.option("--figure", default="singularity", show_default=True, help="Which figure; see --list.")
@click.option(
    "--axis",
    type=click.Choice(["own", "logsnr"]),
    default="own",
    show_default=True,
    help="Of time: the model's own, or log-SNR, over which all can be compared.",
)
@drawing("FIGURE")
@click.option("--show", is_flag=True, help="Show it in the terminal too, if it is kitty, Ghostty, iTerm or WezTerm.")
@click.option("--list", "listing", is_flag=True, help="Name every figure, with a line.")
@everywhere
def plot(
    runs: tuple[str, ...],
    figure: str,
    axis: str,
    style: str,
    out: tuple[Path, ...],
    show: bool,
    listing: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Draw a figure of one or several runs; no model is loaded.

    For samples, training and quality give what sample, train and evaluate
    wrote instead.
    """
    from .. import figures
    from ..figures.gallery import specified
    from ..pages.tables import cautions
    from ..results.axis import over_logsnr
    from ..results.run import read
    from ..results.source import open_source

    if listing:
        if as_json:
            click.echo(json.dumps({name: described.to_dict() for name, described in figures.FIGURES.items()}))
            return
        for name, described in figures.FIGURES.items():
            click.echo(f"{name:<14}{described.line}")
        return
    kind = specified(figure).source
    if not runs:
        raise UsageError("plot needs at least one run, the folder that `lipdiag measure` wrote (more: --list)")
    datasets = [open_source(run, kind) for run in runs]
    if axis == "logsnr" and kind == "run":
        datasets = [over_logsnr(dataset) for dataset in datasets]
    drawn = figures.plot(datasets, figure=figure, style=style)
    files = save_figure(drawn, figure, out)
    if kind == "run" and not quiet and (said := cautions(read(datasets))):
        click.echo(said, err=True)
    if as_json:
        click.echo(json.dumps({"files": files}))
    elif not quiet:
        click.echo("\n".join(files))
    if show and not as_json and sys.stdout.isatty():
        click.echo(inline(drawn.contents(".png", dpi=150), os.environ), nl=False)


@click.command()
@click.option("--advice", is_flag=True, help="Test the advice of `lipdiag advise` on them instead, in minutes.")
@everywhere
def selftest(advice: bool, quiet: bool, as_json: bool) -> None:
    """Test every estimator against every closed form, in seconds."""
    if advice:
        advised(quiet, as_json)
        return
    from ..selftest import selftest as test

    rows = list(test())
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows]))
    elif not quiet:
        click.echo(f"{'quantity':<24}{'truth':<26}{'error':>10}{'allowed':>10}")
        for row in rows:
            verdict = "ok" if row.passed else "FAILED"
            click.echo(f"{row.quantity:<24}{row.truth:<26}{row.error:>10.1e}{row.allowed:>10.1e}  {verdict}")
    failed = sum(not row.passed for row in rows)
    if failed:
        raise LipdiagError(f"{failed} of {len(rows)} self-tests failed; this installation's numbers cannot be trusted")


def advised(quiet: bool, as_json: bool) -> None:
    """Advice on closed forms against what is usual; worse than that in one row is a failure."""
    from ..tuning.oracles import HEADING, table

    rows, shown = [], not (quiet or as_json)
    if shown:
        click.echo(HEADING)
    for row in table():
        rows.append(row)
        if shown:
            click.echo(str(row))
    if as_json:
        click.echo(
            json.dumps([row._asdict() | {"against": row.against.to_dict(), "verdict": row.verdict} for row in rows])
        )
    worse = sum(row.verdict == "worse" for row in rows)
    if worse:
        raise LipdiagError(f"{worse} of {len(rows)} pieces of advice are worse than what is usual")
