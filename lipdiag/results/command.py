"""The commands that measured a run, and that measure its model again with all that its user had said."""

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..files import mapping
from ..text import printable
from .label import IN_MEMORY

if TYPE_CHECKING:
    import xarray as xr


def named(*options: str) -> frozenset[str]:
    """Options as they are typed."""
    return frozenset(f"--{name}" for name in options)


FLAGS = named(
    "encode", "resume", "no-resume", "probe", "no-probe", "retry", "deterministic", "dry-run", "resize", "download",
    "quiet", "json", "debug",
)  # fmt: skip
"""Options of `lipdiag measure` without a value."""

PASSING = named("out", "shard", "verify", "retry", "resume", "no-resume", "dry-run", "quiet", "json", "debug")
"""Options of one launch, which say nothing of what is measured."""

SPENT = named("tolerance", "max-draws")
"""What a number of draws takes the place of."""

OF_MODEL = named(
    "data", "weights", "schedule", "parameterization", "clock", "function", "conditioning", "label", "prompt",
    "original-config", "download", "factory", "shape",
)  # fmt: skip
"""Options that every command takes which asks a model on its data."""

OPTIONS = ("draws", "step", "certified_width", "probes", "batch", "dtype", "products", "seed")
"""Options of `lipdiag measure`, beside timesteps, quantities and data, that a plan on record tells."""


def launches(dataset: "xr.Dataset") -> list[dict[str, Any]]:
    """Records of the launches that filled a run."""
    listed = dataset.attrs.get("launches")
    return [launch for launch in listed if isinstance(launch, dict)] if isinstance(listed, list) else []


def typed(dataset: "xr.Dataset") -> list[list[str]]:
    """The words of the launches that came from a shell."""
    words = [launch["argv"] for launch in launches(dataset) if isinstance(launch.get("argv"), list)]
    return [[printable(word) for word in argv] for argv in words if argv and str(argv[0]).endswith("lipdiag")]


def commands(dataset: "xr.Dataset") -> list[str]:
    """The commands of launches from a shell, else the one that the frozen plan spells; for a model in memory a call."""
    if shells := typed(dataset):
        return list(dict.fromkeys(shlex.join(argv) for argv in shells))
    plan = mapping(mapping(dataset.attrs.get("frozen")).get("plan"))
    checkpoint = str(dataset.attrs.get("checkpoint", IN_MEMORY))
    times = [f"{k:.17g}" for k in dataset["timestep"].values]
    if checkpoint == IN_MEMORY:
        fields = {key: plan[key] for key in (*OPTIONS, "quantities") if plan.get(key) is not None}
        known = {"timesteps": tuple(map(float, times)), "draws": dataset.sizes["draw"], **fields}
        spelled = ", ".join(f"{key}={value!r}" for key, value in known.items())
        return [printable(f"lipdiag.measure(model, data, lipdiag.Plan({spelled}))")]
    words = ["lipdiag", "measure", checkpoint, "--timesteps", ",".join(times)]
    planned = {"draws": dataset.sizes["draw"], **{key: plan.get(key) for key in OPTIONS if key in plan}}
    for key, value in planned.items():
        words += [] if value is None else [f"--{key.replace('_', '-')}", f"{value}"]
    for quantity in plan.get("quantities") or ():
        words += ["--quantity", str(quantity)]
    return [shlex.join([printable(word) for word in [*words, *asked(dataset)]])]


def asked(dataset: "xr.Dataset") -> list[str]:
    """What was told in Python besides the plan, as launches have it on record, in words of the command line."""
    words = []
    told = {key: value for launch in launches(dataset) for key, value in mapping(launch.get("asked")).items()}
    for key, value in told.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words += [f"--{key.replace('_', '-')}", *([] if value is True else [text])]
    return words


def again(dataset: "xr.Dataset", options: str) -> str:
    """The command that measures a run's model into a new run, with all that its user had said.

    Args:
        dataset: The run.
        options: What is asked in the place of what was: `--quantity loss --draws 8`.
    """
    replaced = {word for word in options.split() if word.startswith("--")} | PASSING
    replaced |= SPENT if "--draws" in replaced else set()
    kept = [word for name, words in said(dataset) if name not in replaced for word in words]
    return f"{shlex.join(['lipdiag', 'measure', *kept])} {options} --out NEW.zarr"


def examining(dataset: "xr.Dataset") -> str:
    """The command that asks a run's model itself what is wrong with it."""
    kept = [word for name, words in said(dataset) if not name or name in OF_MODEL for word in words]
    return shlex.join(["lipdiag", "doctor", *kept])


def said(dataset: "xr.Dataset") -> list[tuple[str, list[str]]]:
    """The arguments that name a run's model, then each option of the last command for it: name and words."""
    known = str(dataset.attrs.get("checkpoint") or IN_MEMORY)
    shells = [argv[2:] for argv in typed(dataset) if argv[1:2] == ["measure"]]
    parts = list(split([*(shells[-1] if shells else asked(dataset))]))
    given = [words for name, words in parts if not name]
    models = given if shells and len(given) < 2 else [["CKPT" if known == IN_MEMORY else printable(known)]]
    return [*(("", words) for words in models), *((name, words) for name, words in parts if name)]


def split(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The words of a command as options, each its name and words, and as arguments, which have no name."""
    while words:
        name, equals, _ = words[0].partition("=")
        if not name.startswith("--"):
            name = ""
        length = 1 if not name or equals or name in FLAGS else 2
        yield name, words[:length]
        words = words[length:]
