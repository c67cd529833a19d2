"""Every way a stranger's file gets in: a good file of each kind, how it is read, and how it may be refused."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import lipdiag
from lipdiag import checkpoints
from lipdiag.comparison import quality as compare_quality
from lipdiag.data.dataset import dataset
from lipdiag.design.plan import Plan
from lipdiag.errors import CheckpointError, LipdiagError, NonFiniteError, RunError, StorageError, UsageError
from lipdiag.files import read_json
from lipdiag.pages.tables import table
from lipdiag.quality import evaluation
from lipdiag.results.source import open_source
from lipdiag.store.store import open_run, open_store
from lipdiag.text import printable
from lipdiag.training.recipe import Recipe
from lipdiag.weights.tensors import read_tensors

STATE = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}
NETWORK = {
    "sample_size": 4, "in_channels": 1, "out_channels": 1, "block_out_channels": [4], "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "norm_num_groups": 2,
}  # fmt: skip

SMALL = NETWORK | {"sample_size": 8, "attention_head_dim": 2}
RECIPE = Recipe("small", "digits", (1, 8, 8), "UNet2DModel", SMALL, steps=3, batch=2)
JUDGED = {
    "checkpoint": "digits-ddpm", "extractor": "pixels", "n": 40, "n_real": 60, "features": 64, "floor_fid": 1.5,
    "floor_kid": 0.1, "floor_n": 30, "versions": {"python": "3"},
}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A way in: `make` writes a good file or folder, `read` reads one."""

    name: str
    suffix: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    refusals: tuple[type[LipdiagError], ...]
    cost: float = 1.0


def archive(content: object = None) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(STATE if content is None else content, buffer)
    return buffer.getvalue()


def make_safetensors(path: Path) -> None:
    from safetensors.torch import save

    path.write_bytes(save(STATE, {"note": "x"}))


def model():
    from diffusers import UNet2DModel

    from lipdiag.diffusion.clock import Timesteps
    from lipdiag.diffusion.parameterization import eps
    from lipdiag.diffusion.schedule import Linear

    return lipdiag.NetworkPredictor(UNet2DModel(**NETWORK), Linear(), eps, Timesteps(1000), (1, 4, 4))


def make_diffusers(path: Path) -> None:
    from diffusers import DDPMScheduler, UNet2DModel

    UNet2DModel(**NETWORK).save_pretrained(path)
    DDPMScheduler(1000).save_pretrained(path)


