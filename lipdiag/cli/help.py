"""The command that explains: another command, or the words in which a model's conventions are told."""

import json
import textwrap

import click

from ..errors import unknown
from .options import everywhere

CONVENTIONS = "conventions"


@click.command("help")
@click.argument("topic", required=False)
@everywhere
@click.pass_context
def explain(ctx: click.Context, topic: str | None, quiet: bool, as_json: bool) -> None:
    """Explain a command, or `conventions`: every schedule, prediction and clock.

    They are what --schedule, --parameterization and --clock take, with what
    each means and who uses it.
    """
    root = ctx.find_root()
    commands = root.command.commands if isinstance(root.command, click.Group) else {}
    if topic == CONVENTIONS:
        click.echo(json.dumps(conventions()) if as_json else written(conventions()))
    elif topic is None:
        click.echo(root.get_help())
    elif topic in commands:
        click.echo(commands[topic].get_help(click.Context(commands[topic], parent=root, info_name=topic)))
    else:
        topics = (CONVENTIONS, *commands)
        raise unknown("help on", topic, topics)


def conventions() -> dict[str, list[dict[str, str]]]:
    """The registries as the options call them: how each entry is written, what it means, and who uses it."""
    from ..diffusion.convention import PARTS
    from ..diffusion.spelling import entries

    return {option: [entry._asdict() for entry in entries(registry)] for option, registry in PARTS.items()}


HEADS = {
    "schedule": "signal and noise in x = alpha x0 + sigma eps, data at t = 0",
    "parameterization": "what the network predicts",
    "clock": "which time the network is told",
}


def written(conventions: dict[str, list[dict[str, str]]]) -> str:
    """The conventions in lines that fit a terminal."""
    lines: list[str] = []
    for option, entries in conventions.items():
        lines += ["", f"--{option}: {HEADS[option]}"]
        for entry in entries:
            used = f" In use: {entry['used']}" if entry["used"] else ""
            lines += ["", f"  {entry['usage']}"]
            lines += textwrap.wrap(
                entry["meaning"] + used, 80, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
            )
    return "\n".join(lines[1:])
