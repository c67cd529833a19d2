"""The evaluation on disk: how good a model's samples are, one number a sampler and a seed.

Dimensions `sampler` (names such as "ddim:20") and `seed`. A cell that is not evaluated yet is NaN in every variable.
Cells of two evaluations with the same sampler and seed started from the same noise, so that their differences are
paired. The file is small and written as a whole: under another name first, which then takes the place of the old one.
This module needs no torch.
"""

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RunError
from ..files import replace_folder, restore, staged
from ..store.format import EVALUATION as FORMAT
from ..store.reader import open_evaluation
from ..store.store import writing

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["done", "exists", "grown", "new", "open_evaluation", "table", "write"]

VARIABLES = {
    "fid": "Frechet distance of the features of samples and data",
    "kid": "kernel distance (unbiased squared MMD, cubic kernel) of the features of samples and data",
    "kid_standard_error": "of kid, over the draw of the samples and the data",
    "nearest_ratio": "median distance from a sample to the nearest datum, over that among the data themselves",
    "copies": "samples nearer to a datum than a quarter of the data's own median nearest distance",
    "seconds": "what sampling took",
}
COMPARABLE = (
    *("format_version", "extractor", "extractor_sha256", "n", "n_real", "data", "data_sha256", "sha256"),
    *("schedule", "parameterization", "clock", "dtype"),
)
"""Attributes that all cells of one evaluation share."""


def new(samplers: Sequence[str], seeds: Sequence[int], attributes: Mapping[str, Any]) -> "xr.Dataset":
    """An evaluation without any number in it."""
    import xarray as xr

    empty = np.full((len(samplers), len(seeds)), np.nan)
    return xr.Dataset(
        {name: (("sampler", "seed"), empty.copy(), {"long_name": line}) for name, line in VARIABLES.items()},
        {"sampler": list(samplers), "seed": np.asarray(seeds, dtype=np.int64)},
        {"format_version": FORMAT, **attributes},
    )


def done(dataset: "xr.Dataset", sampler: str, seed: int) -> bool:
    """Whether there are numbers for a sampler and seed."""
    return bool(dataset["seconds"].sel(sampler=sampler, seed=seed).notnull())


def grown(old: "xr.Dataset", asked: "xr.Dataset", path: Path) -> "xr.Dataset":
    """The old evaluation with room for the samplers and seeds that are asked for; its numbers are kept.

    Raises:
        RunError: If the two are not of the same model, data, extractor and size.
    """
    for name in COMPARABLE:
        there, here = old.attrs.get(name), asked.attrs.get(name)
        if there != here:
            raise RunError(f"{path} has {name} {there} where {here} is asked for now: give another --out")
    samplers = list(dict.fromkeys([*old["sampler"].values.tolist(), *asked["sampler"].values.tolist()]))
    seeds = sorted({*old["seed"].values.tolist(), *asked["seed"].values.tolist()})
    return old.reindex(sampler=samplers, seed=seeds)


def exists(path: Path) -> bool:
    """Whether there is an evaluation to go on with; one that a kill left under its other name is brought back.

    Raises:
        StorageError: If that cannot be done.
    """
    with writing(path):
        restore(path)
    return path.exists()


def write(dataset: "xr.Dataset", path: str | Path) -> None:
    """Put an evaluation at `path`, in place of what is there.

    A kill between the two renames leaves the old one aside, where `open_evaluation` finds it.

    Raises:
        StorageError: If it cannot be written; what was there before is untouched.
    """
    from zarr.codecs import Crc32cCodec

    path = Path(path)
    # text of any length, because zarr's version 3 does not define text of a fixed one
    dataset = dataset.assign_coords(sampler=dataset["sampler"].values.astype(object))
    with writing(path), staged(path) as staging:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # version 3 of the format has no word on consolidation; xarray asks
            checked = {name: {"compressors": [Crc32cCodec()]} for name in dataset.variables}
            dataset.to_zarr(staging, mode="w", zarr_format=3, consolidated=True, encoding=checked)
        replace_folder(staging, path)


def table(dataset: "xr.Dataset") -> str:
    """Mean and standard error over the seeds, a row a sampler, in at most 80 columns, with what it takes to read it."""
    about = dataset.attrs
    name = about["extractor"] if len(about["extractor"]) <= 10 else "*"
    lines = [f"{'sampler':<11}{f'FID[{name}]':>20}{f'1000 KID[{name}]':>23}{'nearest':>10}{'copies':>8}{'seeds':>7}"]
    for sampler in dataset["sampler"].values.tolist():
        row = dataset.sel(sampler=sampler)
        fid, kid = mean_and_error(row["fid"].values), mean_and_error(1000 * row["kid"].values)
        count = int(row["seconds"].notnull().sum())
        nearest, copies = (f"{row['nearest_ratio'].mean():.3f}", f"{row['copies'].mean():.1f}") if count else "--"
        lines.append(f"{sampler:<11}{fid:>20}{kid:>23}{nearest:>10}{copies:>8}{count:>7}")
    fid, kid = f"{about['floor_fid']:.4g}", f"{1000 * about['floor_kid']:.4g}"
    lines.append(f"{'data':<11}{fid:>20}{kid:>23}{1:>10.3f}")
    n, data, size = about["n"], about["n_real"], about["floor_n"]
    said = (
        f"Mean +- standard error over seeds; n = {n} samples against {data} data. The row data is {size} data against "
        f"the {data - size} others: a FID is biased upwards, the more for smaller n. "
        "A model that was trained on these very data can fall below that row, because it knows their chance deviations."
    )
    if n <= about["features"]:
        said += f" n does not exceed the {about['features']} features: singular covariance, FID far too high."
    lines += ["", *textwrap.wrap(said, 80)]
    if name == "*":
        lines += textwrap.wrap(f"* {about['extractor']}", 80)
    return "\n".join(lines)


def mean_and_error(values: np.ndarray) -> str:
    """The mean of the finite values and its standard error, which one value alone does not have."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{values.mean():.4g} +- {values.std(ddof=1) / np.sqrt(len(values)):.2g}"
