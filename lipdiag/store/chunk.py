"""One chunk of an array on disk: its numbers in little-endian order, then their CRC32C.

It is the only form that `format` lets pass, and the one that zarr writes. zarr itself takes each chunk through an event
loop, codecs and threads, which wait for each other for a millisecond and more; a unit has a dozen chunks.
"""

import math
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from ..files import replace_file
from .folder import read_regular
from .layout import WorkUnit

CHECKSUM = 4
"""Bytes."""


def read(file: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers in a chunk.

    Raises:
        ValueError: If they fail their checksum, there are more or fewer, or it is no regular file.
        OSError: If there is no such file, or it cannot be read.
    """
    size = math.prod(shape) * dtype.itemsize
    data = checked(file, size)
    if len(data) != size:
        raise ValueError(f"{file} fails its checksum")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def checked(file: Path, most: int) -> bytes:
    """At most so many bytes, which were followed by their checksum."""
    data = read_regular(file, most + CHECKSUM)
    if not CHECKSUM <= len(data) <= most + CHECKSUM or checksum(data[:-CHECKSUM]) != data[-CHECKSUM:]:
        raise ValueError(f"{file} fails its checksum")
    return data[:-CHECKSUM]


def checksum(data: bytes) -> bytes:
    return google_crc32c.value(data).to_bytes(CHECKSUM, "little")


def write(file: Path, values: np.ndarray) -> None:
    """Store the numbers of a chunk, whole or not at all; its checksum tells of one that a power cut tore.

    Raises:
        OSError: If the disk is full, or the place may not be written.
    """
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, data + checksum(data), sync=False)


def key(unit: WorkUnit, array: Any) -> str:
    """The file of the chunk that holds a unit, in the folder of the array."""
    first = unit.times.start // array.chunks[0], unit.draws.start // array.chunks[1]
    return "/".join(("c", *map(str, first), *["0"] * (array.ndim - 2)))


def within(unit: WorkUnit, array: Any) -> tuple[slice, slice]:
    """Where a unit lies in its chunk."""
    times, draws = unit.times.start % array.chunks[0], unit.draws.start % array.chunks[1]
    return (
        slice(times, times + unit.times.stop - unit.times.start),
        slice(draws, draws + unit.draws.stop - unit.draws.start),
    )


def whole(unit: WorkUnit, array: Any) -> WorkUnit:
    """All pairs in the chunk of a unit: more than its own where the run holds more draws than the plan asks for."""
    return WorkUnit(
        *(
            slice(start := part.start // size * size, min(start + size, end))
            for part, size, end in zip((unit.times, unit.draws), array.chunks, array.shape, strict=False)
        )
    )
