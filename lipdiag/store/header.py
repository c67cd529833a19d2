"""The metadata of a run on disk: of each array its own file, of the run one file that holds a copy of them all.

The run's own file counts: xarray and zarr read it alone. It is renamed into place after the others, so that whoever
looks sees the run before a change or after it, wherever the change was cut short.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replace_file
from . import chunk, folder

FILE = "zarr.json"


def record(path: Path, launches: list[dict[str, Any]] | None = None, **attributes: Any) -> None:
    """Add launches to those on record, and add or replace other attributes.

    Raises:
        OSError: If it cannot be written; the record is as it was.
    """
    run = folder.metadata(path / FILE)
    if launches:
        attributes["launches"] = [*run["attributes"].get("launches", []), *launches]
    run["attributes"] |= attributes
    run.setdefault("consolidated_metadata", consolidated(arrays(path)))
    write(path, run)


def grow(path: Path, draws: int) -> None:
    """Make every array so many draws long.

    The numbers of the draws go first: they are the same in every run, and beyond its end nobody looks.

    Raises:
        OSError: If it cannot be written; the run is as long as it was, and the next growth completes this one.
    """
    listing = arrays(path)
    size = listing["draw"]["chunk_grid"]["configuration"]["chunk_shape"][0]
    for number in range(-(-draws // size)):
        chunk.write(path / "draw" / "c" / str(number), np.arange(number * size, (number + 1) * size))
    for name, array in listing.items():
        if (axis := draw_axis(name, array["shape"])) is not None and array["shape"][axis] != draws:
            array["shape"][axis] = draws
            write(path / name, array)
    run = folder.metadata(path / FILE)
    write(path, run | {"consolidated_metadata": consolidated(listing)})


def draw_axis(name: str, shape: Any) -> int | None:
    """The dimension of an array along which a run grows, if there is one."""
    if name == "draw":
        return 0
    return 1 if len(shape) > 1 else None


def arrays(path: Path) -> dict[str, dict[str, Any]]:
    """What the file of each array says."""
    return {file.parent.name: folder.metadata(file) for file in sorted(path.glob(f"*/{FILE}"))}


def consolidated(listing: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The arrays' metadata in the form in which zarr keeps them in the file of the group."""
    return {"kind": "inline", "must_understand": False, "metadata": listing}


def write(place: Path, content: dict[str, Any]) -> None:
    replace_file(place / FILE, json.dumps(content, indent=2).encode())
