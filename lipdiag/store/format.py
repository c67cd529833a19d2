"""The two kinds of store that lipdiag writes, runs and evaluations, and whether a folder holds one of them.

zarr reads many layouts, and some of them unpack bombs or unpickle objects. lipdiag writes two: format 3, plain numbers
with a checksum, regular files. Whatever else is found is refused by its name, before any codec is looked up.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ..errors import RunError, StorageError
from . import schema
from .folder import Contents, contents

FORMAT = "lipdiag run"
FORMAT_VERSION = 1
EVALUATION = "lipdiag-quality/1"
BYTES = {"float64": 8, "int64": 8, "int8": 1, "string": 256}
"""How many bytes a number takes, and a text at most."""

MOST_CHUNKS = 2**20
"""The most chunks of an array, which are units of a run: more files than these cannot be looked after."""

LARGEST_CHUNK = 2**28
LARGEST_GAP = 2**30
"""Bytes that a run's arrays may claim beyond what is on the disk: units not measured yet."""

LARGEST_EVALUATION = 2**26
EVALUATED = ("sampler", "seed", "fid", "kid", "kid_standard_error", "nearest_ratio", "copies", "seconds")
MOST_DIMENSIONS = 5
RAW, TEXT = {"name": "bytes"}, {"name": "vlen-utf8"}
CHECKED = {"name": "crc32c"}
PACKED = {"name": "zstd"}
"""What evaluations were written with before they had checksums."""


@dataclass(frozen=True)
class Array:
    """What a store says of an array, once it is known to be of a kind that lipdiag writes."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dimensions: tuple[str, ...]
    fill: Any
    packed: bool
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, ...]:
        """How many chunks there are along each dimension."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))


@dataclass(frozen=True)
class Checked:
    """A store that was checked: attributes, arrays, chunks by array and place in the grid, and bytes of its files."""

    path: Path
    attributes: dict[str, Any]
    arrays: dict[str, Array]
    chunks: dict[str, dict[tuple[int, ...], Path]]
    held: int

    @property
    def claimed(self) -> int:
        """Bytes of its arrays in memory."""
        return claim(self.arrays)


def metadata(home: Path, path: Path, absent: str, foreign: str) -> Contents:
    """What the JSON files of a store say, or the sentence that there is none, or that it is none of lipdiag's.

    Args:
        home: Where it lies.
        path: What it is called.
        absent: The sentence where there is nothing.
        foreign: The sentence where there is something else, with {} for the cause.
    """
    try:
        return contents(home)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(absent) from None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise RunError(foreign.format(error)) from error


def check_run(path: Path) -> Checked:
    """The run at `path`, once all of its metadata is what lipdiag writes.

    Raises:
        RunError: If it is something else, is damaged, or of a newer format.
        StorageError: If it cannot be read.
    """
    foreign = f"{path} is no lipdiag run: {{}}; give another --out, or the folder of a run"
    held = metadata(path, path, absent(path, foreign), foreign)
    attributes = held.root.get("attributes")
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT or held.root.get("node_type") != "group":
        raise RunError(f"{path} is a zarr store that lipdiag did not make; give another --out, or the folder of a run")
    version = attributes.get("format_version")
    if type(version) is not int or version > FORMAT_VERSION:
        raise RunError(
            f"{path} was made by a newer lipdiag (format {version!r:.20}, this one reads {FORMAT_VERSION}); update "
            "lipdiag"
        )
    try:
        layout = attributes.get("layout")
        if (
            not isinstance(layout, dict)
            or set(layout) != {"times", "draws"}
            or not all(type(n) is int and n > 0 for n in layout.values())
        ):
            raise ValueError("its layout is not two sizes")
        schema.fit(attributes, schema.RUN)
        for listing in (listed := listings(held)):
            run_table(listing, (layout["times"], layout["draws"]), held.held + LARGEST_GAP)
    except ValueError as error:
        damaged(path, error, "measure")
    return Checked(path, attributes, listed[-1], held.chunks, held.held)


def absent(path: Path, foreign: str) -> str:
    """The sentence where there is no zarr.json: nothing is there, a file, or another folder."""
    checkpoint = "; a checkpoint has to be measured first"
    if not path.exists():
        return f"there is no run {path}: give the folder that `lipdiag measure` wrote{checkpoint}"
    return foreign.format("it has no zarr.json" if path.is_dir() else "it is a file") + checkpoint


def run_table(arrays: dict[str, Array], unit: tuple[int, int], most: int) -> None:
    """Whether arrays are those of a run: axes of time and draws, and columns over both, a chunk a unit."""
    bounded(arrays, most)
    for name in ("done", "draw"):
        if name not in arrays:
            raise ValueError(f"it lacks the array {name}")
    times = arrays["done"].shape[0]
    for name, array in arrays.items():
        column = array.dtype in ("float64", "int8") and array.dimensions[:2] == ("time", "draw")
        axis = array.dtype == "float64" and array.dimensions == ("time",)
        if (
            not (column or axis or (name, array.dtype, array.dimensions) == ("draw", "int64", ("draw",)))
            or (name == "done" and (array.dtype, len(array.shape)) != ("int8", 2))
            or (array.packed or array.dtype == "string" or name in array.dimensions[1:])
            or (array.dimensions[0] == "time" and array.shape[0] != times)
            or (column and array.chunks != (*unit, *array.shape[2:]))
        ):
            raise ValueError(f"the array {name!r:.60} is not of the kind lipdiag writes")


