"""The run on disk: one zarr store that can be interrupted, resumed and grown.

Every variable is a (time, draw) array cut into chunks, one chunk a unit, each with a checksum. A unit's values are
written first and its entries of `done` last: a unit without its mark does not exist, so that no kill can leave half
a unit. Every file is renamed into place, and a torn or flipped chunk is found by its checksum on resume and
measured again. The same code serves a store in memory.
"""

import errno
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunError, StorageError
from ..files import locked, remove_dead
from ..text import sound
from . import chunk, header, reader
from .format import check_run
from .layout import Layout, WorkUnit
from .notes import collected

MISSING, DONE, QUARANTINED = 0, 1, 2
MARKS = {
    "done": "0 missing, 1 done, 2 quarantined",
    "attempts": "launches that began this pair, by weight; it counts where done is 0: they died in it or are at it",
}


UNREADABLE = (ValueError, OSError, RuntimeError)
"""What damage to a chunk, or its absence, is raised as, by `chunk` and by zarr."""


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
        self._opened: tuple[Any, dict[str, Any]] = (None, {})

    def _arrays(self) -> dict[str, Any]:
        """All arrays, opened once for each time the metadata are read: zarr reads them again at every access."""
        if self._opened[0] is not self.group:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zarr remarks on the temporary files that killed workers leave
                self._opened = (self.group, dict(self.group.arrays()))
        return self._opened[1]

    @property
    def attributes(self) -> dict[str, Any]:
        return sound(dict(self.group.attrs))

    @property
    def layout(self) -> Layout:
        return Layout(**self.group.attrs["layout"])

    @property
    def draws(self) -> int:
        return min(self._extents())

    @property
    def variables(self) -> list[str]:
        return [name for name, array in self._arrays().items() if array.ndim >= 2 and name not in MARKS]

    def marked(self, unit: WorkUnit) -> bool:
        """Whether a unit was said to be done, all of it, or the mark that says so cannot be read."""
        try:
            return bool((self.read("done", unit) != MISSING).all())
        except UNREADABLE:
            return True

    def complete(self, unit: WorkUnit) -> bool:
        """Whether all of a unit is given up, or done and its chunks can be read back."""
        try:
            marks = self.read("done", unit)
        except UNREADABLE:
            return False  # its own checksum: nothing is known of the unit
        if (marks == MISSING).any():
            return False
        return bool((marks == QUARANTINED).any()) or all(self._readable(name, unit) for name in self.variables)

    def _readable(self, name: str, unit: WorkUnit) -> bool:
        array = self._arrays()[name]
        try:
            return self.path is None or bool(chunk.read(self._file(name, unit), array.dtype, array.chunks).size)
        except UNREADABLE:
            return False

    def attempts(self) -> np.ndarray:
        """(times, draws): the marks of the launches that began a pair that is still missing."""
        held = self.held()
        try:
            return np.where(held, 0, self._arrays()["attempts"][:] if "attempts" in self._arrays() else np.int8(0))
        except UNREADABLE:  # a damaged mark forgets the deaths, at the price of more
            return np.zeros(held.shape, np.int8)

    def held(self) -> np.ndarray:
        """(times, draws): the pairs that are measured or given up; none where a mark is damaged."""
        done = self._arrays()["done"]
        try:
            return np.asarray(done[:] != MISSING)
        except UNREADABLE:
            return np.zeros(done.shape, bool)

    def begin(self, unit: WorkUnit, mark: int) -> None:
        """Mark a unit that a launch begins: should it die, the next one can tell."""
        if "attempts" in self._arrays():
            self._put("attempts", unit, mark)

    def give_up(self, unit: WorkUnit) -> None:
        """Quarantine a unit that kills whoever measures it."""
        self._put("done", unit, QUARANTINED)

    def given_up(self, unit: WorkUnit) -> bool:
        try:
            return bool((self.read("done", unit) == QUARANTINED).any())
        except UNREADABLE:
            return False

    def retry(self, unit: WorkUnit) -> None:
        """Make a unit that was given up missing again."""
        self.begin(unit, 0)
        self._put("done", unit, MISSING)

    def write(self, unit: WorkUnit, values: dict[str, np.ndarray]) -> None:
        """Store a unit's values, then its mark.

        Raises:
            StorageError: If the disk is full or the run cannot be written; units written before are untouched.
        """
        whole = chunk.whole(unit, self._arrays()["done"])
        if unit != whole and not self.complete(whole):
            self._put("done", whole, MISSING)  # what else is in the chunks is incomplete, and may be damaged
        for name, value in values.items():
            self._put(name, unit, value)
        self._put("done", unit, DONE)

    def read(self, name: str, unit: WorkUnit) -> np.ndarray:
        """A unit's part of an array; fill values where nothing was written.

        Raises:
            ValueError: If it fails its checksum.
        """
        array = self._arrays()[name]
        if self.path is None:
            return array[unit.times, unit.draws]
        try:
            block = chunk.read(self._file(name, unit), array.dtype, array.chunks)
        except FileNotFoundError:
            block = np.full(array.chunks, array.fill_value, array.dtype)
        return block[chunk.within(unit, array)]

    def _put(self, name: str, unit: WorkUnit, value: np.ndarray | int) -> None:
        """Replace a unit's part of an array; what else is in its chunk stays, if it can be read."""
        array = self._arrays()[name]
        whole = chunk.whole(unit, array)
        if self.path is None:
            array[unit.times, unit.draws] = value
            return
        if not (self.path / name).is_dir():
            raise lost(self.path)
        with writing(self.path):
            block = np.full(array.chunks, array.fill_value, array.dtype)
            if unit != whole:
                with suppress(*UNREADABLE):
                    block[chunk.within(whole, array)] = self.read(name, whole)
            block[chunk.within(unit, array)] = value
            chunk.write(self._file(name, unit), block)

    def _file(self, name: str, unit: WorkUnit) -> Path:
        return Path(self.path or "", name, chunk.key(unit, self._arrays()[name]))

    def grow(self, draws: int) -> None:
        """Make room for more draws; a growth that was cut short, by a kill or a full disk, is completed.

        Raises:
            StorageError: If the run cannot be written; it is as long as it was.
        """
        if self._whole(draws):
            return
        with writing(self.path), self._alone():
            draws = max(draws, self.draws)  # another worker may have seen to it
            if self.path is not None:
                header.grow(self.path, draws)
                self.group = opened(self.path)
                return
            for name, array in self._arrays().items():
                if (axis := header.draw_axis(name, array.shape)) is not None:
                    array.resize((*array.shape[:axis], draws, *array.shape[axis + 1 :]))
            self.group["draw"][:] = np.arange(draws)

    def _whole(self, draws: int) -> bool:
        """Whether all arrays are equally long, have so many draws or more, and count them."""
        try:
            numbers = self.group["draw"][:]
        except UNREADABLE:
            return False
        listed = self.path is None or self.group.metadata.consolidated_metadata is not None
        equal = {*self._extents(), len(numbers)} == {max(draws, self.draws)}
        return listed and equal and bool((numbers == np.arange(len(numbers))).all())

    def _extents(self) -> list[int]:
        """The draws that each array has room for: not the same in all where a growth of an older lipdiag was cut."""
        return [
            array.shape[axis]
            for name, array in self._arrays().items()
            if (axis := header.draw_axis(name, array.shape)) is not None
        ]

    def record(self, launches: Sequence[dict[str, Any]] = (), **attributes: Any) -> None:
        """Add launches to those on record, and add or replace other attributes of the run."""
        with writing(self.path), self._alone():
            if self.path is not None:
                header.record(self.path, list(launches), **attributes)
                self.group = opened(self.path)
                return
            if launches:
                attributes["launches"] = [*self.group.attrs.get("launches", []), *launches]
            self.group.attrs.update(attributes)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One worker at a time reads, changes and writes a run's metadata.

        Units need no lock, and a file system without locks risks no more than a launch missing on record.
        """
        if self.path is None:
            yield
            return
        if not (self.path / "zarr.json").is_file():
            raise lost(self.path)
        with locked(self.path):
            self.group = opened(self.path)
            yield

    def dataset(self):
        """The run as an `xarray.Dataset`, its values in memory."""
        return open_run(self.path) if self.path is not None else _dataset(self.group.store)


def lost(path: Path) -> StorageError:
    return StorageError(
        f"{path} was removed or emptied while it was measured, and what it held is lost; measure again, and leave the "
        "folder in its place meanwhile"
    )


@contextmanager
def writing(path: Path | None) -> Iterator[None]:
    """Turn the operating system's refusal into a sentence that names the run."""
    try:
        yield
    except OSError as error:
        hint = ""
        if path is not None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free / 1e6
            kept = "what was measured is kept, and the same command goes on from there"
            hint = f" ({free:.1f} MB are free); {kept if path.exists() else 'nothing was measured: make room first'}"
        raise StorageError(f"cannot write {path}: {error.strerror or error}{hint}") from error


