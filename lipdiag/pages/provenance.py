"""Where a run comes from: model, data, plan, launches, and the commands that make it again."""

import shlex
from typing import Any

from ..files import mapping
from ..printing import shortened
from ..results.label import IN_MEMORY
from ..results.run import Run
from ..text import printable
from .html import Markup, element, joined

OPTIONS = ("draws", "step", "certified_width", "probes", "batch", "dtype", "products", "seed")
"""Options of `lipdiag measure`, beside timesteps, quantities and data."""

LISTS = ("timesteps", "quantities")


def provenance(run: Run) -> Markup:
    """The facts in two columns, the commands, and a line for each launch."""
    plan = {key: value for key, value in run.plan.items() if key not in LISTS and value is not None}
    data = {f"data {key}": value for key, value in mapping(run.frozen.get("data")).items()}
    model = {key.replace("weights_sha256", "sha256 of tensors"): value for key, value in run.model.items()}
    facts = {"checkpoint": run.dataset.attrs.get("checkpoint"), **model, **data, **plan}
    told = [(element("dt", key.replace("_", " ")), element("dd", _spelled(value))) for key, value in facts.items()]
    again = element("pre", element("code", [[command, Markup("\n")] for command in commands(run)]))
    records = [element("li", line) for line in map(record, launches(run))]
    return joined(
        [
            element("dl", *told),
            element("p", "The same numbers again:"),
            again,
            [element("p", "Launches:"), element("ul", records, class_="soft")] if records else [],
        ]
    )


def launches(run: Run) -> list[dict[str, Any]]:
    """Records of the launches that filled a run."""
    listed = run.dataset.attrs.get("launches")
    return [launch for launch in listed if isinstance(launch, dict)] if isinstance(listed, list) else []


def commands(run: Run) -> list[str]:
    """The commands of launches from a shell, else the one that the frozen plan spells; for a model in memory a call."""
    typed = [launch["argv"] for launch in launches(run) if isinstance(launch.get("argv"), list)]
    shells = [argv for argv in typed if argv and str(argv[0]).endswith("lipdiag")]
    if shells:
        return list(dict.fromkeys(shlex.join([printable(word) for word in argv]) for argv in shells))
    plan, checkpoint = run.plan, run.dataset.attrs.get("checkpoint", IN_MEMORY)
    times = [f"{k:.17g}" for k in run.timestep]
    if checkpoint == IN_MEMORY:
        fields = {key: plan[key] for key in (*OPTIONS, "quantities") if plan.get(key) is not None}
        known = {"timesteps": tuple(map(float, times)), "draws": run.dataset.sizes["draw"], **fields}
        spelled = ", ".join(f"{key}={value!r}" for key, value in known.items())
        return [printable(f"lipdiag.measure(model, data, lipdiag.Plan({spelled}))")]
    words = ["lipdiag", "measure", str(checkpoint), "--timesteps", ",".join(times)]
    planned = {"draws": run.dataset.sizes["draw"], **{key: plan.get(key) for key in OPTIONS if key in plan}}
    for key, value in planned.items():
        words += [] if value is None else [f"--{key.replace('_', '-')}", f"{value}"]
    for quantity in plan.get("quantities") or ():
        words += ["--quantity", str(quantity)]
    for key, value in asked(run).items():
        told = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words += [f"--{key.replace('_', '-')}", *([] if value is True else [told])]
    return [shlex.join([printable(word) for word in words])]


def asked(run: Run) -> dict[str, Any]:
    """What was told in Python besides the plan, as launches have it on record."""
    return {key: value for launch in launches(run) for key, value in mapping(launch.get("asked")).items()}


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
    known = [str(mapping(launch.get("versions")).get("lipdiag", "")) for launch in launches(run)]
    return ", ".join(dict.fromkeys(filter(None, known))) or "unknown version"


def _spelled(value: Any) -> str:
    """A value as text; long lists of numbers, such as tables of betas, are told by their ends."""
    text = f"({', '.join(map(str, value))})" if isinstance(value, list | tuple) else str(value)
    return shortened(text).strip("()") if isinstance(value, list | tuple) else shortened(text)
