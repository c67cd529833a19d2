"""A store's folder, looked at before anything in it is interpreted: it may come from a stranger.

Only regular files and folders may be there, of a depth and with texts that bound what looking at them takes.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import StorageError
from ..text import sound

LARGEST_METADATA = 16 * 2**20
"""Bytes of a zarr.json: that of a run keeps the plan and a record of every launch."""

DEEPEST_FOLDER = 8
HOLLOW = 16
"""Bytes that a file may claim for each byte that it takes on the disk: compressing file systems exist, holes are not
numbers."""


@dataclass
class Contents:
    """What lies in a store's folder.

    Attributes:
        root: The object in its zarr.json.
        arrays: Name -> the object in the zarr.json of that folder.
        chunks: Name -> place in the grid -> file.
        held: Bytes of all files, where those of holes hardly count.
    """

    root: dict[str, Any]
    arrays: dict[str, Any] = field(default_factory=dict)
    chunks: dict[str, dict[tuple[int, ...], Path]] = field(default_factory=dict)
    held: int = 0


def contents(path: Path) -> Contents:
    """What a folder holds, without a look into any chunk.

    Raises:
        FileNotFoundError, NotADirectoryError: If there is no such folder, or no zarr.json in it.
        ValueError: With the cause, if it holds what no store has.
        StorageError: If it cannot be read.
    """
    try:
        folder = Contents(metadata(path / "zarr.json"))
        for file in files(path):
            try:
                status = file.stat(follow_symlinks=False)
            except FileNotFoundError:  # a temporary file of another worker
                continue
            folder.held += min(status.st_size, HOLLOW * 512 * getattr(status, "st_blocks", status.st_size))
            name, *rest = Path(file.path).relative_to(path).parts
            if rest == ["zarr.json"]:
                folder.arrays[name] = metadata(Path(file.path))
            elif rest[:1] == ["c"] and all(re.fullmatch("[0-9]{1,7}", part) for part in rest[1:]):
                folder.chunks.setdefault(name, {})[tuple(map(int, rest[1:]))] = Path(file.path)
    except PermissionError as error:
        raise StorageError(f"cannot read {error.filename or path}: {error.strerror}") from error
    return folder


def metadata(file: Path) -> dict[str, Any]:
    """The object in a zarr.json."""
    text = read_regular(file, LARGEST_METADATA)
    if len(text) > LARGEST_METADATA:
        raise ValueError(f"{file.name} is larger than the {LARGEST_METADATA} bytes allowed")
    try:
        content = sound(json.loads(text.decode("utf-8")))
    except (ValueError, RecursionError) as error:
        cause = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{'/'.join(file.parts[-2:])} cannot be read ({cause})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{'/'.join(file.parts[-2:])} holds no object")
    return content


def read_regular(file: Path, most: int, links: bool = False) -> bytes:
    """The bytes of a regular file, `most` and one at most; a link to one only where links may be followed.

    Raises:
        ValueError: If it is no regular file.
        OSError: If it is not there, or may not be read.
    """
    # a pipe would be waited for, a device never ends, and a link leads anywhere
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | (0 if links else getattr(os, "O_NOFOLLOW", 0))
    descriptor = os.open(file, flags)
    with os.fdopen(descriptor, "rb") as handle:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{file.name} is no regular file")
        return handle.read(most + 1)


def files(path: Path, deepest: int = DEEPEST_FOLDER) -> Iterator[os.DirEntry[str]]:
    """Every file below a store's folder."""
    if not deepest:
        raise ValueError(f"{path.name!r:.60} lies too deep")
    with os.scandir(path) as listing:
        entries = list(listing)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            with suppress(FileNotFoundError):
                yield from files(Path(entry.path), deepest - 1)
        elif entry.is_file(follow_symlinks=False):
            yield entry
        elif os.path.lexists(entry.path):  # a temporary file of another worker may be gone by now
            raise ValueError(f"{entry.name!r:.60} is a link or no regular file")