def opened(path: Path) -> Any:
    """The group of a run on disk, its arrays as the run's own file has them."""
    import zarr

    return zarr.open_group(str(path), mode="r+", zarr_format=3)


def open_store(path: Path) -> Store:
    """An existing run, to be gone on with; what a process left beside it that was killed in making it is removed.

    Raises:
        RunError: If `path` is something else, is damaged, or of a newer format.
    """
    check_run(path)
    remove_dead(path)
    try:
        return Store(opened(path), path)
    except Exception as error:  # zarr raises many types for a damaged store
        raise RunError(f"{path} is damaged: {error}; measure again with another --out") from error


def open_run(path: str | Path):
    """A run as an `xarray.Dataset`, its values in memory, every checksum verified, with its notes.

    Raises:
        RunError: If `path` is no run, is damaged, or was made by a newer lipdiag.
        StorageError: If it cannot be read.

    Example:
        >>> run = lipdiag.open_run("digits-ddpm.zarr")
        >>> run["time_difference"].dims
        ('time', 'draw')
    """
    run = reader.open_run(path)
    return run.assign_attrs(collected(run.attrs, run["done"].values))


def _dataset(place: Any):
    import xarray as xr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata not consolidated, where a worker was killed before that
        run = xr.open_dataset(
            place,
            engine="zarr",
            zarr_format=3,
            chunks=None,
            mask_and_scale=False,
            decode_times=False,
            drop_variables=["attempts"],
        ).load()
    return reader.indexed(run.assign_attrs(collected(run.attrs, run["done"].values)))


def differences(stored: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    """Field by field, where a stored description differs from the one asked for."""
    said = []
    for key in sorted(stored.keys() | asked.keys()):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            said += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            said.append(f"{prefix}{key} is {_short(old)} there and {_short(new)} here")
    return said


def _short(value: Any) -> str:
    """JSON, at most 60 characters of it; of a text those at its start."""
    if value is None:
        return "not given"
    text = json.dumps(value)
    if len(text) <= 60:
        return text
    return json.dumps(value[:12] + "...") if isinstance(value, str) else text[:57] + "..."
