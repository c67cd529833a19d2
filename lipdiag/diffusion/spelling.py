"""Schedules, clocks and parameterizations as text: `shared(timesteps(1000), 100, 5)`.

The text is names, calls, numbers and tuples in Python's syntax, read by `ast` and never evaluated, and
parse(spell(o)) == o.
"""

import ast
import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import UsageError, meant
from .clock import CLOCKS, Clock
from .limit import LIMITS
from .parameterization import PARAMETERIZATIONS
from .schedule import SCHEDULES, Schedule, Table

ELSEWHERE = {
    **dict.fromkeys(("flow", "flow_matching", "rectified_flow", "interpolant"), "straight"),
    **dict.fromkeys(("epsilon", "noise", "pred_noise"), "eps"),
    **dict.fromkeys(("sample", "x_start", "start_x", "pred_x0"), "x0"),
    **dict.fromkeys(("v_prediction", "pred_v"), "v"),
    "flow_prediction": "velocity",
    **dict.fromkeys(("index", "indices", "integers"), "timesteps"),
    "continuous": "unit",
}
"""What others call them."""

REGISTRIES: tuple[Mapping[str, Any], ...] = (SCHEDULES, CLOCKS, PARAMETERIZATIONS, LIMITS)


class Entry(NamedTuple):
    """A schedule, clock or parameterization: how it is written, what it is, and which packages use it."""

    usage: str
    meaning: str
    used: str


def parse(text: str, registry: Mapping[str, Any]) -> Any:
    """The schedule, clock or parameterization that `text` spells.

    Args:
        text: A name, or a name with arguments; without arguments the defaults hold.
        registry: Where the outermost name is looked up: SCHEDULES, CLOCKS or PARAMETERIZATIONS.

    Raises:
        UsageError: If the text is anything else; the message lists what is allowed.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Name | ast.Call):
            raise SyntaxError
        return _value(node, _short(text), [registry])
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"got {_short(text)!r}, which is not a name with arguments; {_allowed([registry])}") from None


def spell(thing: object) -> str:
    """The text from which `parse` makes `thing` again."""
    for registry in REGISTRIES:
        for name, entry in registry.items():
            if thing is entry and not isinstance(entry, type):
                return name
            if type(thing) is entry and dataclasses.is_dataclass(thing):
                values = [getattr(thing, field.name) for field in dataclasses.fields(thing)]
                while values and values[-1] == ():  # edges that were not given
                    values.pop()
                return f"{name}({', '.join(map(_spell_value, values))})"
    raise UsageError(f"got {thing!r}, which has no name; {_allowed(REGISTRIES)}")


def _spell_value(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_spell_value, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, int | float):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    return spell(value)


def _value(node: ast.expr, text: str, registries: Sequence[Mapping[str, Any]]) -> Any:
    """The object, number or tuple of a node of the syntax tree."""
    match node:
        case ast.Name(id=name):
            entry = _look_up(name, text, registries)
            return _build(name, entry, [], {}, text) if isinstance(entry, type) else entry
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            entry = _look_up(name, text, registries)
            positional = [_value(arg, text, REGISTRIES) for arg in args]
            named = {str(keyword.arg): _value(keyword.value, text, REGISTRIES) for keyword in keywords}
            return _build(name, entry, positional, named, text)
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number) if math.isfinite(number):
            return number
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant() as operand):
            number = _value(operand, text, REGISTRIES)
            return -number if isinstance(sign, ast.USub) else number
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return tuple(_value(element, text, REGISTRIES) for element in elements)
    raise UsageError(
        f"got {_short(ast.unparse(node))!r} in {text!r}; only names, calls, finite numbers and tuples of them are "
        f"understood, so change it; {_allowed(registries)}"
    )


def _short(text: str) -> str:
    """Enough of the text to recognise it in a message."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def _look_up(name: str, text: str, registries: Sequence[Mapping[str, Any]]) -> Any:
    for registry in registries:
        if name in registry:
            return registry[name]
    where = "" if name == text else f" in {text!r}"
    known = [known for registry in registries for known in registry]
    own = ELSEWHERE.get(name.lower())
    near = f" (did you mean {own}?)" if own in known else meant(name, known)
    raise UsageError(f"got {name!r}{where}{near}; {_allowed(registries)}")


def _build(name: str, entry: Any, args: list[Any], named: dict[str, Any], text: str) -> Any:
    """The dataclass `entry` from arguments that fit its fields."""
    if not isinstance(entry, type):
        raise UsageError(f"got arguments for {name!r} in {text!r}; it takes none, so leave out the parentheses")
    usage = f"it is written {_usage(name, entry)}"
    try:
        arguments = inspect.signature(entry).bind(*args, **named).arguments
    except TypeError as error:
        raise UsageError(f"got {text!r} and {error}; {usage}, so change the arguments of {name}") from None
    hints = typing.get_type_hints(entry)
    for parameter, value in arguments.items():
        kind, fits = _kind(hints[parameter])
        if not fits(value):
            raise UsageError(f"got {value!r} as {parameter} in {text!r}; {usage} and takes {kind} there, so give one")
    return entry(**arguments)


def _kind(hint: Any) -> tuple[str, Callable[[object], bool]]:
    """What a field of a dataclass is, in words and as a test."""
    if hint is float:
        return "a number", lambda value: isinstance(value, int | float)
    if typing.get_origin(hint) is tuple:
        return (
            "a tuple of numbers",
            lambda value: isinstance(value, tuple) and all(isinstance(number, int | float) for number in value),
        )
    words = {int: "a whole number", Table: "a schedule with a table", Schedule: "a schedule", Clock: "a clock"}
    return words[hint], lambda value: isinstance(value, hint)


def _usage(name: str, entry: Any) -> str:
    """How an entry of a registry is written, with its defaults."""
    if not isinstance(entry, type):
        return name
    parameters = inspect.signature(entry).parameters.values()
    return f"{name}({', '.join(str(parameter.replace(annotation=parameter.empty)) for parameter in parameters)})"


def entries(registry: Mapping[str, Any]) -> list[Entry]:
    """Everything in a registry, as its own signatures and docstrings tell it."""
    listed = []
    for name, entry in registry.items():
        before, _, after = inspect.cleandoc(entry.__doc__ or "").partition("In use: ")
        meaning, used = (" ".join(text.split("\n\n")[0].split()) for text in (before, after))
        listed.append(Entry(_usage(name, entry), meaning, used))
    return listed


def _allowed(registries: Sequence[Mapping[str, Any]]) -> str:
    names = ", ".join(name for registry in registries for name in registry)
    return f"allowed names are {names}; see `lipdiag help conventions`"
