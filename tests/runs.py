"""Runs without a model: a dataset of the store's schema whose numbers are known in closed form."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lipdiag.quality.evaluation import FORMAT
from lipdiag.store.creation import create
from lipdiag.store.layout import Layout
from lipdiag.store.store import MARKS, Column

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
    """A dataset as a run on disk, by the store itself."""
    times, draws = dataset.sizes["time"], dataset.sizes["draw"]
    coordinates = {
        str(name): (axis.values.astype(float), dict(axis.attrs))
        for name, axis in dataset.coords.items()
        if axis.dims == ("time",)
    }
    columns = {
        str(name): Column(dict(v.attrs), {str(dim): dataset.sizes[dim] for dim in v.dims[2:]})
        for name, v in dataset.data_vars.items()
        if name not in MARKS
    }
    written = ("format", "format_version", "layout")
    attributes = {str(key): value for key, value in dataset.attrs.items() if key not in written}
    store = create(path, Layout(times, draws), draws, coordinates, columns, attributes)
    for name, variable in dataset.data_vars.items():
        store.group[name][:] = variable.values
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


def complete(shared: bool = False, draws: int = 12, seed: int = 0) -> xr.Dataset:
    """A run of 20 timesteps with every variable that a figure can ask for, each of known content."""
    k = np.union1d(np.round(np.geomspace(1, 1000, 16)) - 1, np.array(EDGES[1:]) - 1)
    dataset = make(k, draws, shared, "digits-etsdm" if shared else "digits-ddpm", seed=seed)
    generator = np.random.default_rng(100 + seed)
    times, (n, sigma) = k.size, (5, dataset["sigma"].values[:, None])

    def spread(*more: int) -> np.ndarray:
        return np.exp(0.1 * generator.standard_normal((times, draws, *more)))

    distance = np.abs(k[:, None] - k)
    same = np.zeros_like(distance, dtype=bool)
    if shared:
        block = np.where(k < 100, k // 20, k)
        same = block[:, None] == block
    different = (0.02 * distance / (1 + 0.01 * distance))[:, None] * ~same[:, None]
    lost = 0.05 + np.log((1 + k[:, None]) / (1 + k)) ** 2
    values = np.sort(spread(n), axis=-1)[..., ::-1] / sigma[..., None]
    vectors = generator.standard_normal((times, draws, n, 64))
    pair, ranked = ("time", "draw"), ("time", "draw", "rank")
    more = {
        "trajectory_derivative": (pair, dataset["time_derivative"].values * 0.4 * spread()),
        "pair_difference": (("time", "draw", "other"), different * spread(times)),
        "swap_loss": (("time", "draw", "other"), lost[:, None] * spread(times)),
        "one_sided_lipschitz": (pair, 0.9 / sigma * spread()),
        "squared_frobenius_norm": (pair, 16 / sigma**2 * spread()),
        "trace": (pair, 40 / sigma * spread()),
        "singular_values": (ranked, values),
        "singular_values_residual": (ranked, 0.01 * values),
        "vector_singular_values": (ranked, values),
        "vector_residuals": (ranked, 0.001 * values),
        "right_singular_vectors": ((*ranked, "entry"), vectors),
        "left_singular_vectors": ((*ranked, "entry"), -vectors),
        "embedding_difference": (pair, dataset["time_difference"].values),
        "embedding_norm": (pair, np.broadcast_to(5 + np.log1p(k)[:, None], (times, draws))),
    }
    found = dataset.assign({name: (dims, array, UNITS) for name, (dims, array) in more.items()})
    return found.assign(inside(times, draws, generator))


INSIDE = ("whole network", "embed", "down", "down.conv", "down.norm", "mid", "up", "up.conv", "up.dead")
"""Modules of a network: three times as much leaves `down.conv` as went in, and nothing `up.dead`."""


def inside(times: int, draws: int, generator: np.random.Generator) -> dict:
    """What the modules make of a change of the timestep and of x, where none but `embed` and `down.conv` differ."""
    gain = np.array([1.0, 0.5, 3, 3, 1, 1, 1, 1, 0])
    given = np.exp(0.1 * generator.standard_normal((times, draws, gain.size)))
    values = {"module_input_derivative": given, "module_output_derivative": given * gain}
    values |= {f"{name}_x": value for name, value in values.items()}
    values["module_input_derivative_x"] = given * np.array([1, 0, 1, 1, 1, 1, 1, 1, 1])
    values["module_output_derivative_x"] = values["module_input_derivative_x"] * gain
    values |= {"module_input_norm": 2 * np.ones_like(given), "module_output_norm": 4 * np.ones_like(given)}
    about = {**UNITS, "modules": list(INSIDE)}
    return {name: (("time", "draw", "module"), value, about) for name, value in values.items()}


def training_log(folder) -> None:
    """A training's folder: the loss is 1 / step, K at each timestep grows with the steps."""
    folder.mkdir(exist_ok=True)
    steps = np.arange(1, 201)
    lines = [f"{s},{1 / s},{1e-3 * s / 200},{2 / s},{s * 0.1}" for s in steps]
    (folder / "log.csv").write_text("\n".join(["step,loss,learning_rate,gradient_norm,seconds", *lines, "201,0.0"]))
    lines = [f"{s},{t},{s / (1 + t)},{0.1 * s / (1 + t)}" for s in (50, 100, 200) for t in (0, 10, 500)]
    (folder / "measure.csv").write_text("\n".join(["step,timestep,mean,standard_error", *lines, ""]))


def evaluation(seeds: int = 3) -> xr.Dataset:
    """FID 100 / steps and KID 1 / steps of two samplers, seeds a percent apart."""
    names = ["ddim:5", "ddim:20", "ddim:10", "dpm:5", "dpm:10"]
    steps = np.array([float(name.partition(":")[2]) for name in names])
    factor = np.array([1, 0.5])[[0, 0, 0, 1, 1]][:, None] * (1 + 0.01 * np.arange(seeds))
    dims = ("sampler", "seed")
    return xr.Dataset(
        {
            "fid": (dims, 100 / steps[:, None] * factor),
            "kid": (dims, 1 / steps[:, None] * factor),
            "kid_standard_error": (dims, 0.01 / steps[:, None] * factor),
            **dict.fromkeys(("nearest_ratio", "copies", "seconds"), (dims, factor)),
        },
        {"sampler": names, "seed": np.arange(seeds)},
        {
            "format_version": FORMAT,
            "extractor": "a classifier of digits",
            "n": 1000,
            "floor_fid": 1.5,
            "floor_kid": 0.01,
            "name": "digits-ddpm",
        },
    )


def images(number: int = 40, name: str = "digits-ddpm") -> xr.Dataset:
    """Image i is i / number everywhere, on a scale from -1 to 1."""
    values = np.broadcast_to((2 * np.arange(number) / number - 1)[:, None, None, None], (number, 1, 8, 8))
    return xr.Dataset({"samples": (("sample", "channel", "row", "column"), values)}, attrs={"name": name})


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> dict[str, list[xr.Dataset]]:
    """What each figure is drawn from."""
    from lipdiag.figures import FIGURES
    from lipdiag.results.source import open_source

    folder = tmp_path_factory.mktemp("training") / "digits-short"
    training_log(folder)
    both = [complete(), complete(shared=True, seed=1)]
    found = dict.fromkeys(FIGURES, both)
    found |= dict.fromkeys(("vectors", "spectrum", "distribution"), both[:1])
    found |= dict.fromkeys(("pairs", "swap"), both[1:])
    found |= {"samples": [images()], "training": [open_source(folder, "training")], "quality": [evaluation()]}
    return found
