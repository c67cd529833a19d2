"""Runs without a model: a dataset of the store's schema whose numbers are known in closed form."""

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lipdiag.study.folder import FORMAT, FORMAT_VERSION

Make = Callable[..., xr.Dataset]

LOG_TIMES = np.unique(np.round(np.geomspace(1, 1000, 64))) - 1
EDGES = (0, 20, 40, 60, 80, 100)
UNITS = {
    "long_name": "K(t, t'): change of eps between two timesteps at fixed x",
    "units": "1/timestep",
    "norm": "Euclidean",
}


def linear_table(count: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma of DDPM's linear schedule at every index."""
    log_alpha = np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, count))) / 2
    return np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))


def make(
    timesteps: np.ndarray = LOG_TIMES,
    draws: int = 64,
    shared: bool = False,
    checkpoint: str = "in memory",
    height: float = 0.11,
    seed: int = 0,
    quantities: tuple[str, ...] = ("time_difference", "time_derivative", "spectral_norm", "loss"),
) -> xr.Dataset:
    """A run of a model of 1000 timesteps on 8x8 images: K falls as points in 64 dimensions make it, times `height`.

    A shared one is exactly 0 inside [0, 20), ..., [80, 100), with the sum of each block at its last timestep.
    """
    generator = np.random.default_rng(seed)
    k = np.asarray(timesteps, dtype=float)
    alpha, sigma = linear_table()
    index = k.astype(int)
    ratio = np.append(sigma[:-1] / sigma[1:], sigma[-2] / sigma[-1])
    points = 8 * np.abs(1 - ratio)
    learned = height * points / (height + 0.03 * points) * 0.9 + 2e-3
    logsnr = 2 * np.log(alpha / sigma)
    between = np.gradient(logsnr)
    value = learned.copy()
    if shared:
        value[:100] = 0
        for first, last in itertools.pairwise(EDGES):
            value[last - 1] = 0.5 * learned[first:last].sum()
    spread = np.exp(0.12 * generator.standard_normal((k.size, draws)))
    fields = {
        "time_difference": value[index, None] * spread,
        "time_derivative": np.where(shared & (k < 100), 0, learned[index])[:, None] * spread * 1.1,
        "spectral_norm": (1 / (0.5 + sigma[index, None])) * spread,
        "loss": (0.9 * np.exp(-k / 50) + 0.05)[:, None] * spread**2,
    }
    variables = {name: (("time", "draw"), fields[name], UNITS) for name in quantities if name in fields}
    if "spectral_norm" in quantities:
        variables["spectral_norm_upper"] = (("time", "draw"), fields["spectral_norm"] * 1.03, UNITS)
    variables["done"] = (("time", "draw"), np.ones((k.size, draws), dtype="int8"))
    coordinates = {
        "timestep": ("time", k, {"units": "timestep"}),
        "t": ("time", (k + 1) / 1000),
        "alpha": ("time", alpha[index]),
        "sigma": ("time", sigma[index]),
        "logsnr": ("time", logsnr[index]),
        "dt_dtimestep": ("time", np.full(k.size, 1e-3)),
        "dlogsnr_dtimestep": ("time", between[index]),
        "draw": np.arange(draws),
    }
    clock = "shared(timesteps(1000), 100, 5)" if shared else "timesteps(1000)"
    model = {"clock": clock, "schedule": "linear(0.0001, 0.02, 1000)", "shape": [1, 8, 8], "network": "UNet2DModel"}
    frozen = {"model": model, "data": {"name": "digits"}, "plan": {"step": None}}
    return xr.Dataset(variables, coordinates, {"frozen": frozen, "data": "digits", "checkpoint": checkpoint})


def dataset_of(
    axis: dict[str, np.ndarray], model: dict, step: float | None = None, unit: str = "timestep"
) -> xr.Dataset:
    """A run with a given time axis, three draws, and K = 1 everywhere."""
    times = axis["timestep"].size
    ones = np.ones((times, 3))
    coordinates = {
        name: ("time", values, {"units": unit} if name == "timestep" else {}) for name, values in axis.items()
    }
    variables = {"time_difference": (("time", "draw"), ones, UNITS), "done": (("time", "draw"), ones.astype("int8"))}
    attributes = {"frozen": {"model": model, "data": {"name": "ones"}, "plan": {"step": step}}}
    return xr.Dataset(variables, {**coordinates, "draw": np.arange(3)}, attributes)


def write(dataset: xr.Dataset, path: Path) -> Path:
    """A dataset as a run on disk, in the store's own format."""
    attributes = {**dataset.attrs, "format": FORMAT, "format_version": FORMAT_VERSION}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in the store: version 3 of the format has no word on consolidation yet
        dataset.assign_attrs(attributes).to_zarr(path, zarr_format=3, consolidated=True)
    return path


@pytest.fixture(scope="session")
def run() -> Make:
    """Makes runs; see `make`."""
    return make


@pytest.fixture(scope="session")
def ddpm() -> xr.Dataset:
    return make(np.union1d(LOG_TIMES, np.array(EDGES[1:]) - 1), checkpoint="digits-ddpm")


@pytest.fixture(scope="session")
def etsdm() -> xr.Dataset:
    return make(np.union1d(LOG_TIMES, np.array(EDGES[1:]) - 1), shared=True, checkpoint="digits-etsdm", seed=1)
