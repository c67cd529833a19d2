"""What a dataset says about itself: its name, its time axis, the blocks its clock shares.

A point of the difference quotient K(t, t') is a *jump* where t and t' lie in different blocks of a shared clock:
there, and only there, an E-TSDM model changes below the end of its last block. Everything is read from coordinates
and attributes; no model is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RunError, UsageError
from ..files import mapping
from ..printing import counted
from ..text import printable
from .clock import recorded, second_times, sharing
from .command import again
from .distribution import Statistics, over_draws
from .label import IN_MEMORY, label_of, labels_for, unique

if TYPE_CHECKING:
    import xarray as xr

COORDINATES = ("timestep", "t", "alpha", "sigma", "logsnr", "dt_dtimestep", "dlogsnr_dtimestep")
LEAST_RATE = 1e-9
"""A timestep takes at least so much of unit time: no table has more timesteps than one over it."""

ZOOM = 0.15
"""Share of the time axis near t = 0 that is shown enlarged: 150 of 1000 timesteps."""

LEAST_ENLARGED = 8
"""The fewest times of a continuous model in the enlarged part."""

ZOOM_PAST_BLOCKS = 1.5
NOUGHT = 3.0
"""How many times further left than the first other timestep a logarithmic axis shows time 0."""


@dataclass(frozen=True)
class Run:
    """A dataset with what figures and tables need to know of it.

    Attributes:
        dataset: What `measure` returned.
        label: To call it in legends and tables.
        clock: Of the model without sharing, as it is spelled; empty where unknown.
        edges: Of the blocks that share a timestep, the end included; empty for a model without.
    """

    dataset: "xr.Dataset"
    label: str
    clock: str
    edges: tuple[float, ...]

    @property
    def shared(self) -> bool:
        return bool(self.edges)

    @property
    def end(self) -> float:
        """Where sharing ends."""
        return self.edges[-1] if self.edges else 0.0

    @cached_property
    def direction(self) -> int:
        """+1 where the model's own time rises from data to noise, -1 where it falls."""
        return -1 if self.time("dt_dtimestep")[0] < 0 else 1

    def before(self, end: float) -> np.ndarray:
        """Which timesteps are nearer to the data than one."""
        return (self.timestep - end) * self.direction < 0

    @cached_property
    def variance_preserving(self) -> bool:
        return bool(np.allclose(self.time("alpha") ** 2 + self.time("sigma") ** 2, 1, atol=1e-6))

    @property
    def discrete(self) -> bool:
        """Whether the model's time is an index."""
        return self.clock.startswith("timesteps")

    @property
    def index(self) -> bool:
        """Whether it is one, counted from the data on or from the noise."""
        return self.clock.startswith(("timesteps", "reversed(timesteps"))

    @property
    def frozen(self) -> dict[str, Any]:
        """The run's frozen description."""
        return mapping(self.dataset.attrs.get("frozen"))

    @property
    def model(self) -> dict[str, Any]:
        return mapping(self.frozen.get("model"))

    @property
    def plan(self) -> dict[str, Any]:
        """The plan on record, its timesteps told one by one."""
        return mapping(self.frozen.get("plan"))

    @property
    def raw(self) -> bool:
        """Whether the network's own output was measured, in the place of the predicted noise."""
        return self.model.get("function") == "raw"

    def remarks(self, kind: str) -> list[str]:
        """Its `warnings`, which may change the meaning of its numbers, or its `notes`, facts of how it was measured."""
        texts = self.dataset.attrs.get(kind)
        return [printable(text) for text in texts if isinstance(text, str)] if isinstance(texts, list) else []

    @property
    def over_logsnr(self) -> bool:
        """Whether log-SNR stands in the place of the model's own time."""
        return self.dataset.attrs.get("axis") == "logsnr"

    @property
    def output(self) -> str:
        """The letter of what was measured."""
        return "f" if self.raw else "eps"

    @property
    def checkpoint(self) -> str:
        """What to give to `lipdiag measure` to measure this model again."""
        known = str(self.dataset.attrs.get("checkpoint") or IN_MEMORY)
        return "CKPT" if known == IN_MEMORY else known

    @property
    def path(self) -> str | None:
        """The folder it was opened from, as it was spelled; None of a run in memory."""
        known = self.dataset.encoding.get("source")
        return None if known is None else printable(str(known))

    @property
    def data(self) -> str:
        """What x0 was."""
        return str(self.dataset.attrs.get("data") or mapping(self.frozen.get("data")).get("name") or "unknown data")

    @property
    def dimension(self) -> int | None:
        """Numbers in a sample."""
        shape = self.model.get("shape")
        return int(np.prod(shape)) if shape else None

    @property
    def own_unit(self) -> str:
        """What one timestep is: `timestep`, `t`, `0.25 log(sigma/alpha)`."""
        return str(self.dataset["timestep"].attrs.get("units") or "timestep")

    @property
    def own_time(self) -> str:
        """What a timestep is, to be said where the unit does not."""
        return "" if self.own_unit.isidentifier() else f"a timestep is {self.own_unit}"

    @property
    def unit(self) -> str:
        """The unit of a derivative in the model's own time."""
        return f"1/{self.own_unit}" if self.own_unit.isidentifier() else "1/timestep"

    def time(self, name: str) -> np.ndarray:
        """A coordinate along time."""
        return np.asarray(self.dataset[name].values, dtype=np.float64)

    @cached_property
    def timestep(self) -> np.ndarray:
        return self.time("timestep")

    @cached_property
    def count(self) -> float:
        """Timesteps of a whole index axis.

        Raises:
            RunError: If the run's record of it cannot be.
        """
        rate = float(self.time("dt_dtimestep")[0])
        if not self.discrete:
            return 1.0
        if not LEAST_RATE <= abs(rate) <= 1:
            raise RunError(
                f"{self.label} is damaged: its dt_dtimestep begins with {rate:g}, where a table has one over the "
                "number of its timesteps; measure it again"
            )
        return round(1 / rate)

    @cached_property
    def x(self) -> np.ndarray:
        """Where the timesteps lie on a logarithmic axis, time 0 among them."""
        return self.logarithmic(self.position(self.timestep))

    @cached_property
    def nought(self) -> float | None:
        """Where on a logarithmic axis time 0 lies, left of all others; None if it was not measured."""
        places = self.position(self.timestep)
        positive = places[places > 0]
        return None if positive.size == places.size else float(positive.min(initial=1.0)) / NOUGHT

    def logarithmic(self, places: np.ndarray) -> np.ndarray:
        """Places on a logarithmic axis: their own, that of time 0, and none for what is between these."""
        if self.nought is None:
            return places
        return np.where(places == 0, self.nought, np.where(places > self.nought, places, np.nan))

    def position(self, timestep: np.ndarray) -> np.ndarray:
        """A timestep in numbers that a logarithmic axis can show, but for 0: index + 1, the noise level, or t."""
        if self.discrete:
            return np.asarray(timestep, dtype=np.float64) + 1
        order = np.argsort(self.timestep)
        along = np.exp(-self.time("logsnr") / 2) if self.by_noise else self.time("t")
        return np.asarray(np.interp(timestep, self.timestep[order], along[order]))

    @property
    def by_noise(self) -> bool:
        """Whether the model's time is the noise-to-signal ratio or a function of it."""
        return self.clock.startswith(("sigma", "log_sigma", "log_snr"))

    @property
    def axis(self) -> str:
        """Label of the axis that `position` is on."""
        if self.discrete:
            return "timestep + 1"
        return r"noise-to-signal ratio $\sigma/\alpha$" if self.by_noise else "time $t$ (0 = data, 1 = noise)"

    @property
    def zoom(self) -> float:
        """Where the enlarged part of the axis ends, in timesteps for an index, in t, or in x over log-SNR."""
        if not self.discrete:
            along, share = (self.x, 0.0) if self.over_logsnr else (self.time("t"), ZOOM)
            return max(share, float(np.sort(along)[min(LEAST_ENLARGED, self.timestep.size) - 1]))
        return max(ZOOM * self.count, ZOOM_PAST_BLOCKS * self.end, float(self.timestep.min()))

    @property
    def step(self) -> float | None:
        """Distance of the two times of K in timesteps; None where it is a thousandth of unit time instead."""
        step = self.plan.get("step")
        return (1.0 if self.index else None) if step is None else float(step)

    @cached_property
    def other(self) -> tuple[np.ndarray, np.ndarray]:
        """The second times of K, as timesteps and as t: on record, or worked out where a run is older than that."""
        if {"other_timestep", "other_t"} <= set(self.dataset.variables):
            return self.time("other_timestep"), self.time("other_t")
        axis = self.timestep, self.time("t"), self.time("dt_dtimestep")
        return second_times(*axis, self.step, self.count if self.discrete else None)

    def block(self, timestep: np.ndarray) -> np.ndarray:
        """Which block each timestep lies in; -1 outside of all."""
        if not self.edges:
            return np.full(np.shape(timestep), -1)
        edges, place = self.direction * np.array(self.edges), self.direction * timestep
        nearest = np.searchsorted(edges[:-1], place, side="right") - 1
        return np.where(place < edges[-1], np.maximum(nearest, 0), -1)

    @cached_property
    def jumps(self) -> np.ndarray:
        """Where the two times of K lie in different blocks."""
        return self.block(self.timestep) != self.block(self.other[0])

    @cached_property
    def missing_jumps(self) -> tuple[int, ...]:
        """Last timesteps of blocks at which K was not measured."""
        if not self.discrete:
            return ()
        last = [int(edge) - 1 for edge in self.edges[1:]]
        return tuple(k for k in last if k not in self.timestep)

    @cached_property
    def all_jumps(self) -> bool:
        """Whether K was measured across the end of every block; where not, its largest value is not known."""
        if self.discrete:
            return not self.missing_jumps
        times = self.direction * np.stack([self.timestep, self.other[0]])
        ends = [end for end in self.direction * np.array(self.edges[1:]) if end <= times.max()]
        return all(((times.min(0) < end) & (times.max(0) >= end)).any() for end in ends)

    def has(self, variable: str) -> bool:
        return variable in self.dataset.data_vars and not (self.raw and variable == "denoising_bound")

    def demand(self, variables: Sequence[str], quantity: str, options: str = "") -> None:
        """Refuse, with the command that helps, a run that lacks variables.

        Args:
            variables: Names in the dataset.
            quantity: What to ask `lipdiag measure` for.
            options: More of that command, each with a space before it.

        Raises:
            UsageError: If one is missing.
        """
        for variable in variables:
            if not self.has(variable):
                asked = again(self.dataset, f"--quantity {quantity}{options}")
                raise UsageError(f"{self.label} has no {variable}; measure it with `{asked}`")

    @property
    def draws(self) -> str:
        """How many draws are done at each timestep, or from how few to how many, in words."""
        count = (self.dataset["done"] == 1).sum("draw").values
        return counted(count.max(), "draw") if count.min() == count.max() else f"{count.min()} to {count.max()} draws"

    def values(self, variable: str) -> np.ndarray:
        """(time, draw) numbers; NaN where a draw is not done."""
        return np.asarray(self.dataset[variable].where(self.dataset["done"] == 1).values, dtype=np.float64)

    def statistics(self, variable: str) -> Statistics:
        """Statistics of a variable over the draws that are done."""
        done, numbers = self.dataset["done"], self.dataset[variable]
        last = [*(name for name in numbers.dims if name != "draw"), "draw"]
        kept = (done.broadcast_like(numbers) == 1).transpose(*last)
        return over_draws(numbers.transpose(*last).values, kept.values)


