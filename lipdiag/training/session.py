"""A training into a folder: gone on with where it stopped, saved when it ends.

The folder holds `recipe.json`, the logs and, while the training runs, `snapshot.safetensors` with everything the next
step needs. All that is random follows from (seed, step), so a stopped and resumed training equals one that was not.
Of several processes the one of rank 0 writes.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import distributed
from ..breakdown import out_of_memory
from ..checkpoints.save import json_text, save
from ..data.dataset import Data, dataset
from ..diffusion.clock import CLOCKS, Shared
from ..diffusion.limit import Clip
from ..diffusion.spelling import parse, spell
from ..errors import RunError, UsageError
from ..files import atomic_write, make_folder, read_json, shown, sweep, temporaries
from ..watching.log import LOSSES, Log
from ..watching.panel import COLUMNS, Panel, numbers, observe
from ..weights.tensors import read_tensors
from .card import model_card
from .loop import State, train
from .recipe import MANNER, Recipe

SNAPSHOT = "snapshot.safetensors"
RECIPE = "recipe.json"
LOG = "log.csv"
DIFFERENCE = "difference.csv"
SNAPSHOT_SECONDS = 60.0
PATIENCE = 50  # times as long as writing a snapshot takes is trained before the next one


def session(
    recipe: Recipe,
    out: Path,
    device: torch.device | str = "cpu",
    stop: Callable[[], bool] = lambda: False,
    measure_every: int = 0,
    snapshot_seconds: float = SNAPSHOT_SECONDS,
    on_step: Callable[[int, dict[str, float]], object] | None = None,
    every: Sequence[int] = (),
) -> Iterator[State]:
    """Train by a recipe into a folder, state by state; leaves a checkpoint that `load` reads.

    Args:
        recipe: What to train.
        out: The folder; one that holds an unfinished training of the same recipe is gone on with.
        device: Where to train.
        stop: Asked after each state; when it says so in any process, a snapshot is kept and all end early.
        measure_every: Steps from one measurement of the averaged model's differences to the next; 0 for none.
        snapshot_seconds: Time from one snapshot to the next, and more where writing one takes a fiftieth of it; 0 to
            keep every state.
        on_step: Called for each step with its number and its numbers by name, in the process that writes: after the
            step, or after the state that it belongs to.
        every: Numbers of steps after each of which there is a state.

    Raises:
        RunError: If the folder holds a training by another recipe, or a finished one.
        StorageError: If the folder cannot be written.
        UsageError: If the data cannot be used, a batch needs more memory than there is, or `on_step` raises; a snapshot
            is kept.
    """
    parent = os.getppid()
    with distributed.joined(device):
        data = dataset(recipe.data, recipe.shape)
        data.check()
        snapshot = resume(recipe, out)
        distributed.anywhere(False)  # nobody writes before all have read
        writer = None
        if distributed.rank() == 0:
            writer = Writer(recipe, out, data, snapshot, measure_every, snapshot_seconds)
        state = None
        with writer or ExitStack():
            try:
                for state in train(recipe, data, device, snapshot, (measure_every, *every)):
                    stopping = distributed.anywhere(stop() or distributed.orphaned(parent))
                    if writer is not None:
                        seen = writer.take(state, stopping)
                        if on_step is not None:
                            told(on_step, seen, recipe.steps)
                    yield state
                    if stopping:
                        return
            except Exception as error:
                if writer is not None and state is not None and writer.logged == state.step < recipe.steps:
                    writer.keep(state)
                if not out_of_memory(error):
                    raise
                raise UsageError(
                    f"a step on {recipe.batch} samples needs more memory than there is: take the batch in more "
                    f"pieces by --set accumulate={2 * recipe.accumulate}, which goes on from where this stopped, or "
                    "lower batch"
                ) from error


def told(on_step: Callable[[int, dict[str, float]], object], seen: dict[int, dict[str, float]], last: int) -> None:
    """Call a function of the user's for each step that was taken.

    Raises:
        UsageError: If it raises.
    """
    step = 0
    try:
        for step, found in seen.items():
            on_step(step, found)
    except Exception as error:  # the user's own code can fail in any way
        then = "the same command goes on" if max(seen) < last else "the training is finished and kept"
        raise UsageError(
            f"on_step failed at step {step} with {type(error).__name__}: {shown(error)}; mend it, {then}"
        ) from error


class Writer:
    """What a training leaves in its folder.

    Args:
        recipe: It is trained by.
        out: The folder.
        data: It is trained on.
        snapshot: It goes on from.
        measure_every: Steps between rows of differences; 0 for none.
        snapshot_seconds: Time between snapshots, at least.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        data: Data,
        snapshot: dict[str, Tensor] | None,
        measure_every: int,
        snapshot_seconds: float,
    ) -> None:
        self.recipe, self.out, self.data = recipe, out, data
        self.measure_every, self.snapshot_seconds = measure_every, snapshot_seconds
        make_folder(out)
        sweep(out)
        atomic_write(out / RECIPE, json_text(recipe.to_dict()).encode())
        self.logged = step = 0 if snapshot is None else int(snapshot["step"])
        self.open = ExitStack()
        self.log = self.open.enter_context(Log(out / LOG, LOSSES, step))
        kept = measure_every or (out / DIFFERENCE).exists()
        self.differences = self.open.enter_context(Log(out / DIFFERENCE, COLUMNS, step)) if kept else None
        self.before = self.log.last["seconds"]
        self.began = self.written = time.monotonic()
        self.took = 0.0
        self.losses: list[float] = []

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self.open.close()

    def take(self, state: State, stopping: bool) -> dict[int, dict[str, float]]:
        """Log a state, and keep it if it is time to, or save it if it is the last; returns numbers by name by step.

        A state whose rows are not all written is never kept: what goes on from the one before writes them again.
        """
        seconds = self.before + time.monotonic() - self.began
        seen = {}
        for row in state.rows:
            self.losses = [*self.losses[-499:], row.loss]
            self.log.write(*row, round(seconds, 3))
            seen[row.step] = dict(zip(LOSSES[1:], (*row[1:], round(seconds, 3)), strict=True))
        last = state.step == self.recipe.steps
        if self.differences is not None and self.measure_every and (state.step % self.measure_every == 0 or last):
            panel = observe(state.ema, self.data, Panel())
            for reading in panel.readings:
                self.differences.write(state.step, *reading)
            seen[state.step] |= numbers(panel)
        self.logged = state.step
        if last:
            self.save(state, seconds)
        elif stopping or time.monotonic() - self.written >= self.pause:
            self.keep(state)
        return seen

    @property
    def pause(self) -> float:
        """Seconds from one snapshot to the next: those asked for, and more where writing one takes long."""
        return max(self.snapshot_seconds, PATIENCE * self.took) if self.snapshot_seconds else 0.0

    def keep(self, state: State) -> None:
        """Write all that is needed to go on from a state; nothing where the weights have gone on after it."""
        from safetensors.torch import save as serialize

        if not state.holds:
            return
        began = time.monotonic()
        for log in (self.log, self.differences):
            if log is not None:
                log.sync()  # a snapshot that outlives a power cut must not outlive its rows
        atomic_write(self.out / SNAPSHOT, serialize(state.snapshot()))
        self.written = time.monotonic()
        self.took = self.written - began

    def save(self, state: State, seconds: float) -> None:
        """Write the card and the checkpoint, whose configuration comes last and says that all is there."""
        loss = sum(self.losses) / len(self.losses)
        state.ema.limit = Clip() if self.data.eight_bit else None
        how = {"precision": state.precision, "compiled": bool(state.compiled)}
        facts = {"recipe": self.recipe.to_dict(), "loss": loss, "seconds": seconds, **how}
        atomic_write(self.out / "README.md", model_card(self.recipe, state.ema, facts, self.data).encode())
        save(self.out, state.ema, weights="ema", data=self.recipe.data, training=facts)
        (self.out / SNAPSHOT).unlink(missing_ok=True)


