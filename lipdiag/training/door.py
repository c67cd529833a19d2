"""A training from a few words: what the command and Jupyter both call."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from .. import distributed
from ..checkpoints.factory import current_folder_importable, find
from ..errors import UsageError, meant, unknown
from ..files import atomic_write
from ..printing import plain
from ..progress import bar
from ..sampling.picture import grid, pixels, png
from ..sampling.sampler import sample
from ..study.device import resolve_device
from .loop import State
from .recipe import OWN, RECIPES, Recipe
from .session import SNAPSHOT_SECONDS, session, shared

SAMPLES = 16
MOST_STEPS = 50
OnStep = Callable[[int, dict[str, float]], object]


def train(
    recipe: str | Recipe = "digits",
    out: str | Path | None = None,
    *,
    etsdm: str | bool | None = None,
    measure_every: int | None = None,
    sample_every: int | None = None,
    snapshot_every: float = SNAPSHOT_SECONDS,
    on_step: OnStep | str | None = None,
    device: str = "auto",
    progress: bool = True,
    stop: Callable[[], bool] = lambda: False,
    **changes: Any,
) -> Path:
    """Train a DDPM, or its E-TSDM twin that differs in the clock alone, into a folder that `measure` and `load` read.

    Args:
        recipe: A name such as "digits" or "cifar10", or a `Recipe`.
        out: The checkpoint, a folder; one that holds an unfinished training by the same recipe is gone on with. By
            default the recipe's name with -ddpm or -etsdm.
        etsdm: Share timesteps: "END,BLOCKS" such as "100,5", "edges:0,5,15,40,100", or True for a tenth of the
            timesteps in 5 blocks.
        measure_every: Log K(t, t+1), the loss by timestep and a spectral norm every so many steps.
        sample_every: Draw a grid of samples every so many steps.
        snapshot_every: Seconds that a crash may cost.
        on_step: Called after each step with (step, numbers): loss, learning_rate, gradient_norm, seconds, and what was
            measured at it; or "package.module:function". On a card it hears of the steps of about a second at once.
        device: auto, cpu, cuda, cuda:N.
        progress: Whether to show a bar.
        stop: Asked after each step, on a card about once a second; when it says so a snapshot is kept and the training
            ends early.
        changes: Fields of the recipe: `steps`, `data`, `seed`, `batch`, `penalty`, ...

    Returns:
        The folder.

    Raises:
        UsageError: If a word cannot be used, or `on_step` raises; the training is resumable.
        RunError: If the folder holds another training, or a finished one.
        KeyboardInterrupt: If `stop` said so; the same call goes on.

    Example:
        >>> few = {"steps": 2, "batch": 4}
        >>> out = lipdiag.train("digits", "few-ddpm", on_step=lambda step, numbers: print(step), progress=False, **few)
        1
        2
        >>> lipdiag.load(out).shape
        (1, 8, 8)
    """
    recipe = described(recipe, etsdm, changes)
    out = default_out(recipe) if out is None else Path(out)
    if sample_every and (len(recipe.shape) != 3 or recipe.shape[0] not in (1, 3)):
        raise UsageError(f"--sample-every draws pictures of 1 or 3 channels, and a sample has the shape {recipe.shape}")
    if recipe.data == OWN and not Path(OWN).exists():
        raise UsageError(
            f"the recipe {recipe.name} trains on photographs of your own: give --data, a folder of pictures, a .npy or "
            f"a .npz file, of {' x '.join(map(str, recipe.shape[1:]))} pixels in {recipe.shape[0]} channels"
        )
    place = resolve_device(device)
    if distributed.launched() and place.type == "cuda":
        place = torch.device("cuda", distributed.local_rank())
        torch.cuda.set_device(place)
    with current_folder_importable():
        called = find(on_step, "the function") if isinstance(on_step, str) else on_step
        last: dict[str, float] = {}
        heard = hearing(last, called)
        states = session(recipe, out, place, stop, measure_every or 0, snapshot_every, heard, (sample_every or 0,))
        if not under_a_bar(states, recipe.steps, not progress, out, sample_every or 0, last):
            raise KeyboardInterrupt
    return out


def described(recipe: str | Recipe, etsdm: str | bool | None = None, changes: dict[str, Any] | None = None) -> Recipe:
    """The recipe that these words describe.

    Raises:
        UsageError: If there is none.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise unknown("recipe", recipe, RECIPES)
        recipe = RECIPES[recipe]
    known = [item.name for item in fields(Recipe)]
    strange = [name for name in changes or {} if name not in known]
    if strange:
        raise UsageError(f"a recipe has no {strange[0]}{meant(strange[0], known)}; its fields are {', '.join(known)}")
    recipe = replace(recipe, **{name: value for name, value in (changes or {}).items() if value is not None})
    if etsdm is None or etsdm is False:
        return recipe
    return shared(recipe, "default" if etsdm is True else etsdm)


def default_out(recipe: Recipe) -> Path:
    """The folder of a training that was not given one."""
    return Path(f"{recipe.name}-{'etsdm' if recipe.clock.startswith('shared') else 'ddpm'}")


def under_a_bar(
    states: Iterator[State], steps: int, quiet: bool, out: Path, sample_every: int, last: Mapping[str, float]
) -> bool:
    """Go through a training with a bar on standard error; whether it came to its end.

    Beside the loss it shows the largest K among `last`, the numbers that were heard of last.
    """
    step, smooth = 0, None
    with bar(steps, "step", "training", quiet or not distributed.leads()) as shown:
        for state in states:
            for row in state.rows:
                smooth = row.loss if smooth is None else 0.98 * smooth + 0.02 * row.loss
            if step == 0:
                shown.initial = shown.n = state.rows[0].step - 1  # what was done before does not count as fast
            step = state.step
            shown.update(step - shown.n)
            shown.set_postfix_str(f"loss {smooth:.4f}{peak(last)}", refresh=False)
            if sample_every and step % sample_every == 0 and distributed.rank() == 0:
                atomic_write(out / f"samples-{step:07d}.png", pictures(state))
    return step == steps


def hearing(last: dict[str, float], called: OnStep | None) -> OnStep:
    """A function that keeps the numbers of the last step in `last`, and calls the user's own."""

    def hear(step: int, numbers: dict[str, float]) -> None:
        last.update(numbers)
        if called is not None:
            called(step, numbers)

    return hear


def peak(numbers: Mapping[str, float]) -> str:
    """The largest K and its timestep in words, where K was measured."""
    name = "time_difference/"
    found = {key.removeprefix(name): value for key, value in numbers.items() if key.startswith(name)}
    k = max(found, key=lambda k: found[k], default="")
    return f", K {plain(found[k])} at {k}" if found else ""


def pictures(state: State) -> bytes:
    """A grid of samples of the averaged model as a PNG file, always from the same first noise."""
    count = getattr(state.ema.clock.base, "count", MOST_STEPS)
    steps = max(steps for steps in range(1, MOST_STEPS + 1) if count % steps == 0)
    return png(grid(pixels(sample(state.ema, SAMPLES, steps))))