def check_evaluation(path: Path, home: Path) -> Checked:
    """The evaluation that is called `path` and lies at `home`, once all of its metadata is what lipdiag writes.

    Raises:
        RunError: If it is something else, is damaged, or of a newer format.
        StorageError: If it cannot be read.
    """
    give = "give the folder that `lipdiag evaluate` wrote"
    held = metadata(home, path, f"there is no evaluation {path}: {give}", f"{path} is no evaluation: {{}}; {give}")
    attributes = held.root.get("attributes")
    version = attributes.get("format_version") if isinstance(attributes, dict) else None
    if not isinstance(attributes, dict) or version != EVALUATION:
        made = "a newer lipdiag made it" if str(version).startswith("lipdiag-quality/") else "it is something else"
        raise RunError(f"{path} is no evaluation that this lipdiag reads, {EVALUATION}: {made}")
    try:
        if held.root.get("node_type") != "group":
            raise ValueError("it is no group of arrays")
        schema.fit(attributes, schema.EVALUATION)
        for listing in (listed := listings(held)):
            evaluation_table(listing)
    except ValueError as error:
        damaged(path, error, "evaluate")
    return Checked(path, attributes, listed[-1], held.chunks, held.held)


def evaluation_table(arrays: dict[str, Array]) -> None:
    """Whether arrays are those of an evaluation: samplers, seeds, and numbers over both."""
    bounded(arrays, LARGEST_EVALUATION)
    for name in EVALUATED:
        if name not in arrays:
            raise ValueError(f"it lacks the array {name}")
    size = arrays["sampler"].shape[0], arrays["seed"].shape[0]
    for name, array in arrays.items():
        if (array.dtype, array.dimensions, array.shape) not in (
            ("string", ("sampler",), size[:1]) if name == "sampler" else None,
            ("int64", ("seed",), size[1:]) if name == "seed" else None,
            ("float64", ("sampler", "seed"), size),
        ):
            raise ValueError(f"the array {name!r:.60} is not of the kind lipdiag writes")


def listings(held: Contents) -> list[dict[str, Array]]:
    """The arrays as their own files tell them, and last as the root tells them, which is replaced as a whole."""
    tables = [held.arrays]
    copy = held.root.get("consolidated_metadata")
    if copy is not None:
        if not isinstance(copy, dict) or not isinstance(copy.get("metadata"), dict):
            raise ValueError("its consolidated metadata are no table of arrays")
        tables.append(copy["metadata"])
    made = [{name: checked(name, array) for name, array in listing.items()} for listing in tables]
    for listing in made:
        for array in listing.values():
            schema.fit(array.attributes, schema.ARRAY)
    return made


def checked(name: str, array: Any) -> Array:
    """What is told of an array, if all of it is as lipdiag writes it.

    Raises:
        ValueError: If not.
    """
    strange = ValueError(f"the array {name!r:.60} is not of the kind lipdiag writes")
    try:
        shape, chunks = tuple(array["shape"]), tuple(array["chunk_grid"]["configuration"]["chunk_shape"])
        dtype, dimensions, attributes = array["data_type"], tuple(array["dimension_names"]), array["attributes"]
        first, *rest = ({key: value for key, value in codec.items() if value} for codec in array["codecs"])
        little = {"endian": "little"}
        packed = [codec["name"] for codec in rest] == [PACKED["name"]]
        good = (
            array["node_type"] == "array"
            and array["zarr_format"] == 3
            and array["chunk_grid"]["name"] == "regular"
            and array["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
            and not array.get("storage_transformers")
            and first == (TEXT if dtype == "string" else RAW | ({} if dtype == "int8" else {"configuration": little}))
            and (rest == [CHECKED] or (packed and set(rest[0].get("configuration", ())) <= {"level", "checksum"}))
            and all(type(n) is int and n > 0 for n in (*shape, *chunks))
            and 0 < len(shape) == len(chunks) == len(dimensions) <= MOST_DIMENSIONS
            and all(isinstance(text, str) and text.isidentifier() and text.isascii() for text in (name, *dimensions))
            and isinstance(attributes, dict)
        )
        known = Array(dtype, shape, chunks, dimensions, fill(array["fill_value"], dtype), packed, attributes)
        largest = math.prod(chunks) * BYTES[dtype]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise strange from error
    if not good:
        raise strange
    if largest > LARGEST_CHUNK:
        raise ValueError(f"the array {name!r:.60} has chunks of {largest} bytes")
    if math.prod(known.grid) > MOST_CHUNKS:
        raise ValueError(f"the array {name!r:.60} is cut into more than {MOST_CHUNKS} chunks")
    return known


def fill(value: Any, dtype: Any) -> Any:
    """What stands where no chunk was written."""
    known = {"string": ("",), "float64": ("NaN", 0.0)}.get(dtype, (0,))
    if isinstance(value, bool) or value not in known:  # a run would be done where nothing was measured
        raise ValueError("it is filled with numbers")
    return float(value) if dtype == "float64" else value


def bounded(arrays: dict[str, Array], most: int) -> None:
    """Whether the arrays claim no more bytes than `most`."""
    claimed = claim(arrays)
    if claimed > most:
        raise ValueError(f"it claims {claimed / 1e9:.1f} GB where there is room for {most / 1e9:.1f} GB")


def claim(arrays: dict[str, Array]) -> int:
    return sum(math.prod(array.shape) * BYTES[array.dtype] for array in arrays.values())


def damaged(path: Path, cause: ValueError, verb: str) -> NoReturn:
    raise RunError(f"{path} is damaged: {cause}; {verb} again with another --out") from cause
