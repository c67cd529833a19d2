"""What of a checkpoint may be shown to strangers: its names, shapes and types, never a value.

Names that are words of a programme are told; a name that a person may have written (with a space, a slash, or longer
than any module's) is told by its length alone.
"""

import getpass
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..files import parse_json, read_json
from .tensors import read_tensors

NAME = re.compile(r"[\w.:*\-]{1,120}")
PATH = re.compile(r"(?:[A-Za-z]:)?[^\s'\"`(),;]*[/\\][^\s'\"`(),;]*")
READERS: dict[str, Callable[[Path], Any]] = {
    ".json": read_json, ".safetensors": read_tensors, ".pt": read_tensors, ".pth": read_tensors, ".ckpt": read_tensors,
    ".bin": read_tensors,
}  # fmt: skip
NUMBERED = re.compile(r"(?:(?<=[./])|^)\d+(?=[./]|$)")
MOST_FILES = 200
SHORTEST = 3
"""Letters: a shorter name of a user is part of too many words."""

COMMON = {"root", "localhost"}
"""Names that tell nothing of anybody."""


def contents(path: str | Path) -> dict[str, Any]:
    """What each file of a checkpoint holds, by its name and size as they may be shown; None for other kinds of files.

    A file of a folder that cannot be read is the error of reading it.

    Raises:
        CheckpointError: If a single file is missing, damaged, or no checkpoint.
    """
    path = Path(path)
    if not path.is_dir():
        return {f"{base(path)}: {path.stat().st_size} bytes": read_tensors(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    held: dict[str, Any] = {}
    for file in files[:MOST_FILES]:
        name = f"{'/'.join(map(told, file.relative_to(path).parts))}: {file.stat().st_size} bytes"
        read = READERS.get(file.suffix)
        try:
            held[name] = read(file) if read else None
        except CheckpointError as error:
            held[name] = CheckpointError(anonymous(str(error), [str(path)]))
    left = len(files) - len(held)
    return held | ({f"and {left} more files": None} if left > 0 else {})


def outline(held: Mapping[str, Any]) -> list[str]:
    """The layout of a checkpoint, a line a file or an entry: keys, types, shapes, sizes, and keys of configurations.

    Entries that are equal but for the numbers in their names are one line with their count.
    """
    return [
        line
        for name, content in held.items()
        for line in (name, *(f"  {entry}" for entry in counted(entries(content))))
    ]


def entries(value: Any, name: str = "") -> Iterator[str]:
    """Each entry by its name and kind: of a tensor type and shape, of a list its length, of anything else its type."""
    value = spelled(value)
    if value is None and not name:
        return
    if isinstance(value, Mapping) and (value or not name):
        for key, item in value.items():
            yield from entries(item, f"{name}/{told(key)}" if name else told(key))
    elif isinstance(value, Tensor):
        yield f"{name}  {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    elif isinstance(value, list) and any(isinstance(item, Tensor) for item in value):
        for number, item in enumerate(value):
            yield from entries(item, f"{name}/{number}")
    elif isinstance(value, CheckpointError):
        yield f"not read: {value}"
    else:
        size = f" of {len(value)}" if isinstance(value, list) else ""
        yield f"{name}  {type(value).__name__}{size}"


def spelled(value: Any) -> Any:
    """The object that a text in JSON spells, as configurations are kept in a file of weights; else the value."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(CheckpointError):
            return parse_json(value, "a configuration")
    return value


def counted(lines: Iterator[str]) -> list[str]:
    """The lines in their order; those that differ in the numbers of their names alone are one, with their count."""
    counts: dict[str, int] = {}
    for line in lines:
        name, gap, kind = line.partition("  ")
        key = NUMBERED.sub("*", name) + gap + kind
        counts[key] = counts.get(key, 0) + 1
    return [line + (f"  x {count}" if count > 1 else "") for line, count in counts.items()]


def told(name: object) -> str:
    """A name as it may be shown."""
    text = str(name)
    return anonymous(text) if NAME.fullmatch(text) else f"<a name of {len(text)} characters>"


def base(path: str | Path) -> str:
    """The last part of a path, as it may be shown."""
    return told(Path(os.path.abspath(path)).name)


def anonymous(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without the secrets, in which paths are their last parts, and neither user nor machine is named."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "...")
    text = PATH.sub(lambda match: re.split(r"[/\\]", match[0].rstrip("/\\"))[-1] or "PATH", text)
    for name in names():
        text = re.sub(re.escape(name), "USER", text, flags=re.IGNORECASE)
    return text


def names() -> set[str]:
    """What the user and the machine are called."""
    called = {Path.home().name}
    with suppress(OSError, KeyError, ImportError):
        called.add(getpass.getuser())
    called.add(platform.node())
    return {name for name in called - COMMON if len(name) >= SHORTEST}


def phrases(value: Any) -> Iterator[str]:
    """Texts in a file that a person may have written: those that are no single word."""
    value = spelled(value)
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from phrases(key)
            yield from phrases(item)
    elif isinstance(value, list):
        for item in value:
            yield from phrases(item)
    elif isinstance(value, str) and not NAME.fullmatch(value) and len(value) >= SHORTEST:
        yield value
