"""A new run on disk or in memory: its arrays, cut into chunks of one unit, each with a checksum."""

import errno
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from ..store.format import FORMAT, FORMAT_VERSION
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
    from zarr.codecs import Crc32cCodec

    times = len(next(iter(coordinates.values()))[0])
    staging = None if path is None else path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with writing(path):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            group = zarr.open_group(
                zarr.storage.MemoryStore() if staging is None else str(staging), mode="w", zarr_format=3
            )
            common: dict[str, Any] = {"compressors": [Crc32cCodec()]}
            for name, (values, described) in coordinates.items():
                array = group.create_array(
                    name,
                    shape=(times,),
                    chunks=(times,),
                    dtype="float64",
                    dimension_names=("time",),
                    attributes=described,
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
            frozen: dict[str, Any] = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "layout": {"times": layout.times, "draws": layout.draws},
            }
            store = Store(group, staging)
            store.record(**frozen, **attributes)
            if staging is not None and path is not None:
                try:
                    os.rename(staging, path)
                except OSError as error:
                    # another worker made the run in the meantime; whether it is the same one is for the caller to see
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not (path / "zarr.json").is_file():
                        raise
                store = open_store(path)
        finally:
            if staging is not None:
                shutil.rmtree(staging, ignore_errors=True)
    return store
