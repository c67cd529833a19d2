"""Reading and writing whole files so that neither a crash nor a stranger's file does harm.

A file is written under a temporary name beside its own, flushed to the disk and renamed: whoever looks sees the old
file or the new one. A file is opened without waiting (a pipe would block for ever) and must be a regular file.
"""

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from secrets import token_hex
from typing import Any

from lipdiag.errors import CheckpointError, StorageError
from lipdiag.text import printable, sound

LARGEST_JSON = 1_000_000  # bytes


def shown(name: object) -> str:
    """A name from a file or a command line, safe to print: control characters are escaped, long names are cut."""
    text = printable(str(name))
    return text if len(text) <= 200 else text[:197] + "..."


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write a file as a whole or not at all.

    A link is followed and stays a link. The permissions are those of any new file, or of the file replaced.

    Raises:
        StorageError: If the disk is full, the place is missing or may not be written; nothing is left behind.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:100]}.{token_hex(6)}.tmp")
    try:
        mode = 0o666
        with suppress(FileNotFoundError):
            status = os.stat(target)
            if not stat.S_ISREG(status.st_mode):
                raise StorageError(f"Cannot write {shown(path)}: it exists and is not a regular file.")
            mode = stat.S_IMODE(status.st_mode)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(target.parent)
    except OSError as error:
        raise StorageError(f"Cannot write {shown(path)}: {reason(error, target.parent)}.") from error


def make_folder(path: str | Path) -> None:
    """Create a folder, and those above it, unless it is there.

    Raises:
        StorageError: If that cannot be done.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StorageError(f"Cannot create the folder {shown(path)}: a file of that name is in the way.") from error
    except OSError as error:
        raise StorageError(f"Cannot create the folder {shown(path)}: {reason(error, Path(path).parent)}.") from error


def sync_folder(path: Path) -> None:
    """Bring a rename in this folder to the disk, where the system can."""
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def reason(error: OSError, folder: Path) -> str:
    """Why the system refused, in the words of the system; how much room is left where that is the reason."""
    words = (os.strerror(error.errno) if error.errno else str(error)).lower()
    if error.errno == errno.ENOSPC:
        with suppress(OSError):
            words += f" ({shutil.disk_usage(folder).free} bytes are free)"
    return words


@contextmanager
def open_regular(path: str | Path) -> Iterator[BufferedReader]:
    """A regular file opened for reading; everything that is checked and read later comes from this one handle.

    Raises:
        CheckpointError: If there is no such file, it may not be read, is not a regular file, or is empty.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no file {shown(path)}: check the path.") from error
    except (OSError, ValueError) as error:
        words = reason(error, Path()) if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"Cannot read {shown(path)}: {words}.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise CheckpointError(f"Cannot read {shown(path)}: it is {kind} where a file is needed.")
        if status.st_size == 0:
            raise CheckpointError(f"Cannot read {shown(path)}: it is empty (0 bytes); copy or save it again.")
    except BaseException:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        yield file


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file, read strictly.

    Raises:
        CheckpointError: If the file is missing, larger than 1 MB, not JSON, or repeats a key, or holds NaN or infinity.
    """
    with open_regular(path) as file:
        data = read_all(file, path, LARGEST_JSON)
    return parse_json(data, str(path))


def read_all(file: BufferedReader, path: str | Path, most: int) -> bytes:
    """Every byte of an open file of at most `most` bytes."""
    try:
        data = file.read(most + 1)
    except OSError as error:
        raise CheckpointError(f"Cannot read {shown(path)}: {reason(error, Path())}.") from error
    if len(data) > most:
        raise CheckpointError(f"Cannot read {shown(path)}: it is larger than the {most} bytes allowed here.")
    return data


def parse_json(data: bytes | str, name: str) -> dict[str, Any]:
    """The object that a JSON text spells; `name` is what errors call it."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        if len(set(keys)) < len(keys):
            raise ValueError(f"the key {shown(max(keys, key=keys.count))!r} appears twice")
        return dict(items)

    def number(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ValueError(f"the number {shown(text)} is too large")
        return value

    def constant(text: str) -> float:
        raise ValueError(f"{text} is not a number that JSON knows")

    if len(data) > LARGEST_JSON:
        raise CheckpointError(f"Cannot read {shown(name)}: it is larger than the {LARGEST_JSON} bytes allowed here.")
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = sound(json.loads(text, object_pairs_hook=pairs, parse_float=number, parse_constant=constant))
    except (ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors
        cause = "its values are nested too deeply" if isinstance(error, RecursionError) else shown(error)
        raise CheckpointError(f"Cannot read {shown(name)} as JSON: {cause}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"Cannot read {shown(name)}: it holds a JSON {type(value).__name__}, not an object.")
    return value