def once(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A folder made once and copied afterwards, since the corpus changes it in many ways."""

    @cache
    def made() -> dict[str, bytes]:
        with TemporaryDirectory() as place:
            path = Path(place, "made")
            make(path)
            return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def copied(path: Path) -> None:
        for name, data in made().items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)

    return copied


@once
def make_run(path: Path) -> None:
    plan = Plan(timesteps="0,500", draws=4, batch=4, quantities=("loss",))
    data = np.random.default_rng(0).normal(size=(5, 1, 4, 4)).astype(np.float32)
    from tests.networks import predictor

    lipdiag.measure(predictor(), data, plan, path, progress=False, device="cpu")


def read_run(path: Path) -> None:
    found = open_run(path)
    lipdiag.summarize(found)
    if (found["done"] == 1).any():
        table([found])
    open_store(path)


@once
def make_evaluation(path: Path) -> None:
    found = evaluation.new(["ddim:20", "dpm:5"], [0, 1, 2], {**JUDGED, "command": ["lipdiag", "evaluate"]})
    for name in evaluation.VARIABLES:
        found[name][:] = np.arange(1.0, 7.0).reshape(2, 3)
    evaluation.write(found, path)


def read_evaluation(path: Path) -> None:
    """As `plot`, `compare` and `evaluate` read it."""
    found = open_source(path, "quality")
    compare_quality.read([(path, path)], [(str(found.attrs["name"]),) * 2])
    evaluation.table(found.assign_attrs({**JUDGED, **found.attrs}))


@once
def make_training(path: Path) -> None:
    """A training that was interrupted: its recipe, its log, K on the way, and the snapshot to go on from."""
    from lipdiag.training.session import session

    for _ in session(RECIPE, path, stop=lambda: True, measure_every=1):
        pass


def read_log(path: Path) -> None:
    from lipdiag.figures import plot

    plot(open_source(path, "training"), figure="training")


def read_training(path: Path) -> None:
    """As `train` does that goes on with it, but for the steps."""
    from lipdiag.training.loop import train
    from lipdiag.training.session import LOG, resume
    from lipdiag.watching.log import LOSSES, rows

    snapshot = resume(RECIPE, path)
    rows(path / LOG, len(LOSSES))
    next(train(RECIPE, snapshot=snapshot))


def make_configuration(path: Path) -> None:
    path.write_text(f'draws = 4\ntimesteps = "0,500"\nquantity = ["loss"]\nout = "{path}.zarr"\nquiet = true\n')


def read_configuration(path: Path) -> None:
    """The command's own refusals, of its options, are no less a sentence."""
    import click

    from lipdiag.cli import main

    try:
        with main.make_context("lipdiag", ["measure"]) as context:
            main.commands["measure"].make_context("measure", ["digits-ddpm", "--config", str(path)], parent=context)
    except click.UsageError as error:
        raise UsageError(printable(error.format_message())) from error


def make_samples(path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, samples=np.linspace(-1, 1, 4 * 64, dtype=np.float32).reshape(4, 1, 8, 8))


def make_pictures(path: Path) -> None:
    from PIL import Image

    path.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp"):
        Image.fromarray(pixels).save(path / f"a.{suffix}")


def read_data(path: Path) -> None:
    data = dataset(path)
    for i in range(len(data)):
        data[i]
    assert data.fingerprint


def make_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.arange(48, dtype=np.float32).reshape(3, 1, 4, 4))


def make_arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, images=np.arange(48, dtype=np.float32).reshape(3, 1, 4, 4))


TRAINING = (RunError, StorageError, CheckpointError, UsageError, NonFiniteError)
CHECKPOINT, DATA, RUN = (CheckpointError,), (UsageError,), (RunError, StorageError)
READERS = {
    reader.name: reader
    for reader in (
        Reader("pt", "model.pt", lambda path: path.write_bytes(archive()), read_tensors, CHECKPOINT),
        Reader("safetensors", "model.safetensors", make_safetensors, read_tensors, CHECKPOINT),
        Reader("json", "config.json", lambda path: path.write_text(json.dumps(NETWORK)), read_json, CHECKPOINT),
        Reader("own.pt", "own.pt", lambda path: lipdiag.save(path, model()), checkpoints.load, CHECKPOINT, 6),
        Reader("own", "own", lambda path: lipdiag.save(path, model()), checkpoints.load, CHECKPOINT, 6),
        Reader("diffusers", "diffusers", make_diffusers, checkpoints.load, CHECKPOINT, 6),
        Reader("run", "a.zarr", make_run, read_run, RUN, 12),
        Reader("evaluation", "q.zarr", make_evaluation, read_evaluation, RUN, 2),
        Reader("log", "training", make_training, read_log, (*RUN, UsageError), 12),
        Reader("training", "training", make_training, read_training, TRAINING, 8),
        Reader("configuration", "lipdiag.toml", make_configuration, read_configuration, DATA),
        Reader("samples", "samples.npz", make_samples, lambda path: open_source(path, "samples"), RUN),
        Reader("pictures", "pictures", make_pictures, read_data, DATA),
        Reader("npy", "data.npy", make_array, read_data, DATA),
        Reader("npz", "data.npz", make_arrays, read_data, DATA),
    )
}


def copy(source: Path, target: Path) -> None:
    """A fresh copy of a good file or folder."""
    if target.is_dir():
        shutil.rmtree(target)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
