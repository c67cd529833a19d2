"""Where a run comes from: model, data, plan, launches, and the commands that make it again."""

from typing import Any

from ..files import mapping
from ..printing import shortened
from ..results.command import commands, launches
from ..results.run import Run
from .html import Markup, element, joined

LISTS = ("timesteps", "quantities")


def provenance(run: Run) -> Markup:
    """The facts in two columns, the commands, and a line for each launch."""
    plan = {key: value for key, value in run.plan.items() if key not in LISTS and value is not None}
    data = {f"data {key}": value for key, value in mapping(run.frozen.get("data")).items()}
    model = {key.replace("weights_sha256", "sha256 of tensors"): value for key, value in run.model.items()}
    facts = {"checkpoint": run.dataset.attrs.get("checkpoint"), **model, **data, **plan}
    told = [(element("dt", key.replace("_", " ")), element("dd", _spelled(value))) for key, value in facts.items()]
    again = element("pre", element("code", [[command, Markup("\n")] for command in commands(run.dataset)]))
    records = [element("li", line) for line in map(record, launches(run.dataset))]
    return joined(
        [
            element("dl", *told),
            element("p", "The same numbers again:"),
            again,
            [element("p", "Launches:"), element("ul", records, class_="soft")] if records else [],
        ]
    )


def record(launch: dict[str, Any]) -> str:
    """A launch in a line: when, how long, on what, with what."""
    seconds = launch.get("seconds")
    took = f" after {seconds:.0f} s" if isinstance(seconds, int | float) else ""
    threads = f", {launch['threads']} threads" if "threads" in launch else ""
    versions = ", ".join(f"{name} {number}" for name, number in mapping(launch.get("versions")).items())
    said = f"{launch.get('started', 'unknown time')}: {launch.get('ended', 'unknown end')}{took}, "
    said += f"{launch.get('pairs', 'unknown')} pairs on {launch.get('device', 'unknown device')}{threads}"
    method = f"; {launch['method']}" if "method" in launch else ""
    return f"{said}{method}; {versions}"


def version(run: Run) -> str:
    """The version of the lipdiag that measured."""
    known = [str(mapping(launch.get("versions")).get("lipdiag", "")) for launch in launches(run.dataset)]
    return ", ".join(dict.fromkeys(filter(None, known))) or "unknown version"


def _spelled(value: Any) -> str:
    """A value as text; long lists of numbers, such as tables of betas, are told by their ends."""
    text = f"({', '.join(map(str, value))})" if isinstance(value, list | tuple) else str(value)
    return shortened(text).strip("()") if isinstance(value, list | tuple) else shortened(text)
