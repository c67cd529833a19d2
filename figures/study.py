"""The study: DDPMs and their E-TSDM twins from several training seeds, measured, judged and compared.

`python figures/study.py --models DIR` makes it on digits (seed 0 is the embedded pair), and `python figures/study.py
photographs32 --data FILE --models DIR` on photographs of the user's own; `figures/sizes.py` has the sizes. What is not
in DIR yet is trained, measured and judged, and small tables of it are kept beside the figure. It can be stopped at any
time; the same command goes on, elsewhere too: DIR holds at most 16 MiB a finished model, and snapshots of unfinished
ones may be left behind.
`python figures/study.py --redraw` draws figure and words anew from these tables alone, in seconds.

With several trainings a training is the replicate, so one mean a timestep and training is all that is kept of a run.
"""

import argparse
import contextlib
import io
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sizes import SIZES, Size
from tables import HERE, evaluation_of, keep, redraw, run_of
from torch import Tensor, nn

import lipdiag
from lipdiag.checkpoints.reading import Reading
from lipdiag.data.arrays import read_arrays
from lipdiag.data.objects import as_data
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.predictor import NetworkPredictor, Predictor
from lipdiag.files import atomic_write, read_json, replace_folder, restore, staged
from lipdiag.formats.native import CONFIG, MODEL
from lipdiag.quality.evaluate import provenance
from lipdiag.quality.extractor import Extractor, extractor
from lipdiag.quality.grading import grade
from lipdiag.quality.sample import placed
from lipdiag.sampling.sampler import sample
from lipdiag.store.reader import open_evaluation

QUANTITIES = ("time_difference", "time_derivative", "spectral_norm", "loss", "sensitivity")
LARGEST_MODEL = 2**24
"""Bytes of weights; those of more are kept in half precision."""

TRAINED, HELD = "train.npy", "judge.npy"


def carry_out(size: Size, data: Path | None, device: str) -> None:
    """Train, measure and judge, in the current folder, every model that is not done yet."""
    if size.side and not (Path(TRAINED).exists() and Path(HELD).exists()):
        if data is None:
            sys.exit("these models are trained on photographs of your own: give --data, a .npz or .npy file of them")
        divide(read_arrays(data)[0], size)
    for name in size.trainings:
        train(size, name, device)
    for name in size.models:
        measure(size, name, device)
    pictures = as_data(real(size), lipdiag.load(checkpoint(size, "ddpm-0")).shape)
    known = torch.stack([pictures[i] for i in range(len(pictures))])
    extractors = [Remembering(**vars(extractor(each)), known=known) for each in size.extractors]
    for name in size.models:
        drawn = kept_samples()
        for each in extractors:
            judge(size, name, pictures, known, each, drawn, device)


def train(size: Size, name: str, device: str) -> None:
    """The checkpoint of a training; an unfinished one is gone on with."""
    if checkpoint(size, name) != name:
        return
    folder = Path(name)
    restore(folder)
    if not (folder / CONFIG).exists():
        changes = size.settings | size.trainings[name] | ({"data": TRAINED} if size.side else {})
        lipdiag.train(size.recipe, name, device=device, **changes)
    lighten(folder)


def divide(photographs: np.ndarray, size: Size) -> None:
    """Photographs of (n, height, width, 3) bytes as means over squares, in those to train on and those held back."""
    n, height = photographs.shape[:2]
    square = height // size.side
    if photographs.dtype != np.uint8 or photographs.shape != (n, height, height, 3) or height % size.side:
        sys.exit(
            f"the photographs are {photographs.dtype} of shape {photographs.shape}: give bytes of (n, side, side, 3), "
            f"side a multiple of {size.side}"
        )
    means = photographs.reshape(n, size.side, square, size.side, square, 3).mean((2, 4))
    for name, part in ((TRAINED, slice(-size.held)), (HELD, slice(-size.held, None))):
        buffer = io.BytesIO()
        np.save(buffer, np.round(means[part]).astype(np.uint8))
        atomic_write(name, buffer.getvalue())


def real(size: Size) -> str:
    """What all are measured on and compared with."""
    return HELD if size.side else size.data


def checkpoint(size: Size, name: str) -> str:
    """Where the weights of that name are."""
    kind, _, seed = name.rpartition("-")
    kind, _ = size.swapped.get(kind, (kind, ""))
    return f"digits-{kind}" if size.embedded and seed == "0" else f"{kind}-{seed}"


def told(size: Size, name: str) -> dict[str, str]:
    """What its checkpoint does not tell: the clock of a swapped kind."""
    kind = name.rpartition("-")[0]
    return {"clock": size.swapped[kind][1]} if kind in size.swapped else {}


