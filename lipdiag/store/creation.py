"""A new run on disk or in memory: its arrays, cut into chunks of one unit, each with a checksum."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..files import staged
from . import header
from .format import FORMAT, FORMAT_VERSION
from .layout import Layout
from .store import MARKS, Column, Store, open_store, writing


def create(
    path: Path | None,
    layout: Layout,
    draws: int,
    coordinates: dict[str, tuple[np.ndarray, dict[str, Any]]],
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
        coordinates: Name -> (values along time, attributes).
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
    coordinates: dict[str, tuple[np.ndarray, dict[str, Any]]],
    columns: dict[str, Column],
    attributes: dict[str, Any],
) -> Any:
    """The group of a new run, made in memory or in a folder, from the arguments of `create`."""
    import zarr
    from zarr.codecs import Crc32cCodec

    described: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "layout": {"times": layout.times, "draws": layout.draws},
    }
    group = zarr.open_group(place, mode="w", zarr_format=3, attributes=described | attributes)
    times = len(next(iter(coordinates.values()))[0])
    common: dict[str, Any] = {"compressors": [Crc32cCodec()]}
    for name, (values, about) in coordinates.items():
        array = group.create_array(
            name,
            shape=(times,),
            chunks=(times,),
            dtype="float64",
            dimension_names=("time",),
            attributes=about,
            **common,
        )
        array[:] = values
    draw = group.create_array(
        "draw", shape=(draws,), chunks=(1 << 16,), dtype="int64", dimension_names=("draw",), **common
    )
    draw[:] = np.arange(draws)
    chunks = (layout.times, layout.draws)
    for name, column in columns.items():
        extent = tuple(column.extent.values())
        group.create_array(
            name,
            shape=(times, draws, *extent),
            chunks=(*chunks, *extent),
            dtype="float64",
            fill_value=np.nan,
            dimension_names=("time", "draw", *column.extent),
            attributes={**column.attributes, "coordinates": " ".join(coordinates)},
            **common,
        )
    for name, meaning in MARKS.items():
        group.create_array(
            name,
            shape=(times, draws),
            chunks=chunks,
            dtype="int8",
            dimension_names=("time", "draw"),
            attributes={"long_name": meaning, "coordinates": " ".join(coordinates)},
            **common,
        )
    return group
