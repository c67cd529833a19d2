"""A panel of measurements in a training loop of the user's own, which takes a part of its time and leaves no trace."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import distributed
from ..data.objects import as_data
from ..diffusion.predictor import NetworkPredictor, Predictor
from ..errors import LipdiagWarning, UsageError
from ..files import make_folder, shown
from ..progress import say
from ..study.network import worded
from ..study.resolve import resolve_model
from ..watching.budget import Budget
from ..watching.log import LOSSES, Log
from ..watching.panel import COLUMNS, Panel, Seen, numbers, observe
from .session import DIFFERENCE, LOG

EVERY = 500
SHARE = 0.01
"""The most that panels may take of the training's time."""

GIVEN = ("loss", "learning_rate", "gradient_norm")
"""What a loop may tell of a step, in the order of the log."""

MOST_WAITING = 1000
"""Steps whose numbers wait for the next panel to be written."""


class Monitor:
    """K, loss by timestep, jumps and a certified spectral norm of a network while a loop of one's own trains it.

    Called once a step, it tries at the first what a panel takes, and measures now and then, always on the same draws at
    the same timesteps, in float32 and in eval mode; mode, gradients, random numbers, precision and hooks are afterwards
    as they were. What fails in it is a
    warning in one sentence, and the training goes on. Of several processes the one of rank 0 measures, on the network
    inside DistributedDataParallel; one that went through torch.compile is measured as it is written.

    Args:
        model: A `Predictor`, or the network that is trained, with `convention`.
        data: x0, in any form that `measure` takes; a `DataLoader` too.
        every: Steps from one panel to the next: those whose number is a multiple of it, after the first. Where that
            would take more than `share`, it is more, and a warning says so, as where there was no panel at all.
        panel: What is measured.
        out: A folder for `log.csv` and `difference.csv`, which `lipdiag plot DIR --figure training` draws; None writes
            nothing.
        on_result: Called with (step, numbers) after each panel: time_difference/K and loss/K for each timestep K,
            spectral_norm and spectral_norm_upper, jump, and what the loop told of the step.
        share: Of the training's time that panels may take; 1 holds to `every` whatever it costs.
        convention: `schedule`, `parameterization`, `clock`, `shape` and `conditioning` of a network that is no
            Predictor, as `measure` takes them.

    Attributes:
        budget: The time that was spent; None before the first step. Printed, it says its share.

    Raises:
        UsageError: If the words do not make a model, or the data cannot be used.

    Example:
        >>> network = lipdiag.load("digits-ddpm").network
        >>> told = {"schedule": "linear", "parameterization": "eps", "clock": "timesteps(1000)"}
        >>> panel = lipdiag.Panel(timesteps=(0, 100), draws=4)
        >>> monitor = lipdiag.Monitor(network, "digits", every=2, panel=panel, share=1, **told)
        >>> for step in (1, 2):  # of a training
        ...     seen = monitor(step, loss=0.1)
        >>> sorted(seen)[:4]
        ['loss', 'loss/0', 'loss/100', 'spectral_norm']
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        every: int = EVERY,
        panel: Panel | None = None,
        out: str | Path | None = None,
        on_result: Callable[[int, dict[str, float]], object] | None = None,
        share: float = SHARE,
        **convention: Any,
    ) -> None:
        if every < 1 or not 0 < share <= 1:
            raise UsageError(f"got every = {every} and share = {share}: give at least 1 step, and a share in (0, 1]")
        self.every, self.share, self.panel, self.on_result = every, share, panel or Panel(), on_result
        self.out = None if out is None else Path(out)
        self.budget: Budget | None = None
        self.logs: tuple[Log, Log] | None = None
        self.due, self.last, self.slowed, self.closed = 0, 0, False, False
        self.waiting: list[tuple[int, list[Any], float]] = []
        self.off = distributed.rank() != 0
        network = model.network if isinstance(model, NetworkPredictor) else model
        if sharded(network):
            self.off = True
            tell("the network is sharded over processes, none of which can measure it alone: it is not monitored")
        if self.off:
            return
        if isinstance(model, NetworkPredictor):
            self.predictor: Predictor = copy.copy(model)
            self.predictor._modules = {**model._modules, "network": inner(network)}
        else:
            self.predictor = resolve_model(*worded(inner(model), data, convention))
        self.data = as_data(data, self.predictor.shape)

    def __call__(self, step: int, **told: Any) -> dict[str, float] | None:
        """Take note of a step that was made, and measure if it is time to.

        Args:
            step: Its number.
            told: `loss`, `learning_rate`, `gradient_norm` of it, numbers or tensors of one; a tensor is not waited for
                before the next panel.

        Returns:
            The numbers of a panel, by name; None where none was measured.
        """
        strange = sorted(set(told) - set(GIVEN))
        if strange:
            raise UsageError(f"a step has no {strange[0]}: tell its {', '.join(GIVEN)}")
        if self.off:
            return None
        if self.budget is None or self.closed:
            began, price = time.monotonic(), None
            with unharmed("the panel"):
                price = self.asked()
            self.budget = Budget(self.every, self.share, step, price, time.monotonic() - began)
            self.due, self.closed = self.budget.due(step), False
        self.last = step
        if told:
            values = [told.get(name, math.nan) for name in GIVEN]
            values = [value.detach() if isinstance(value, Tensor) else value for value in values]
            self.waiting.append((step, values, time.monotonic() - self.budget.began))
        if step < self.due:
            if len(self.waiting) >= MOST_WAITING:
                with unharmed("the log"):
                    self.write()
            return None
        found = None
        with unharmed("the panel"):
            found = self.measured(self.budget, step)
        self.due = self.budget.due(step)
        self.say_pace(self.budget, step)
        if found is not None and self.on_result is not None:
            with unharmed("on_result"):
                self.on_result(step, found)
        return found

    def measured(self, budget: Budget, step: int) -> dict[str, float] | None:
        """The numbers of a panel, written down; None where it cannot be afforded yet."""
        device = next((weight.device for weight in self.predictor.parameters()), torch.device("cpu"))
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # or what the training still has to do would be taken for measuring
        began = time.monotonic()
        try:
            if not budget.affordable:
                return None
            start = time.monotonic()
            seen = self.seen(self.panel)
            budget.price, budget.panels = time.monotonic() - start, budget.panels + 1
            found = numbers(seen)
            if self.waiting and self.waiting[-1][0] == step:
                told = zip(GIVEN, self.waiting[-1][1], strict=True)
                found |= {name: number for name, value in told if not math.isnan(number := float(value))}
            else:
                losses = [reading.loss for reading in seen.readings]
                self.waiting.append((step, [sum(losses) / len(losses), math.nan, math.nan], began - budget.began))
            self.write(step, seen)
            return found
        finally:
            budget.spent += time.monotonic() - began

    def asked(self) -> float:
        """About the seconds of a panel, from one of its timesteps and a spectral norm, after one that warms up."""
        small = replace(self.panel, timesteps=self.panel.timesteps[:1], draws=2)
        laps = [time.monotonic()]
        for panel in (small, small, replace(small, draws=self.panel.draws, spectral=False)):
            self.seen(panel)
            laps.append(time.monotonic())
        return laps[2] - laps[1] + len(self.panel.timesteps) * (laps[3] - laps[2])

    def seen(self, panel: Panel) -> Seen:
        """The panel of the network as it is written."""
        network = getattr(self.predictor, "network", self.predictor)
        with as_written(network):
            return observe(self.predictor, self.data, panel)

    def write(self, step: int = 0, seen: Seen | None = None) -> None:
        """Bring what is known to the logs."""
        waiting, self.waiting = self.waiting, []
        if self.out is None:
            return
        if self.logs is None:
            make_folder(self.out)
            before = waiting[0][0] - 1
            self.logs = (Log(self.out / LOG, LOSSES, before), Log(self.out / DIFFERENCE, COLUMNS, before))
            self.earlier = self.logs[0].last["seconds"]
        losses, differences = self.logs
        for number, values, seconds in waiting:
            losses.write(number, *map(float, values), round(self.earlier + seconds, 3))
        for reading in seen.readings if seen is not None else ():
            differences.write(step, *reading)

    def say_pace(self, budget: Budget, step: int) -> None:
        """Say once that panels come less often than was asked for."""
        pace = budget.pace(step)
        if pace > self.every and not self.slowed:
            self.slowed = True
            tell(
                f"a panel takes {budget.price:.2g} s, and comes every {pace} steps instead of {self.every}, so that "
                f"at most {100 * self.share:g} % of the training goes into it (share=1 holds to {self.every})"
            )

    def close(self) -> None:
        """Write what is left, and say on standard error what the panels took."""
        if self.budget is None or self.closed:
            return
        with unharmed("the log"):
            if self.waiting:
                self.write()
            for log in self.logs or ():
                log.__exit__(None, None, None)
        say(f"monitor: {self.budget}")
        if not self.budget.panels and self.budget.price is not None:
            tell(
                f"no panel was measured: the last step was {self.last}, and the first panel is due at step {self.due}; "
                "give a smaller every, or a larger share of the time"
            )
        self.closed, self.logs = True, None

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def tell(sentence: str) -> None:
    warnings.warn(sentence, LipdiagWarning, stacklevel=3)


@contextmanager
def unharmed(what: str) -> Iterator[None]:
    """Turn what fails into a warning, so that the training goes on."""
    try:
        yield
    except Exception as error:  # networks and trackers are the user's, and can fail in any way
        tell(f"{what} failed with {type(error).__name__}: {shown(str(error))[:300]}; the training goes on")


def inner(network: Any) -> Any:
    """The network inside what spreads it over processes or compiles it; its weights are the same."""
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while True:
        if isinstance(network, wrappers):
            network = network.module
        elif hasattr(network, "_orig_mod"):
            network = network._orig_mod
        else:
            return network


def sharded(network: Any) -> bool:
    """Whether no process holds all of its weights."""
    if not isinstance(network, nn.Module):
        return False
    kinds = {type(part).__name__ for part in (*network.modules(), *network.parameters())}
    return bool(kinds & {"FullyShardedDataParallel", "DTensor"}) or any(
        hasattr(weight, "ds_id") for weight in network.parameters()
    )


@contextmanager
def as_written(network: Any) -> Iterator[None]:
    """The network without the autocast that accelerate wraps its call in; undone after."""
    wrapped = vars(network).get("forward") if "_original_forward" in vars(network) else None
    if wrapped is not None:
        network.forward = network._original_forward
    try:
        yield
    finally:
        if wrapped is not None:
            network.forward = wrapped
