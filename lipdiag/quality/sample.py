"""What a model draws: what the command `sample` and Jupyter both call."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..checkpoints.reading import SILENT, Reading
from ..design.arithmetic import still
from ..diffusion.predictor import Predictor, device_of
from ..errors import NonFiniteError, UsageError
from ..files import atomic_write, make_folder
from ..progress import bar
from ..sampling.picture import grid, pixels, png
from ..sampling.sampler import require_sampler
from ..sampling.sampler import sample as draw
from ..study.device import resolve_device
from ..study.network import worded
from ..study.resolve import resolve_model

PICTURES = ("", ".png", ".npz")
"""How a name of samples may end."""


@contextmanager
def placed(model: Any, device: str, reading: Reading) -> Iterator[Predictor]:
    """A model on its device, ready to be sampled; one in memory is as it was afterwards."""
    predictor = resolve_model(model, reading)
    home = device_of(predictor)
    with still(predictor):
        predictor.to(resolve_device(device))
        try:
            yield predictor
        finally:
            predictor.to(home)


def sample(
    model: Any,
    n: int = 64,
    sampler: str = "ddim",
    steps: int = 50,
    out: str | Path | None = None,
    *,
    batch: int = 256,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    priced: Callable[[Predictor], object] = lambda predictor: None,
    reading: Reading = SILENT,
    **words: Any,
) -> Float[Tensor, "n *event"]:
    """Draw samples of a model.

    Sample i follows from the seed and i alone: two models with one seed start from the same noise. A shared clock
    (E-TSDM) is shared here as in training.

    Args:
        model: A path (checkpoint or embedded name), a `Predictor`, or whatever else `measure` takes.
        n: How many samples.
        sampler: ddpm, ddim, dpm, unipc, or euler (flow matching).
        steps: Evaluations of the model a sample.
        out: A .png (all in a grid), a .npz (the model's own numbers), or a folder (a PNG each); None writes nothing.
        batch: Samples made together.
        device: auto, cpu, cuda, cuda:N.
        seed: Of everything random.
        progress: Whether to show a bar.
        priced: Called with the model before anything is drawn.
        reading: How a checkpoint is read; or
        words: that told one by one: `weights`, `schedule`, `clock` and the other words of `measure`.

    Returns:
        The samples, x0, on the model's device and in its dtype, multiplied as torch was told to: on a card by default
        with convolutions in TF32.

    Raises:
        UsageError: If the model has no such sampler, or `out` is no such name.
        NonFiniteError: If a sample is not finite; none are written.

    Example:
        >>> lipdiag.sample("digits-etsdm", n=2, steps=2, progress=False).shape
        torch.Size([2, 1, 8, 8])
    """
    place = None if out is None else Path(out)
    if place is not None and place.suffix not in PICTURES:
        raise UsageError(f"--out {place} ends in {place.suffix}: give a .png, a .npz, or a folder, which has no suffix")
    given, reading = worded(model, None, words) if words or reading is SILENT else (model, reading)
    with placed(given, device, reading) as predictor:
        require_sampler(predictor.schedule, sampler, steps)
        priced(predictor)
        with bar(n * steps, "eval", "sampling", not progress, unit_scale=True) as shown:
            x = draw(predictor, n, steps, seed, sampler=sampler, batch=batch, advance=shown.update)
    if not x.isfinite().all():
        raise NonFiniteError(
            f"{int((~x.isfinite()).flatten(1).any(1).sum())} of {n} samples are not finite; none are written"
        )
    if place is not None:
        write(x, place)
    return x


def write(x: Tensor, out: Path) -> None:
    """Write samples as what `out` says: a grid, an array, or a folder of pictures."""
    import numpy as np

    if out.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, samples=x.float().cpu().numpy())
        atomic_write(out, buffer.getvalue())
    elif out.suffix == ".png":
        atomic_write(out, png(grid(pixels(x))))
    else:
        make_folder(out)
        for i, picture in enumerate(pixels(x)):
            atomic_write(out / f"{i:06d}.png", png(picture))
