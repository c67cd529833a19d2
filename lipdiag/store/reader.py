"""Runs and evaluations that were checked -> datasets: every chunk is decoded here, by one of three known ways."""

import math
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RunError, StorageError
from ..files import aside
from ..text import writable
from . import chunk
from .folder import HOLLOW, read_regular
from .format import BYTES, Array, Checked, check_evaluation, check_run

if TYPE_CHECKING:
    import xarray as xr

LARGEST_BLANK = 2**28
"""Bytes of numbers not measured yet that are kept in memory whatever was measured."""


def open_run(path: str | Path) -> "xr.Dataset":
    """A run as an `xarray.Dataset`, its values in memory, every checksum verified.

    Raises:
        RunError: If `path` is no run, is damaged, or was made by a newer lipdiag.
        StorageError: If it cannot be read.
    """
    store = check_run(Path(path))
    if store.claimed > HOLLOW * store.held + LARGEST_BLANK:
        raise RunError(
            f"{path} holds {store.held / 1e6:.0f} MB of the {store.claimed / 1e6:.0f} MB that it has room for, too "
            "little to be read; go on with the `lipdiag measure` that began it"
        )
    draws = min(array.shape[place] for array in store.arrays.values() if (place := drawn(array)) is not None)
    try:
        values = {name: numbers(store, name) for name in store.arrays if name != "attempts"}
    except OSError as error:
        raise StorageError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    except ValueError as error:
        raise RunError(
            f"{path} is damaged: {error}; the command that measured it finds the damage and measures that part again"
        ) from error
    values["draw"] = np.arange(draws)
    made = dataset(store, {n: v[:, :draws] if drawn(store.arrays[n]) == 1 else v for n, v in values.items()})
    made.encoding["source"] = str(path)  # where xarray keeps it too
    return indexed(made)


def indexed(run: "xr.Dataset") -> "xr.Dataset":
    """A run whose dimension `time` has the timesteps as its index, so that `run.sel(time=10)` finds one."""
    return run.assign_coords(time=("time", run["timestep"].values, run["timestep"].attrs)) if "timestep" in run else run


def drawn(array: Array) -> int | None:
    """Which dimension is that of the draws; growth that was cut short leaves arrays of two lengths."""
    return array.dimensions.index("draw") if "draw" in array.dimensions else None


def open_evaluation(path: str | Path) -> "xr.Dataset":
    """An evaluation as an `xarray.Dataset`, in memory; one that a kill left aside is found there.

    Raises:
        RunError: If there is none at `path`, it is damaged, or was made by a newer lipdiag.
        StorageError: If it cannot be read.
    """
    path = Path(path)
    home = aside(path) if not os.path.lexists(path) and aside(path).exists() else path
    store = check_evaluation(path, home)
    try:
        values = {name: numbers(store, name) for name in store.arrays}
        for name in ("sampler", "seed"):
            if len(np.unique(values[name])) < len(values[name]):
                raise ValueError(f"it names a {name} twice")
        return dataset(store, values)
    except OSError as error:
        raise StorageError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): evaluate again with another --out") from error


def dataset(store: Checked, values: dict[str, np.ndarray]) -> "xr.Dataset":
    """Arrays with their attributes; those along a single dimension are its coordinates."""
    import xarray as xr

    kept = {name: store.arrays[name] for name in values}
    variables: dict[str, Any] = {
        name: (array.dimensions, values[name], {k: v for k, v in array.attributes.items() if k not in ENCODED})
        for name, array in sorted(kept.items())
    }
    axes = {name for name, array in kept.items() if len(array.dimensions) == 1}
    return xr.Dataset(
        {name: variable for name, variable in variables.items() if name not in axes},
        {name: variable for name, variable in variables.items() if name in axes},
        store.attributes,
    )


ENCODED = ("coordinates", "_FillValue")
"""Attributes by which xarray tells itself how to read an array."""


def numbers(store: Checked, name: str) -> np.ndarray:
    """All of an array; its fill value where no chunk was written.

    Raises:
        ValueError: If a chunk is damaged.
        OSError: If one cannot be read.
    """
    array = store.arrays[name]
    values = np.full(array.shape, array.fill, object if array.dtype == "string" else array.dtype)
    for place, file in store.chunks.get(name, {}).items():
        if len(place) == len(array.grid) and all(i < n for i, n in zip(place, array.grid, strict=True)):
            corner = tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, array.chunks, strict=True))
            here = values[corner]
            here[...] = decoded(file, array)[tuple(slice(n) for n in here.shape)]
    return values if array.dtype != "string" else values.astype(str)


def decoded(file: Path, array: Array) -> np.ndarray:
    """What is in a chunk."""
    count = math.prod(array.chunks)
    if array.dtype != "string" and not array.packed:
        return chunk.read(file, np.dtype(array.dtype), array.chunks)
    data = (
        unpacked(file, count * BYTES[array.dtype] + 4) if array.packed else chunk.checked(file, count * BYTES["string"])
    )
    if array.dtype == "string":
        return np.array(texts(data, count), object).reshape(array.chunks)
    if len(data) != count * BYTES[array.dtype]:
        raise ValueError(f"{file} holds {len(data)} bytes where there must be {count * BYTES[array.dtype]}")
    return np.frombuffer(data, np.dtype(array.dtype).newbyteorder("<")).astype(array.dtype).reshape(array.chunks)


def unpacked(file: Path, most: int) -> bytes:
    """The bytes that zstandard packed into a file, which says first how many they are."""
    from numcodecs.zstd import Zstd  # the decoder itself: nothing is looked up by a name

    data = read_regular(file, 2 * most)
    if len(data) < 9 or len(data) > 2 * most or data[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError(f"{file} is no packed chunk")
    wide, single = data[4] >> 6, data[4] >> 5 & 1
    width = (single, 2, 4, 8)[wide]
    start = 5 + (not single) + (0, 1, 2, 4)[data[4] & 3]
    size = int.from_bytes(data[start : start + width], "little") + 256 * (width == 2)
    if not width or size > most:
        raise ValueError(f"{file} unpacks to more than the {most} bytes allowed")
    try:
        return bytes(Zstd().decode(data, np.empty(size, np.uint8)))
    except RuntimeError as error:
        raise ValueError(f"{file} cannot be unpacked ({error})") from error


def texts(data: bytes, count: int) -> list[str]:
    """So many texts, each behind its length, all behind their number."""
    items, place = [], 4
    if len(data) < 4 or int.from_bytes(data[:4], "little") != count:
        raise ValueError(f"there are not {count} texts in a chunk")
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, place) if place + 4 <= len(data) else (len(data),)
        text = data[place + 4 : place + 4 + length]
        if len(text) != length:
            raise ValueError("a text is cut")
        items.append(writable(text.decode()))
        place += 4 + length
    return items
