"""One chunk of an array on disk: its numbers in little-endian order, then their CRC32C."""

import math
from pathlib import Path

import google_crc32c
import numpy as np

from .folder import read_regular

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
