"""The command that compares a model with its remedy."""

import json
from pathlib import Path

import click

from .options import drawing, everywhere, save_figure

RUN = click.Path(path_type=Path)


@click.command()
@click.argument("a", type=RUN)
@click.argument("b", type=RUN)
@click.option(
    "--pair",
    "pairs",
    type=(RUN, RUN),
    multiple=True,
    metavar="A2 B2",
    help="Runs of the same two models from another training seed; repeatable.",
)
@click.option(
    "--quality",
    type=(RUN, RUN),
    multiple=True,
    metavar="QA QB",
    help="What `lipdiag evaluate` wrote of both; once for each pair, in their order.",
)
@drawing("compare")
@everywhere
def compare(
    a: Path,
    b: Path,
    pairs: tuple[tuple[Path, Path], ...],
    quality: tuple[tuple[Path, Path], ...],
    style: str,
    out: tuple[Path, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Compare run A of a model with run B of its remedy; no model is loaded.

    Both are measured by the same plan, so that every draw of one belongs to a
    draw of the other. Nothing is called lower or higher unless the 95 %
    interval of its ratio or difference says so. With further training seeds
    (--pair) intervals are over these.
    """
    from ..comparison.comparison import compare as compared
    from ..figures.comparison import draw

    comparison = compared(a, b, pairs, quality)
    files = save_figure(draw(comparison, style), "compare", out)
    if as_json:
        click.echo(json.dumps({**comparison.to_dict(), "files": files}, allow_nan=False))
        return
    click.echo(str(comparison))
    if not quiet:
        click.echo("\nThe figure: " + ", ".join(files))
