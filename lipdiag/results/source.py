"""What is given on the command line -> a dataset: a run, a file of samples, a training's folder, an evaluation."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import RunError, StorageError, UsageError
from ..files import shown
from ..hub import titled
from ..store.folder import read_regular
from ..store.reader import open_evaluation
from ..store.store import open_run
from .label import labels_for

if TYPE_CHECKING:
    import xarray as xr

LOG = "log.csv"
LARGEST_LOG = 2**27
LARGEST_GAP = 2**28
"""Bytes that an archive of samples may unpack to beyond its size."""

MEASURED = {"measure.csv": "mean", "difference.csv": "time_difference"}
"""Files of K during training, and what they call it."""


def open_source(path: str | Path, kind: str) -> "xr.Dataset":
    """What a figure of that kind is drawn from.

    Args:
        path: A run, an `.npz` file, a training's folder, or an evaluation.
        kind: `run`, `samples`, `training` or `quality`.

    Raises:
        RunError: If it is something else.
        StorageError: If it cannot be read.
    """
    path = Path(path)
    readers = {"run": open_run, "samples": open_samples, "training": open_training, "quality": open_quality}
    try:
        return readers[kind](path)
    except FileNotFoundError as error:
        raise RunError(f"{error.filename or path} is missing; this figure needs {NEEDED[kind]}") from None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


@dataclass(frozen=True)
class Source:
    """A dataset that is no run: samples, a training or an evaluation.

    Attributes:
        dataset: What was read.
        label: What to call it in legends and captions.
    """

    dataset: "xr.Dataset"
    label: str


ESSENTIAL = {"samples": {"samples"}, "training": {"step", "loss"}, "quality": {"sampler", "seed"}}
"""What a dataset of each kind is told by."""


def named(datasets: "Sequence[xr.Dataset]", kind: str, labels: Sequence[str] | None = None) -> list[Source]:
    """Datasets of a kind, with what to call them.

    Args:
        datasets: What `open_source` read, or of the same variables.
        kind: `samples`, `training` or `quality`.
        labels: By default their own names.

    Raises:
        UsageError: If there is none, or one is something else.
    """
    for dataset in datasets:
        missing = ESSENTIAL[kind] - {*dataset.variables, *dataset.dims}
        if missing:
            raise UsageError(f"this dataset has no {' and no '.join(sorted(missing))}; give {NEEDED[kind]}")
    if not datasets:
        raise UsageError(f"there is nothing to show; give {NEEDED[kind]}")
    labels = labels_for(labels, len(datasets)) or [str(dataset.attrs.get("name", kind)) for dataset in datasets]
    return [Source(dataset, label) for dataset, label in zip(datasets, labels, strict=True)]


NEEDED = {
    "run": "a run, the folder that `lipdiag measure` wrote",
    "samples": "the .npz file that `lipdiag sample` wrote",
    "training": f"the folder that `lipdiag train` wrote, with its {LOG}",
    "quality": "the store that `lipdiag evaluate` wrote",
}


def open_samples(path: Path) -> "xr.Dataset":
    """The one array of images in a file, as (sample, channel, row, column) in [-1, 1]."""
    import xarray as xr

    if not path.is_file() and path.exists():  # a pipe would be waited for
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise RunError(f"{path} is {kind}; this figure needs {NEEDED['samples']}")
    try:
        # a pickled object in an array file is code that its author chose
        with np.load(path, allow_pickle=False) as file:
            unpacked = sum(info.file_size for info in file.zip.infolist()) if hasattr(file, "zip") else 0
            if unpacked > path.stat().st_size + LARGEST_GAP:
                raise ValueError(f"it unpacks to {unpacked} bytes")
            arrays = {name: file[name] for name in file.files} if hasattr(file, "files") else {"samples": file}
    except OSError:
        raise
    except Exception as error:  # a broken archive can fail in any way
        raise RunError(
            f"{path} is no file of samples ({shown(error)}); this figure needs {NEEDED['samples']}"
        ) from error
    batches = {name: array for name, array in arrays.items() if getattr(array, "ndim", 0) == 4}
    if len(batches) != 1 and "samples" not in batches:
        shapes = ", ".join(f"{name} {getattr(array, 'shape', '')}" for name, array in arrays.items()) or "nothing"
        raise RunError(f"{path} holds {shapes}, and not one array of images; this figure needs {NEEDED['samples']}")
    images = batches.get("samples", next(iter(batches.values())))
    if images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = np.moveaxis(images, -1, 1)
    values = images.astype(np.float64) / 127.5 - 1 if images.dtype == np.uint8 else images.astype(np.float64)
    return xr.Dataset({"samples": (("sample", "channel", "row", "column"), values)}, attrs={"name": path.stem})


def open_training(path: Path) -> "xr.Dataset":
    """A training's log, with K measured on the way where there is any."""
    import xarray as xr

    log = columns(path / LOG, ("step", "loss", "learning_rate", "gradient_norm"))
    variables: dict[str, tuple] = {name: ("step", log[name]) for name in ("loss", "learning_rate", "gradient_norm")}
    if not log["step"].size:
        raise RunError(f"{path / LOG} has no whole line yet; this figure needs {NEEDED['training']}")
    coordinates = {"step": log["step"]}
    for file in [name for name in MEASURED if (path / name).exists()][:1]:
        table = columns(path / file, ("step", "timestep", MEASURED[file], "standard_error"))
        if not table["step"].size:
            continue
        table["mean"] = table[MEASURED[file]]
        steps, timesteps = np.unique(table["step"]), np.unique(table["timestep"])
        at = np.searchsorted(steps, table["step"]), np.searchsorted(timesteps, table["timestep"])
        for name in ("mean", "standard_error"):
            values = np.full((steps.size, timesteps.size), np.nan)
            values[at] = table[name]
            variables[name] = (("measured", "timestep"), values)
        coordinates |= {"measured": steps, "timestep": timesteps}
    return xr.Dataset(variables, coordinates, {"name": path.resolve().name})


def columns(path: Path, needed: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of numbers; the last line may be half written, and of a training that has just begun there is none."""
    try:
        text = read_regular(path, LARGEST_LOG, links=True)
        if len(text) > LARGEST_LOG:
            raise ValueError(f"it is larger than {LARGEST_LOG} bytes")
        read = csv.DictReader(io.StringIO(text[: text.rfind(b"\n") + 1].decode(), newline=""))
        rows = list(read)
    except (ValueError, csv.Error) as error:
        raise RunError(f"{path} is no table ({error}); this figure needs {NEEDED['training']}") from error
    missing = [name for name in needed if name not in (read.fieldnames or ())]
    if missing:
        raise RunError(f"{path} lacks {', '.join(missing)}; this figure needs {NEEDED['training']}")
    whole = [row for row in rows if all(row.get(name) not in (None, "") for name in needed)]
    try:
        return {name: np.array([float(row[name]) for row in whole]) for name in needed}
    except ValueError as error:
        raise RunError(f"{path} holds what is no number ({error}); this figure needs {NEEDED['training']}") from None


def open_quality(path: Path) -> "xr.Dataset":
    """An evaluation, with a name for its model."""
    dataset = open_evaluation(path)
    name = dataset.attrs.get("checkpoint")
    return dataset.assign_attrs(name=dataset.attrs.get("name") or (titled(str(name)) if name else path.stem))
