"""What a stranger's file tells beside tensors, as far as it is plain: numbers, texts, and what holds such."""

import math
from collections.abc import Mapping
from typing import Any


def plain_facts(value: Any, part: str | None = None) -> dict[str, Any]:
    """The numbers, lists of numbers and texts among a training script's arguments, or in a part of them."""
    if isinstance(value, Mapping) and part is not None:
        value = value.get(part)
    if not isinstance(value, Mapping):
        return {}
    plain = (bool, int, float, str)
    return {
        str(key): item
        for key, item in value.items()
        if isinstance(item, plain) or (isinstance(item, list) and all(type(size) is int for size in item))
    }


def plain(value: Any) -> Any:
    """The numbers and texts in nested dictionaries and lists, without whatever is none."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if is_plain(item)}
    return [plain(item) for item in value if is_plain(item)] if isinstance(value, list | tuple) else value


def is_plain(value: Any) -> bool:
    """Whether a value is a number that is finite, a text, none, or what holds such."""
    if type(value) is float:
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | float | str | Mapping | list | tuple)
