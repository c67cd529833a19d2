"""The command that gathers what a report of a bug needs, and nothing that a user would not show."""

import json
import platform
import traceback
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..errors import CheckpointError, LipdiagError
from ..printing import describe_facts
from ..provenance import devices, versions
from .options import everywhere, read_reading, reading

LIBRARIES = (
    "lipdiag", "python", "torch", "numpy", "scipy", "diffusers", "safetensors", "xarray", "zarr", "matplotlib", "click",
)  # fmt: skip
SHOWN = ("weights", "schedule", "parameterization", "clock", "shape", "function", "label")
"""Options whose values are lipdiag's own words; of the others only the names are told."""


@click.command()
@click.argument("checkpoint")
@reading
@everywhere
def bug(checkpoint: str, quiet: bool, as_json: bool, **given: Any) -> None:
    """Print what a bug report needs; give the options that you gave to measure.

    That is versions, platform, device, the layout of the checkpoint (keys,
    shapes, types, names of configuration keys) and the error. It holds no
    weights, no values, no texts out of the file, no path but the file's own
    name, and not what you or your machine are called. Read it before you
    send it.
    """
    facts: dict[str, Any] = {**versions(*LIBRARIES), "platform": platform.platform(), "device": devices()}
    from ..checkpoints.reading import WORDS

    source = click.get_current_context().get_parameter_source
    asked = {name: given[name] for name in WORDS if source(name) is not ParameterSource.DEFAULT}
    values = {name: "" if given[name] is True else f" {given[name] if name in SHOWN else '...'}" for name in asked}
    facts["options"] = [f"--{name.replace('_', '-')}{values[name]}" for name in sorted(asked)]
    facts |= tried(checkpoint, asked, given)
    layout = facts.pop("layout")
    if as_json:
        click.echo(json.dumps({**facts, "layout": layout}))
    else:
        click.echo("\n".join([describe_facts(facts), "layout:", *(f"  {line}" for line in layout)]))


def tried(checkpoint: str, asked: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The layout of a checkpoint, and what it is read as, or the error of reading it."""
    from ..checkpoints.load import placed
    from ..study.resolve import resolve_model
    from ..weights.outline import anonymous, base, contents, outline, phrases

    folder = str(Path(checkpoint).parent)
    secrets = [folder, *(str(asked[name]) for name in asked.keys() - set(SHOWN))]
    secrets = [secret for secret in secrets if len(secret) > len("..")]
    facts: dict[str, Any] = {"checkpoint": base(checkpoint)}
    try:
        held = contents(placed(checkpoint, given["download"]))
        facts["layout"] = outline(held)
        secrets += phrases(list(held.values()))
    except (CheckpointError, OSError) as error:
        facts["layout"] = [f"not read: {anonymous(str(error), secrets)}"]
    try:
        predictor = resolve_model(checkpoint, read_reading(given))
        facts["read as"] = type(getattr(predictor, "network", predictor)).__name__
    except Exception as error:  # whatever it is, it is what the report is about
        facts["error"] = f"{type(error).__name__}: {anonymous(str(error), secrets)}"
        facts["raised in"] = [] if isinstance(error, LipdiagError) else frames(error)
    return facts


def frames(error: Exception) -> list[str]:
    """Where an error came from, innermost last: the last parts of files' names, lines and functions."""
    return [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
