"""Files and folders read and written so that neither a crash nor a stranger's file does harm.

What is written exists whole or not at all: it is made under a hidden name beside its own and renamed, so that whoever
looks sees the old or the new. A file is opened without waiting (a pipe would block for ever) and must be a regular
file.
"""

import errno
import glob
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from secrets import token_hex
from typing import Any

from .errors import CheckpointError, StorageError
from .text import printable, sound

LARGEST_JSON = 1_000_000  # bytes


def shown(name: object) -> str:
    """A name from a file or a command line, safe to print: control characters are escaped, long names are cut."""
    text = printable(str(name))
    return text if len(text) <= 200 else text[:197] + "..."


def replace_file(target: Path, data: bytes, mode: int = 0o666, sync: bool = True) -> None:
    """Write a file as a whole or not at all, in the place of the old one if there is one.

    Args:
        target: The file; a link is replaced.
        data: Its bytes.
        mode: Its permissions, less those that the process withholds from new files.
        sync: Whether to wait until it is on the disk, for those whose loss in a power cut nothing would tell.

    Raises:
        OSError: If the disk is full, the place is missing or may not be written; nothing is left behind.
    """
    temporary = target.with_name(f".{target.name[:100]}.{token_hex(6)}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        sync_folder(target.parent)


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write a file as a whole or not at all.

    A link is followed and stays a link. The permissions are those of any new file, or of the file replaced.

    Raises:
        StorageError: If the disk is full, the place is missing or may not be written; nothing is left behind.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = 0o666
        with suppress(FileNotFoundError):
            status = os.stat(target)
            if not stat.S_ISREG(status.st_mode):
                raise StorageError(f"cannot write {shown(path)}: it exists and is not a regular file")
            mode = stat.S_IMODE(status.st_mode)
        replace_file(target, data, mode)
    except OSError as error:
        raise StorageError(f"cannot write {shown(path)}: {reason(error, target.parent)}") from error


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed writers left in a folder in which nobody else writes."""
    for file in temporaries(folder):
        file.unlink(missing_ok=True)


def temporaries(folder: Path) -> list[Path]:
    """What was being written into a folder, and is not whole."""
    return [file for file in folder.iterdir() if re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp", file.name)]


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """The name under which a folder is made that is to appear at `path` whole, by `os.rename` or `replace_folder`.

    It lies in a hidden folder beside `path`, which is gone in the end. One that a killed process left is removed by the
    next one: whoever works in it holds a lock on it, which the system takes from the dead.

    Raises:
        OSError: If the place may not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_dead(path)
    while True:
        home = path.with_name(stem(path) + token_hex(6))
        home.mkdir()
        with locked(home):
            if not home.exists():  # taken for that of a dead process before the lock was held
                continue
            try:
                yield home / "new"
            finally:
                shutil.rmtree(home, ignore_errors=True)
            return


def stem(path: Path) -> str:
    """How the hidden folders begin in which others are made that are to appear at `path`."""
    return f".{path.name[:100]}."


def remove_dead(path: Path) -> None:
    """Remove the hidden folders that killed processes left which were making one for `path`."""
    for other in path.parent.glob(f"{glob.escape(stem(path))}*"):
        if re.fullmatch("[0-9a-f]{12}", other.name[len(stem(path)) :]):
            with locked(other, wait=False) as dead:
                if dead:
                    shutil.rmtree(other, ignore_errors=True)


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """A lock on a folder that one process at a time holds; whether it is held, which some file systems never grant."""
    held, descriptor = False, None
    try:
        with suppress(ImportError, OSError):
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        yield held
    finally:
        if descriptor is not None:
            os.close(descriptor)


def replace_folder(new: Path, path: Path) -> None:
    """Exchange a new folder and the one at `path`, if there is one.

    No system renames a folder over a full one. A kill between the renames leaves the old one at `aside(path)`, from
    where `restore` brings it back.

    Raises:
        OSError: If that cannot be done; the old one is where it was.
    """
    restore(path)
    if not path.exists():
        os.rename(new, path)
        return
    os.rename(path, aside(path))
    try:
        os.rename(new, path)
    except OSError:
        restore(path)
        raise
    os.rename(aside(path), new)


def aside(path: Path) -> Path:
    """Where `replace_folder` keeps the old folder while the new one takes its place."""
    return path.with_name(f".{path.name}.old")


def restore(path: Path) -> None:
    """Bring back the folder that a killed `replace_folder` set aside; remove what killed processes left beside it."""
    remove_dead(path)
    if path.exists():
        shutil.rmtree(aside(path), ignore_errors=True)
    elif aside(path).exists():
        os.rename(aside(path), path)


def make_folder(path: str | Path) -> None:
    """Create a folder, and those above it, unless it is there.

    Raises:
        StorageError: If that cannot be done.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StorageError(f"cannot create the folder {shown(path)}: a file of that name is in the way") from error
    except OSError as error:
        raise StorageError(f"cannot create the folder {shown(path)}: {reason(error, Path(path).parent)}") from error


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
        raise CheckpointError(f"there is no file {shown(path)}: check the path") from error
    except (OSError, ValueError) as error:
        words = reason(error, Path()) if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"cannot read {shown(path)}: {words}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise CheckpointError(f"cannot read {shown(path)}: it is {kind} where a file is needed")
        if status.st_size == 0:
            raise CheckpointError(f"cannot read {shown(path)}: it is empty (0 bytes); copy or save it again")
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


def json_or_empty(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is none to read."""
    with suppress(CheckpointError):
        return read_json(path)
    return {}


def read_all(file: BufferedReader, path: str | Path, most: int) -> bytes:
    """Every byte of an open file of at most `most` bytes."""
    try:
        data = file.read(most + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {shown(path)}: {reason(error, Path())}") from error
    if len(data) > most:
        raise CheckpointError(f"cannot read {shown(path)}: it is larger than the {most} bytes allowed here")
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
        raise CheckpointError(f"cannot read {shown(name)}: it is larger than the {LARGEST_JSON} bytes allowed here")
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = sound(json.loads(text, object_pairs_hook=pairs, parse_float=number, parse_constant=constant))
    except (ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors
        cause = "its values are nested too deeply" if isinstance(error, RecursionError) else shown(error)
        raise CheckpointError(f"cannot read {shown(name)} as JSON: {cause}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"cannot read {shown(name)}: it holds a JSON {type(value).__name__}, not an object")
    return value


def mapping(value: Any) -> dict[str, Any]:
    """An object of a stranger's JSON; {} where there is something else."""
    return value if isinstance(value, dict) else {}
