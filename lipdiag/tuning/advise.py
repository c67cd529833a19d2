"""The front door of advice: a run is asked where to share timesteps, a model at which times to sample it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..advice.choice import StepsAdvice
from ..advice.sharing import ABOVE, Advice
from ..advice.sharing import advise as share
from ..errors import UsageError

if TYPE_CHECKING:
    from ..checkpoints.reading import Reading
    from ..diffusion.predictor import Predictor

STEPS = (5, 10, 20)
DRAWS = 96
LEAST_DRAWS = 8


def advise(
    what: Any,
    end: float | None = None,
    blocks: int | None = None,
    above: float | None = None,
    *,
    sampler: str | None = None,
    steps: Sequence[int] | int | None = None,
    draws: int | None = None,
    seed: int = 0,
    device: str = "auto",
    advance: Callable[[int], object] | None = None,
    priced: Callable[[int, float], object] | None = None,
    reading: "Reading | None" = None,
    **words: Any,
) -> Advice | StepsAdvice:
    """Settings that a run or a model suggests; printed, or shown in a notebook, it says them in words.

    Without a sampler `what` is a run, a dataset or its path, and the advice is where to share timesteps (E-TSDM). With
    one it is a model, as `measure` takes it, and the advice is at which times to ask it: some 380 evaluations a draw
    for the reference, and 500 for each number of steps up to 40, which is told before they begin.

    Args:
        what: A run, or with a sampler a model.
        end: Where sharing is to end; by default where K falls below `above` times its median away from the data.
        blocks: How many; by default the fewest that hide at most a quarter of the error the model makes anyway.
        above: How many times; 10 by default.
        sampler: "ddim", "euler", "heun" or "dpm".
        steps: Numbers of steps.
        draws: Half of them fit grids, half judge them.
        seed: Of their first noise.
        device: Of a model.
        advance: Called with the number of evaluations of the model that were made since its last call.
        priced: Called before them with the most that there will be, and the seconds that so many take.
        reading: How the model is read.
        words: The same word by word, as for `measure`.

    Raises:
        UsageError: If a word does not apply, or the run or the model lacks what this needs.

    Example:
        >>> advice = lipdiag.advise("digits-ddpm.zarr", end=100, blocks=2)
        >>> advice.edges[0], advice.edges[-1]
        (0.0, 100.0)
    """
    if sampler is None:
        strange = [
            name
            for name, value in {"steps": steps, "draws": draws, "reading": reading, **words}.items()
            if value is not None
        ]
        if strange:
            raise UsageError(f"{strange[0]} is about sampling a model; say which sampler, ddim, euler, heun or dpm")
        if isinstance(what, str | Path):
            from ..store.store import open_run

            what = open_run(what)
        return share(what, end, blocks, ABOVE if above is None else above)
    strange = [name for name, value in {"end": end, "blocks": blocks, "above": above}.items() if value is not None]
    if strange:
        raise UsageError(f"{strange[0]} is about sharing timesteps; ask for that without a sampler, of a run")
    from ..quality.sample import placed
    from ..study.network import worded

    model, told = (what, reading) if reading is not None else worded(what, None, words)
    counts = [steps] if isinstance(steps, int) else list(STEPS if steps is None else steps)
    with placed(model, device, told) as predictor:
        name = str(predictor.path or (what if isinstance(what, str | Path) else "the model"))
        return advise_steps(predictor, sampler, counts, DRAWS if draws is None else draws, seed, name, advance, priced)


def advise_steps(
    predictor: "Predictor",
    sampler: str,
    steps: Sequence[int],
    draws: int = DRAWS,
    seed: int = 0,
    name: str = "the model",
    advance: Callable[[int], object] | None = None,
    priced: Callable[[int, float], object] | None = None,
) -> StepsAdvice:
    """At which times to ask a predictor of the noise; see `advise`.

    Raises:
        UsageError: If a number of steps, or of draws, cannot be.
    """
    import numpy as np
    import torch

    from ..design.arithmetic import arithmetic
    from ..diffusion.ddim import LEAST_AMPLITUDE
    from ..diffusion.predictor import RawOutput
    from ..diffusion.schedule import Straight
    from ..sampling.walk import require_rule
    from .search import Trial, axis_of, price

    require_rule(sampler)
    if isinstance(predictor, RawOutput):
        raise UsageError("got a network's raw output, with which nothing is sampled; leave out the function")
    most = axis_of(predictor).count
    bad = [count for count in steps if count < 1 or (most is not None and count > most)]
    if bad or not steps:
        raise UsageError(
            f"got {', '.join(map(str, bad)) or 'no'} steps; give numbers from 1{f' to {most}' if most else ' on'}"
        )
    if draws < LEAST_DRAWS:
        raise UsageError(
            f"got {draws} draws; half of them fit grids and half judge them, so give at least {LEAST_DRAWS}"
        )
    most_asked = price(sampler, steps, draws)
    tell = None if priced is None else lambda seconds: priced(most_asked, most_asked * seconds)
    with arithmetic():
        trial = Trial(predictor, sampler, draws, seed, advance, tell)
        choices = tuple(trial.advise(count) for count in steps)
    clock, straight = predictor.clock.base, isinstance(predictor.schedule, Straight)

    def told(t: "np.ndarray") -> "np.ndarray":
        return clock(torch.tensor(t, device="cpu")).numpy()

    def level(t: "np.ndarray") -> "np.ndarray":
        if straight:
            return t
        alpha, sigma = predictor.schedule(torch.tensor(t, device="cpu"))
        return (sigma / alpha.clamp_min(LEAST_AMPLITUDE)).numpy()

    notes: tuple[str, ...] = ()
    if predictor.limit is not None:
        notes = ("The model's files keep x0 in range on the way; it was left out here, so leave it out in sampling.",)
    return StepsAdvice(
        name,
        sampler,
        choices,
        tuple(told(choice.t) for choice in choices),
        tuple(level(choice.t) for choice in choices),
        most is not None,
        straight,
        trial.reference.doubt,
        (told(trial.reference.t), trial.last_steps()),
        draws - draws // 2,
        notes,
    )