def resume(recipe: Recipe, out: Path) -> dict[str, Any] | None:
    """The snapshot of an unfinished training by this recipe in `out`, if there is one."""
    if not (out / RECIPE).exists():
        # a training that was killed while it began left no more than the half of its first file
        if out.exists() and (not out.is_dir() or {*out.iterdir()} - {*temporaries(out)}):
            raise RunError(f"{out} exists and is no training; give another --out")
        return None
    defaults = {item.name: item.default for item in dataclasses.fields(Recipe)}  # of fields that are newer than it
    stored, asked = defaults | read_json(out / RECIPE), recipe.to_dict()
    changed = [f"{key} is {stored[key]!r} there and {asked[key]!r} here" for key in asked if stored[key] != asked[key]]
    changed = [text for text in changed if text.split()[0] not in MANNER]
    if changed:
        raise RunError(f"{out} holds a training by another recipe ({'; '.join(changed)}); give another --out")
    if not (out / SNAPSHOT).exists():
        if (out / "config.json").exists():
            raise RunError(f"{out} holds this training, finished; give another --out to train again")
        return None
    snapshot = read_tensors(out / SNAPSHOT)
    step = snapshot.get("step")
    if step is None or step.dtype != torch.int64 or step.numel() != 1 or not 0 <= int(step) <= recipe.steps:
        raise RunError(f"{out / SNAPSHOT} is no snapshot of this training; give another --out")
    return snapshot


def shared(recipe: Recipe, spelling: str) -> Recipe:
    """The recipe's E-TSDM twin: another clock, nothing else.

    Args:
        recipe: Without sharing.
        spelling: `END,BLOCKS`, or `edges:0,5,15,40,100`, both in the clock's own timesteps, or "default": the first
            tenth of the timesteps in 5 blocks, 100,5 where there are 1000.

    Raises:
        UsageError: If the spelling is none of these, blocks do not divide, or edges do not lie within the timesteps.
    """
    base = parse(recipe.clock, CLOCKS)
    if isinstance(base, Shared):
        raise UsageError(f"the recipe's clock {recipe.clock} is shared already: leave out --etsdm, or set the clock")
    first, final = base.ends
    try:
        if spelling == "default":
            clock = Shared(base, base.tenth, 5)
        elif spelling.startswith("edges:"):
            edges = tuple(float(edge) for edge in spelling[6:].split(","))
            clock = Shared(base, edges[-1], edges=edges)
        else:
            end, blocks = spelling.split(",")
            clock = Shared(base, float(end), int(blocks))
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"--etsdm {spelling!r} is neither END,BLOCKS such as 100,5 nor edges:0,5,15,40,100") from error
    if not base.holds(clock.bounds):
        raise UsageError(
            f"--etsdm {spelling!r} has edges {clock.bounds} where timesteps go from {first:g} to {final:g}: "
            "give edges between these"
        )
    if base.discrete and not clock.edges and (clock.end - first) % clock.blocks:
        raise UsageError(
            f"--etsdm {spelling!r}: {abs(clock.end - first):g} timesteps do not divide into {clock.blocks} equal "
            "blocks; choose numbers that do, or give edges:0,...,END"
        )
    return dataclasses.replace(recipe, clock=spell(clock))
