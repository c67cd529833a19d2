"""Refusals in the words of whoever reads them: options of the command line, or Python's arguments."""

import functools
import re
from collections.abc import Callable
from types import FunctionType
from typing import Any

from .errors import LipdiagError

VALUE = r"""'[^']*'|"[^"]*"|[\w./:-]*\w(?:,[\w.]+)*(?:\([^()]*\))?"""
OPTION = re.compile(rf"(?<![\w-])(?<!install )--(?P<name>[a-z][a-z-]*[a-z])(?P<gap>[ ]?)(?P<value>{VALUE})?")
NUMBERS = re.compile(r"[0-9.]+(,[0-9.]+)*")
WORDS = ("ema", "raw", "eps", "v", "velocity", "score", "unit", "float32", "float64", "logsnr")
"""Values that could be words of a sentence too; all others hold a digit or a bracket, or stand in quotes."""

NAMES = {"quantity": "quantities", "set": ""}
"""Arguments that are not called as their options are."""

FLAGS = ("encode", "deterministic", "retry", "download")


def in_python(text: str) -> str:
    """The text with options as the arguments that they are in Python; whole commands in backquotes stay."""
    parts = text.split("`")
    spoken = [part if i % 2 and " " in part.strip() else OPTION.sub(argument, part) for i, part in enumerate(parts)]
    return "`".join(spoken)


def argument(option: re.Match[str]) -> str:
    """An option, perhaps with its value, as an argument: --shape 3,32,32 is shape=(3,32,32)."""
    name, gap, value = option["name"].replace("-", "_"), option["gap"] or "", option["value"] or ""
    if name.startswith("no_"):
        return f"{name[3:]}=False{gap}{value}"
    if name in FLAGS:
        return f"{name}=True{gap}{value}"
    called = NAMES.get(name, name)
    if not called:
        return value
    if value[:1] in ("'", '"') and value:
        return f"{called}={value}"
    if NUMBERS.fullmatch(value):
        return f"{called}=({value})" if "," in value else f"{called}={value}"
    if value in WORDS or re.search(r"[\d(]", value):
        return f"{called}={value!r}"
    if name == "quantity" and value:
        return f"{called}={value!r}"
    return f"{called}={gap}{value}"


def pythonic(value: Any) -> Any:
    """A function whose refusals name Python's arguments; anything else as it is."""
    if not isinstance(value, FunctionType):
        return value
    function: Callable[..., Any] = value

    @functools.wraps(function)
    def spoken(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except LipdiagError as error:
            error.args = (in_python(str(error)), *error.args[1:])
            raise

    return spoken
