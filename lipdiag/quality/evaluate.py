"""How good what a model draws is: what the command `evaluate` and Jupyter both call."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..checkpoints.reading import SILENT, Reading
from ..data.dataset import Data
from ..data.objects import as_data
from ..design.description import fingerprint
from ..diffusion.parameterization import eps
from ..diffusion.predictor import Predictor
from ..diffusion.spelling import spell
from ..errors import UsageError
from ..hub import spelled
from ..progress import bar
from ..provenance import command, versions
from ..sampling.sampler import placement, require_sampler
from ..study.network import worded
from .extractor import EXTRACTORS, Extractor, extractor
from .grading import grade, parse_sampler
from .sample import placed

if TYPE_CHECKING:
    import xarray as xr

SAMPLERS = ("ddim:20", "dpm:20")


class Task(NamedTuple):
    """What will be evaluated.

    Attributes:
        model: The predictor, on its device, ready to be sampled.
        data: What samples are compared with.
        extractor: Of features.
        samplers: Names with steps.
        seeds: Of the samples' first noise.
        n: Samples a sampler and seed.
    """

    model: Predictor
    data: Data
    extractor: Extractor
    samplers: tuple[str, ...]
    seeds: range
    n: int

    @property
    def evaluations(self) -> int:
        """How many there will be of the model, in all."""
        return self.n * len(self.seeds) * sum(parse_sampler(text)[1] for text in self.samplers)


def evaluate(
    model: Any,
    samplers: Sequence[str] = SAMPLERS,
    n: int = 1000,
    seeds: int = 3,
    extractor: str | None = None,
    data: Any = None,
    out: str | Path | None = None,
    *,
    batch: int = 256,
    resize: bool = False,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    priced: Callable[[Task], bool] = lambda task: True,
    reading: Reading = SILENT,
    **words: Any,
) -> "xr.Dataset | None":
    """Measure how good a model's samples are: FID, KID, near-copies of data.

    Args:
        model: A path (checkpoint or embedded name), a `Predictor`, or whatever else `measure` takes.
        samplers: Names with steps, such as "ddim:20".
        n: Samples a sampler and seed.
        seeds: How many, from `seed` on.
        extractor: Features for FID and KID: pixels, digits, mnist, efficientnet-lite0, efficientnet-lite1, or
            "pkg.mod:function" of your own that returns a module; by default digits for these, else pixels.
        data: What to compare with: a folder of images, .npy, .npz, or an embedded set; by default the checkpoint's own.
        out: The evaluation, a folder, kept after every sampler and seed and gone on with; None keeps it in memory.
        batch: Samples made together.
        resize: Whether the pictures of a folder are made as large as the model's and cut to their centre.
        device: auto, cpu, cuda, cuda:N.
        seed: The first of the seeds.
        progress: Whether to show a bar.
        priced: Called with what will be done; returns whether to go on with it.
        reading: How a checkpoint is read; or
        words: that told one by one: `weights`, `schedule`, `clock` and the other words of `measure`.

    Returns:
        Dims (`sampler`, `seed`), variables `fid`, `kid`, `copies` and others; None where `priced` did not want it.

    Raises:
        UsageError: If a sampler does not fit the model, or nothing tells its data.
        RunError: If `out` holds an evaluation of something else.
        NonFiniteError: If a sample is not finite; what was evaluated before is kept.

    Example:
        >>> found = lipdiag.evaluate("digits-ddpm", ["ddim:2"], n=16, seeds=1, progress=False)
        >>> dict(found["fid"].sizes)
        {'sampler': 1, 'seed': 1}
    """
    given, reading = worded(model, data, words) if words or reading is SILENT else (model, reading)
    with placed(given, device, reading) as predictor:
        for text in samplers:
            require_sampler(predictor.schedule, *parse_sampler(text))
        real = compared_with(predictor, data, resize)
        task = Task(predictor, real, choose(extractor, real.name), tuple(samplers), range(seed, seed + seeds), n)
        if not priced(task):
            return None
        x = torch.stack([real[i] for i in range(len(real))])
        attributes = provenance(predictor, model, real, reading)
        with bar(task.evaluations, "eval", "sampling", not progress, unit_scale=True) as shown:
            asked = (predictor, x, task.extractor, task.samplers, n, task.seeds, out)
            return grade(*asked, batch=batch, attributes=attributes, advance=shown.update)


def compared_with(predictor: Predictor, data: Any, resize: bool) -> Data:
    """The data that samples are compared with: what is given, else the checkpoint's own."""
    data = predictor.data if data is None else data
    if data is None:
        raise UsageError("the checkpoint does not tell its data, which samples are compared with: give --data")
    return as_data(data, predictor.shape, resize)


def choose(name: str | None, data: str) -> Extractor:
    """The extractor of that name; without a name the one that knows the data, else pixels."""
    return extractor(name or (data if data in EXTRACTORS else "pixels"))


def provenance(predictor: Predictor, model: Any, real: Data, reading: Reading) -> dict[str, Any]:
    """What an evaluation is of: model, data, and the program that made it."""
    from .. import checkpoints

    device, dtype = placement(predictor, real[0])
    names = ("python", "lipdiag", "torch", "diffusers", "torchmetrics", "numpy")
    named = isinstance(model, str | Path)
    stored = checkpoints.inspection(predictor.path or str(model), reading) if named and not reading.factory else None
    return {
        "checkpoint": spelled(predictor.path or model) if named else reading.factory or "in memory",
        "sha256": stored.sha256 if stored else fingerprint(predictor),
        "weights": reading.weights,
        "schedule": spell(predictor.schedule),
        "parameterization": spell(getattr(predictor, "parameterization", eps)),
        "clock": spell(predictor.clock),
        "data": real.name,
        "data_sha256": real.fingerprint,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "versions": versions(*names),
        "command": command(),
    }
