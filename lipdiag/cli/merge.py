"""The command that joins runs measured apart."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from ..progress import bar
from .options import everywhere, stoppable
from .terminal import remark


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@everywhere
def merge(out: Path, runs: tuple[Path, ...], quiet: bool, as_json: bool) -> None:
    """Join the shards of one measurement, RUN..., into the run OUT.

    They must be of the same plan, model and data; what two of them hold must
    be the same, bit for bit.
    """
    from ..store.merge import merge as join

    with stoppable(), bar(None, "pair", "merging", quiet) as progress:
        merged = join(out, list(runs), progress.update)
    if as_json:
        click.echo(json.dumps({**asdict(merged), "run": str(out)}))
        return
    remark(
        f"{out}: {merged.copied} pairs copied, {merged.agreeing} held by several runs and equal, {merged.missing} of "
        f"{merged.pairs} missing"
        + (f", {merged.quarantined} given up" if merged.quarantined else "")
        + (f", {merged.damaged} damaged and left out" if merged.damaged else ""),
        err=False,
    )
    if merged.missing:
        remark(f"to measure what is missing: lipdiag measure with the same options and --out {out}", err=False)
