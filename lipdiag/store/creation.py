"""A new run on disk or in memory: its arrays, cut into chunks of one unit, each with a checksum."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import staged
from . import header
from .format import FORMAT, FORMAT_VERSION
from .layout import Layout
from .store import MARKS, Column, Store, open_store, writing

Coordinates = dict[str, tuple[np.ndarray, dict[str, Any]]]
"""By name, values along time and their attributes."""


def create(
    path: Path | None,
    layout: Layout,
    draws: int,
    coordinates: Coordinates,
    columns: dict[str, Column],
    attributes: dict[str, Any],
) -> Store:
    """A new, empty run, at `path` or in memory.

    It is made under another name and renamed, so that a run exists whole or not at all. Of two workers that make the
    same run at once, one does, and both get it.

    Args:
        path: A folder that does not exist yet; None keeps the run in memory.
        layout: Chunks.
        draws: Room for this many.
        coordinates: Of its time axis.
        columns: The variables.
        attributes: Frozen description of the run.

    Raises:
        StorageError: If it cannot be written.
        RunError: If something else appeared at `path` in the meantime.
    """
    import zarr

    if path is None:
        return Store(filled(zarr.storage.MemoryStore(), layout, draws, coordinates, columns, attributes), None)
    with writing(path), staged(path) as staging:
        filled(str(staging), layout, draws, coordinates, columns, attributes)
        header.record(staging)
        try:
            os.rename(staging, path)
        except OSError as error:
            # another worker made the run in the meantime; whether it is the same one is for the caller to see
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not (path / "zarr.json").is_file():
                raise
    return open_store(path)


def filled(
    place: Any,
    layout: Layout,
    draws: int,
    coordinates: Coordinates,
    columns: dict[str, Column],
    attributes: dict[str, Any],
) -> Any:
    """The group of a new run, made in memory or in a folder, from the arguments of `create`."""
    import zarr
    from zarr.codecs import Crc32cCodec

    kind = {"format": FORMAT, "format_version": FORMAT_VERSION}
    described = {**kind, "layout": {"times": layout.times, "draws": layout.draws}, **attributes}
    group = zarr.open_group(place, mode="w", zarr_format=3, attributes=described)
    times = len(next(iter(coordinates.values()))[0])

    def add(
        name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str, names: Sequence[str], **more: Any
    ) -> Any:
        more |= {"dimension_names": names, "compressors": [Crc32cCodec()]}
        return group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, **more)

    for name, (values, about) in coordinates.items():
        add(name, (times,), (times,), "float64", ("time",), attributes=about)[:] = values
    add("draw", (draws,), (1 << 16,), "int64", ("draw",))[:] = np.arange(draws)
    axes, unit, along = (times, draws), (layout.times, layout.draws), {"coordinates": " ".join(coordinates)}
    for name, column in columns.items():
        extent, names = tuple(column.extent.values()), ("time", "draw", *column.extent)
        more = {"fill_value": np.nan, "attributes": column.attributes | along}
        add(name, axes + extent, unit + extent, "float64", names, **more)
    for name, meaning in MARKS.items():
        add(name, axes, unit, "int8", ("time", "draw"), attributes={"long_name": meaning, **along})
    return group
