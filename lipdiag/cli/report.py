"""Commands that conclude: a page about runs, and advice on where to share timesteps."""

import json
from pathlib import Path

import click

from ..errors import UsageError
from .options import everywhere


@click.command()
@click.argument("runs", nargs=-1, type=click.Path())
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="The page, one file."
)
@click.option(
    "--label", "labels", multiple=True, help="What to call a run; once for each.  [default: the checkpoints']"
)
@everywhere
def report(runs: tuple[str, ...], out: Path, labels: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Write one HTML page about one or several runs; no model is loaded.

    It holds verdicts, figures, tables and provenance, and needs no network.
    """
    if not runs:
        raise UsageError("report needs at least one run, the folder that `lipdiag measure` wrote")
    from ..pages.page import report as write
    from ..store.store import open_run

    path = write([open_run(run) for run in runs], out, labels or None)
    if as_json:
        click.echo(json.dumps({"files": [str(path)]}))
    elif not quiet:
        click.echo(str(path))


@click.command()
@click.argument("run", type=click.Path())
@click.option("--end", type=float, help="Where sharing ends.  [default: where K is no longer high]")
@click.option("--blocks", type=click.IntRange(min=1), help="How many.  [default: follows from K and the loss]")
@click.option(
    "--above", type=float, default=10.0, show_default=True, help="K is high at this many times its median elsewhere."
)
@everywhere
def advise(run: str, end: float | None, blocks: int | None, above: float, quiet: bool, as_json: bool) -> None:
    """Propose where to share timesteps (E-TSDM), from the K curve of a run.

    Prints edges as `lipdiag train --etsdm` takes them, and the evidence;
    with --quiet the argument alone, "none" where no sharing is needed.
    """
    from ..advice.sharing import advise as propose
    from ..store.store import open_run

    advice = propose(open_run(run), end, blocks, above)
    if as_json:
        click.echo(json.dumps(advice.to_dict()))
    else:
        click.echo((advice.etsdm if advice.needed else "none") if quiet else str(advice))
