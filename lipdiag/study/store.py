"""The run on disk: one zarr store that can be interrupted, resumed and grown.

Every variable is a (time, draw) array cut into chunks, one chunk a unit, each with a checksum. A unit's values are
written first and its entries of `done` last: a unit without its mark does not exist, so that no kill can leave half
a unit. zarr renames every file into place, and a torn or flipped chunk is found by its checksum on resume and
measured again. The same code serves a store in memory.
"""

import errno
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunError, StorageError
from .layout import Layout, Unit

FORMAT = "lipdiag run"
FORMAT_VERSION = 1
MISSING, DONE, QUARANTINED = 0, 1, 2


@dataclass(frozen=True)
class Column:
    """A variable to be stored: its attributes, and the dimensions it has after time and draw, with their sizes."""

    attributes: dict[str, Any]
    extent: dict[str, int] = field(default_factory=dict)


class Store:
    """A run's arrays, opened for reading and writing units."""

    def __init__(self, group: Any, path: Path | None):
        self.group = group
        self.path = path

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.group.attrs)

    @property
    def layout(self) -> Layout:
        return Layout(**self.group.attrs["layout"])

    @property
    def draws(self) -> int:
        return int(self.group["done"].shape[1])

    def complete(self, unit: Unit) -> bool:
        """Whether all of a unit is done (or given up) and its chunks can be read back."""
        if (self.group["done"][unit.times, unit.draws] == MISSING).any():
            return False
        return all(self._readable(name, unit) for name in self.variables)

    @property
    def variables(self) -> list[str]:
        return [name for name, array in self.group.arrays() if array.ndim >= 2 and name != "done"]

    def _readable(self, name: str, unit: Unit) -> bool:
        array = self.group[name]
        chunk = [unit.times.start // array.chunks[0], unit.draws.start // array.chunks[1]] + [0] * (array.ndim - 2)
        if self.path is not None and not self.path.joinpath(name, "c", *map(str, chunk)).is_file():
            return False
        try:
            array[unit.times, unit.draws]
        except (ValueError, OSError, RuntimeError):
            return False
        return True

    def write(self, unit: Unit, values: dict[str, np.ndarray]) -> None:
        """Store a unit's values, then its mark.

        Raises:
            StorageError: If the disk is full or the run cannot be written; units written before are untouched.
        """
        import zarr

        # an all-NaN chunk must be a file too: a missing file means a lost chunk
        with writing(self.path), zarr.config.set({"array.write_empty_chunks": True}):
            for name, value in values.items():
                self.group[name][unit.times, unit.draws] = value
            self.group["done"][unit.times, unit.draws] = DONE

    def read(self, name: str, unit: Unit) -> np.ndarray:
        return self.group[name][unit.times, unit.draws]

    def grow(self, draws: int) -> None:
        """Make room for more draws."""
        if draws <= self.draws:
            return
        with writing(self.path):
            for _, array in self.group.arrays():
                if array.ndim >= 2:
                    array.resize((array.shape[0], draws, *array.shape[2:]))
            self.group["draw"].resize((draws,))
            self.group["draw"][:] = np.arange(draws)
            self._consolidate()

    def record(self, **attributes: Any) -> None:
        """Add or replace attributes of the run."""
        with writing(self.path):
            self.group.attrs.update(attributes)
            self._consolidate()

    def _consolidate(self) -> None:
        """Copy all metadata into the group's own file, where xarray looks for them first."""
        import zarr

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # version 3 of the format has no word on this yet; xarray asks for it
            self.group = zarr.consolidate_metadata(self.group.store)

    def dataset(self):
        """The run as an `xarray.Dataset`; from disk its values are read when they are used."""
        import xarray as xr

        if self.path is not None:
            return open_run(self.path)
        return xr.open_dataset(self.group.store, engine="zarr", chunks=None).load()


@contextmanager
def writing(path: Path | None) -> Iterator[None]:
    """Turn the operating system's refusal into a sentence that names the run."""
    try:
        yield
    except OSError as error:
        hint = ""
        if path is not None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free / 1e6
            hint = f" ({free:.1f} MB are free); what was measured is kept, and the same command goes on from there"
        raise StorageError(f"cannot write {path}: {error.strerror or error}{hint}") from error


def create(
    path: Path | None,
    layout: Layout,
    draws: int,
    coordinates: dict[str, tuple[np.ndarray, dict[str, Any]]],
    columns: dict[str, Column],
    attributes: dict[str, Any],
) -> Store:
    """A new, empty run, at `path` or in memory.

    It is made under another name and renamed, so that a run exists whole or not at all.

    Args:
        path: A folder that does not exist yet; None keeps the run in memory.
        layout: Chunks.
        draws: Room for this many.
        coordinates: Name -> (values along time, attributes).
        columns: The variables.
        attributes: Frozen description of the run.

    Raises:
        StorageError: If it cannot be written.
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
            group.create_array(
                "done",
                shape=(times, draws),
                chunks=chunks,
                dtype="int8",
                dimension_names=("time", "draw"),
                attributes={"long_name": "0 missing, 1 done, 2 quarantined", "coordinates": " ".join(coordinates)},
                **common,
            )
            frozen = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "layout": {"times": layout.times, "draws": layout.draws},
            }
            store = Store(group, staging)
            store.record(**frozen, **attributes)
            if staging is not None and path is not None:
                os.rename(staging, path)
                store = open_store(path)
        finally:
            if staging is not None:
                shutil.rmtree(staging, ignore_errors=True)
    return store


def _checked(path: Path) -> dict[str, Any]:
    """Attributes of the run at `path`."""
    try:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    except FileNotFoundError:
        raise RunError(
            f"{path} is no lipdiag run: it has no zarr.json; give another --out, or the folder of a run"
        ) from None
    except PermissionError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is no lipdiag run: its zarr.json cannot be read ({type(error).__name__})") from error
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
        raise RunError(f"{path} is a zarr store that lipdiag did not make; give another --out, or the folder of a run")
    version = attributes.get("format_version")
    if type(version) is not int or version > FORMAT_VERSION:
        raise RunError(
            f"{path} was made by a newer lipdiag (format {version}, this one reads {FORMAT_VERSION}); update lipdiag"
        )
    return attributes


def open_store(path: Path) -> Store:
    """An existing run, to be gone on with.

    Raises:
        RunError: If `path` is something else, or a newer format.
    """
    import zarr

    _checked(path)
    try:
        return Store(zarr.open_group(str(path), mode="r+", use_consolidated=False), path)
    except Exception as error:  # zarr raises many types for a damaged store
        raise RunError(f"{path} is damaged: {error}; measure again with another --out") from error


def open_run(path: str | Path):
    """A run as an `xarray.Dataset` whose values are read when they are used.

    Raises:
        RunError: If `path` is no run, is damaged, or was made by a newer lipdiag.
    """
    import xarray as xr

    _checked(Path(path))
    try:
        return xr.open_dataset(Path(path), engine="zarr", chunks=None)
    except Exception as error:  # as above
        raise RunError(f"{path} is damaged: {error}; measure again with another --out") from error


def differences(stored: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    """Field by field, where a stored description differs from the one asked for."""
    found = []
    for key in sorted(stored.keys() | asked.keys()):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} is {_short(old)} there and {_short(new)} here")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