def lighten(folder: Path) -> None:
    """Keep weights of more than `LARGEST_MODEL` bytes in half precision; what computes with them widens them again."""
    if (folder / MODEL).stat().st_size > LARGEST_MODEL:
        with staged(folder) as lighter:
            shutil.copytree(folder, lighter, dirs_exist_ok=True)
            facts = read_json(folder / CONFIG)["training"]
            lipdiag.save(lighter, lipdiag.load(folder).half(), weights="ema", training=facts)
            replace_folder(lighter, folder)


class ByTimestep(nn.Module):
    """A network that is told the timestep of a table in place of its own time, so that its K is one a timestep too."""

    def __init__(self, predictor: NetworkPredictor, table: Timesteps) -> None:
        super().__init__()
        self.network, self.clock, self.table = predictor.network, predictor.clock, table

    def forward(self, x: Tensor, timestep: Tensor) -> Any:
        return self.network(x, self.clock(self.table.time(timestep.double())).to(x.dtype))


def by_timestep(predictor: Predictor) -> Predictor:
    """The same predictor, which counts time as the others do."""
    if predictor.clock.base.discrete or not isinstance(predictor, NetworkPredictor):
        return predictor
    table = Timesteps(1000)
    network = ByTimestep(predictor, table)
    return NetworkPredictor(network, predictor.schedule, predictor.parameterization, table, predictor.shape)


def measure(size: Size, name: str, device: str) -> None:
    """The run of a model; one that is there is gone on with."""
    plan = lipdiag.Plan(timesteps=size.timesteps, draws=size.draws, quantities=QUANTITIES)
    model: Any = checkpoint(size, name)
    if not (loaded := lipdiag.load(model)).clock.base.discrete:
        model = by_timestep(loaded)
    how: dict[str, Any] = {"device": device, "probe": False} | told(size, name)
    run = lipdiag.measure(model, real(size), plan, run_of(Path(), name), **how)
    if (run["done"] != 1).any():
        sys.exit(f"{name} is not measured to the end: the same command goes on")


@dataclass(frozen=True)
class Remembering(Extractor):
    """An extractor that looks only once at the data, with which every model is compared.

    Attributes:
        known: The data.
        found: Their features, once they were looked at.
    """

    known: Tensor | None = None
    found: list[Tensor] = field(default_factory=list)

    def __call__(self, x: Tensor, batch: int = 512) -> Tensor:
        if x is not self.known:
            return super().__call__(x, batch)
        if not self.found:
            self.found.append(super().__call__(x, batch))
        return self.found[0]


def kept_samples() -> Callable[..., Tensor]:
    """`sample`, which draws what it drew before only once, so that all extractors judge the same pictures."""
    kept: dict[tuple[str, int, int], Tensor] = {}

    def drawn(predictor: Predictor, n: int, steps: int, seed: int, *, sampler: str, **how: Any) -> Tensor:
        key = sampler, steps, seed
        if key not in kept:
            kept[key] = sample(predictor, n, steps, seed, sampler=sampler, **how)
        return kept[key]

    return drawn


def judge(
    size: Size, name: str, pictures: Any, known: Tensor, features: Extractor, drawn: Callable[..., Tensor], device: str
) -> None:
    """The evaluation of a model by one extractor; one that is there is gone on with."""
    path, model = evaluation_of(Path(), name, features.name), checkpoint(size, name)
    samplers = size.few if name.rpartition("-")[0] in size.variants else size.samplers
    if path.exists() and set(samplers) <= finished(path):
        return
    reading = Reading.of(**told(size, name))
    with placed(model, device, reading) as predictor:
        predictor.float()
        asked = (predictor, known, features, samplers, size.n, range(size.sampling_seeds), path)
        grade(*asked, attributes=provenance(predictor, model, pictures, reading), draw=drawn)
    print(f"{name} is judged by {features.name}", flush=True)


def finished(path: Path) -> set[str]:
    """The samplers that an evaluation has with every seed."""
    judged = open_evaluation(path)
    return set(judged["sampler"].values[judged["seconds"].notnull().all("seed").values].tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", choices=SIZES, default="digits", help="by default digits")
    parser.add_argument("--models", type=Path, help="where trainings, runs and evaluations are, or will be")
    parser.add_argument("--data", type=Path, help="photographs (n, side, side, 3) of 8 bits, .npz or .npy")
    parser.add_argument("--out", type=Path, default=HERE, help="where figure, words and the small tables go")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--redraw", action="store_true", help="only draw, from the tables that are kept")
    asked = parser.parse_args()
    size = SIZES[asked.size]
    if not asked.redraw:
        if asked.models is None:
            parser.error("--models DIR is needed, or --redraw")
        asked.models.mkdir(parents=True, exist_ok=True)
        data = asked.data and asked.data.resolve()
        with contextlib.chdir(asked.models):  # what is kept names no folder, so that it goes on elsewhere
            carry_out(size, data, asked.device)
        keep(size, asked.models, asked.out)
    redraw(size, asked.out)


if __name__ == "__main__":
    main()
