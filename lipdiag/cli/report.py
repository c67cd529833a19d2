"""A page about runs."""

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