def read(datasets: "Sequence[xr.Dataset]", labels: Sequence[str] | None = None) -> list[Run]:
    """Runs from datasets.

    Args:
        datasets: What `measure` returned.
        labels: What to call them; by default the checkpoints' names.

    Raises:
        UsageError: If there is none, one is no run, or none of its draws is done.
    """
    import xarray as xr

    datasets = [datasets] if isinstance(datasets, xr.Dataset) else list(datasets)
    if not datasets:
        raise UsageError("there is no run to show; give at least one dataset, as lipdiag.measure returns it")
    labels = labels_for(labels, len(datasets))
    runs: list[Run] = []
    for number, dataset in enumerate(datasets):
        if not isinstance(dataset, xr.Dataset):
            raise UsageError(
                f"cannot show a {type(dataset).__name__}: give datasets, as lipdiag.measure and lipdiag.open_run return"
            )
        missing = [name for name in (*COORDINATES, "done") if name not in dataset.variables]
        if missing:
            lacking = ", ".join(missing)
            raise UsageError(f"this dataset is no lipdiag run, it lacks {lacking}; make one with lipdiag.measure")
        model = mapping(mapping(dataset.attrs.get("frozen")).get("model"))
        base, edges = sharing(str(model.get("clock") or ""))
        edges = recorded(dataset.attrs.get("edges"), edges)
        named = label_of(dataset.attrs.get("checkpoint"), bool(edges), model.get("function") == "raw")
        label = labels[number] if labels is not None else unique(named, [run.label for run in runs])
        if not (dataset["done"] == 1).any():
            raise UsageError(f"{label} has no finished draws yet; go on with the `lipdiag measure` that began it")
        runs.append(Run(dataset, label, base, edges))
    return runs
