"""A run's folder, checked before anything in it is interpreted: it may come from a stranger.

zarr reads many layouts, and some of them unpack bombs or unpickle objects. A run is the one layout that lipdiag
writes: format 3, plain numbers with a checksum, regular files only. Whatever else is found is refused by its name.
"""

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from ..errors import RunError, StorageError

FORMAT = "lipdiag run"
FORMAT_VERSION = 1
LARGEST_METADATA = 64 * 2**20  # bytes of zarr.json, which keeps the plan and a record of every launch
LARGEST_GAP = 2**30  # bytes that arrays may claim beyond what is on the disk: units not measured yet
BYTES = {"float64": 8, "int64": 8, "int8": 1}
CODECS = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "crc32c"},
]


def check(path: Path) -> dict[str, Any]:
    """The attributes of the run at `path`, once all of its metadata is what lipdiag writes.

    Raises:
        RunError: If it is something else, is damaged, or of a newer format.
        StorageError: If it cannot be read.
    """
    try:
        root = metadata(path / "zarr.json")
    except FileNotFoundError:
        raise RunError(
            f"{path} is no lipdiag run: it has no zarr.json; give another --out, or the folder of a run"
        ) from None
    except PermissionError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is no lipdiag run: its zarr.json cannot be read ({type(error).__name__})") from error
    attributes = root.get("attributes")
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT or root.get("node_type") != "group":
        raise RunError(f"{path} is a zarr store that lipdiag did not make; give another --out, or the folder of a run")
    version = attributes.get("format_version")
    if type(version) is not int or version > FORMAT_VERSION:
        raise RunError(
            f"{path} was made by a newer lipdiag (format {version!r:.20}, this one reads {FORMAT_VERSION}); update "
            "lipdiag"
        )
    layout = attributes.get("layout")
    if (
        not isinstance(layout, dict)
        or set(layout) != {"times", "draws"}
        or not all(type(n) is int and n > 0 for n in layout.values())
    ):
        damaged(path, "its layout is not two sizes")
    size, arrays = contents(path)
    consolidated = root.get("consolidated_metadata")
    if consolidated is not None:
        if not isinstance(consolidated, dict) or not isinstance(consolidated.get("metadata"), dict):
            damaged(path, "its consolidated metadata are no table of arrays")
        tables = [arrays, consolidated["metadata"]]
    else:
        tables = [arrays]
    for table in tables:
        check_arrays(path, table, size)
        for name in ("done", "draw"):
            if name not in table:
                damaged(path, f"it lacks the array {name}")
    return attributes


def metadata(file: Path) -> dict[str, Any]:
    """The object in a zarr.json."""
    # a pipe would be waited for, and a device never ends
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as handle:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        text = handle.read(LARGEST_METADATA + 1)
    if len(text) > LARGEST_METADATA:
        raise ValueError("too large")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def contents(path: Path) -> tuple[int, dict[str, Any]]:
    """Bytes in all files of a run, and the metadata of each array; only regular files and folders may be there."""
    size, arrays = 0, {}
    for file in files(path):
        size += file.stat(follow_symlinks=False).st_size
        parts = Path(file.path).relative_to(path).parts
        if len(parts) == 2 and file.name == "zarr.json":
            try:
                arrays[parts[0]] = metadata(Path(file.path))
            except (OSError, ValueError, RecursionError) as error:
                damaged(path, f"the metadata of {parts[0]!r:.60} cannot be read ({type(error).__name__})", error)
    return size, arrays


def files(path: Path) -> Iterator[os.DirEntry[str]]:
    """Every file below a run's folder."""
    try:
        entries = list(os.scandir(path))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield entry
        elif os.path.lexists(entry.path):  # a temporary file of another worker may be gone by now
            damaged(path, f"{entry.name!r:.60} is a link or no regular file")


def check_arrays(path: Path, arrays: dict[str, Any], size: int) -> None:
    """Refuse arrays of any other kind than lipdiag writes, or with far more numbers than there are bytes."""
    claimed = 0
    for name, array in arrays.items():
        try:
            shape, chunks = array["shape"], array["chunk_grid"]["configuration"]["chunk_shape"]
            plain = (
                array["node_type"] == "array"
                and array["zarr_format"] == 3
                and array["chunk_grid"]["name"] == "regular"
                and array["chunk_key_encoding"]["name"] == "default"
                and [{k: v for k, v in codec.items() if v} for codec in array["codecs"]]
                in (CODECS, [{"name": "bytes"}, CODECS[1]])
                and not array.get("storage_transformers")
                and all(type(n) is int and n >= 0 for n in shape)
                and all(type(n) is int and n > 0 for n in chunks)
                and 0 < len(shape) == len(chunks) <= 5
            )
            claimed += math.prod(shape) * BYTES[array["data_type"]]
            chunk = math.prod(chunks) * BYTES[array["data_type"]]
        except (KeyError, TypeError, AttributeError) as error:
            damaged(path, f"the array {name!r:.60} is not of the kind lipdiag writes", error)
        if not plain:
            damaged(path, f"the array {name!r:.60} is not of the kind lipdiag writes")
        if chunk > LARGEST_GAP // 4:
            damaged(path, f"the array {name!r:.60} has chunks of {chunk} bytes")
    if claimed > size + LARGEST_GAP:
        damaged(path, f"it claims {claimed / 1e9:.1f} GB and holds {size / 1e9:.1f} GB")


def damaged(path: Path, cause: str, error: Exception | None = None) -> NoReturn:
    raise RunError(f"{path} is damaged: {cause}; measure again with another --out") from error
