"""What each module of a network makes of a change: how much it grows there, and where it dies.

The growth in a module is |dy| / |dx|, of the derivatives of what it returns and of what it is given along a direction;
its relative growth compares |dy| / |y| with |dx| / |x|, which the scale of a layer leaves alone. Both are geometric
means over timesteps and draws, with Student's interval of the logarithm over draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import RunError
from ..printing import Row, plain
from ..results.run import Run
from ..statistics import Estimate, Interval, student
from ..text import printable

NAMED = 4
"""Timesteps that are told one by one."""

SUFFIXES = {"the timestep": "", "x": "_x"}
"""What is changed, and how the variables end that tell what becomes of it."""


@dataclass(frozen=True)
class Modules:
    """What the modules of a run's network make of a change.

    Attributes:
        run: The run.
        of: What is changed: `the timestep` or `x`.
    """

    run: Run
    of: str

    @cached_property
    def names(self) -> list[str]:
        """What the modules are called, in the order in which they begin.

        Raises:
            RunError: If the run does not tell one for each.
        """
        output = self.run.dataset[f"module_output_derivative{SUFFIXES[self.of]}"]
        told = output.attrs.get("modules")
        if not isinstance(told, list) or output.dims != ("time", "draw", "module") or len(told) != output.shape[2]:
            raise RunError(f"{self.run.label} is damaged: it does not name its modules; measure it again")
        return [printable(str(name)) for name in told]

    @cached_property
    def leaf(self) -> np.ndarray:
        """Which modules have no other among them inside."""
        inner = [any(other.startswith(f"{name}.") for other in self.names) for name in self.names]
        return ~np.array(inner) & (np.array(self.names) != "whole network")

    def values(self, name: str) -> np.ndarray:
        """(time, module, draw) numbers; NaN where a draw is not done."""
        variable = self.run.dataset[name]
        done = (self.run.dataset["done"] == 1).broadcast_like(variable)
        kept = np.where(done.transpose(*variable.dims), variable, np.nan)
        return np.moveaxis(kept.astype(np.float64), 1, 2)

    def derivative(self, side: str) -> np.ndarray:
        return self.values(f"module_{side}_derivative{SUFFIXES[self.of]}")

    @cached_property
    def output(self) -> np.ndarray:
        return self.derivative("output")

    @cached_property
    def input(self) -> np.ndarray:
        return self.derivative("input")

    @cached_property
    def gain(self) -> Interval:
        """|dy| / |dx| of each module; NaN where nothing goes in, or out."""
        return geometric(quotient(self.output, self.input))

    @cached_property
    def share(self) -> Interval | None:
        """|dy| / |y| of each module's output; None where sizes were not measured."""
        if not self.run.has("module_output_norm"):
            return None
        return geometric(quotient(self.output, self.values("module_output_norm")))

    @cached_property
    def relative_gain(self) -> Interval | None:
        """The quotient of |dy| / |y| and |dx| / |x|."""
        if not self.run.has("module_output_norm"):
            return None
        sizes = quotient(self.values("module_output_norm"), self.values("module_input_norm"))
        return geometric(quotient(quotient(self.output, self.input), sizes))

    @cached_property
    def reached(self) -> np.ndarray:
        """Which modules are given something that moves."""
        return np.asarray((self.input > 0).any((0, 2)))

    @cached_property
    def dead(self) -> np.ndarray:
        """Which modules are given something that moves and return, in every draw, what does not."""
        return self.reached & ~(self.output > 0).any((0, 2))

    @property
    def graves(self) -> list[str]:
        """The innermost of the dead modules: where the change dies, of which those around it are dead too."""
        names = [name for name, dead in zip(self.names, self.dead, strict=True) if dead]
        return [n for n in names if n != "whole network" and not any(other.startswith(f"{n}.") for other in names)]

    @property
    def amplifier(self) -> int | None:
        """The module, without others inside, that amplifies most; None where nothing arrives anywhere."""
        gain = np.where(self.leaf, self.gain.value, np.nan)
        return int(np.nanargmax(gain)) if np.isfinite(gain).any() else None

    @property
    def when(self) -> str:
        """The timesteps over which all means go."""
        *others, last = [f"{k:g}" for k in self.run.timestep]
        if len(others) >= NAMED:
            return f"{len(others) + 1} timesteps from {others[0]} to {last}"
        return f"timesteps {', '.join(others)} and {last}" if others else f"timestep {last} alone"

    def sentence(self) -> tuple[str, Estimate] | None:
        """Where a change grows most and where it dies, in words, and the growth."""
        top = self.amplifier
        if top is None:
            return None
        median = float(np.nanmedian(self.gain.value[self.leaf]))
        value, low, high = (float(part[top]) for part in self.gain)
        grown = Estimate(value, low, high, int(np.isfinite(self.output).any((0, 1)).sum()))
        words = f"Inside the network a change of {self.of} grows most in {self.names[top]}, by a factor of {grown} "
        words += f"draws (geometric mean over {self.when}; the median module: {plain(median)})"
        words += f"; it dies in {', '.join(self.graves[:5])}" if self.graves else ""
        words += f" and {len(self.graves) - 5} more" if len(self.graves) > 5 else ""
        return f"{words}.", grown

    def rows(self) -> Iterator[Row]:
        """A row for each module: its growth with the interval, the relative one, and whether the change dies in it."""
        for i, name in enumerate(self.names):
            row: Row = {"series": self.run.label, "change": self.of, "place": i, "module": name}
            row |= {"leaf": int(self.leaf[i]), "reached": int(self.reached[i]), "dead": int(self.dead[i])}
            row |= {"mean": float(self.gain.value[i]), "low": float(self.gain.low[i]), "high": float(self.gain.high[i])}
            for key, estimate in (("relative_gain", self.relative_gain), ("relative_derivative", self.share)):
                if estimate is not None:
                    parts = zip(("", "_low", "_high"), estimate, strict=True)
                    row |= {f"{key}{part}": float(values[i]) for part, values in parts}
            yield row


def modules(run: Run) -> list[Modules]:
    """What the run tells of its network's modules: of the timestep, of x, of both, or of neither."""
    return [Modules(run, of) for of, end in SUFFIXES.items() if run.has(f"module_output_derivative{end}")]


def quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where one of them is 0, or not known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((above > 0) & (below > 0), above / below, np.nan)


def geometric(values: np.ndarray) -> Interval:
    """Geometric means of (time, module, draw) numbers over times and draws, of those that are known."""
    with np.errstate(invalid="ignore"):
        logs = np.log(values)
    known = np.isfinite(logs)
    count = known.sum(0)
    each = np.where(count > 0, np.where(known, logs, 0).sum(0) / np.maximum(count, 1), np.nan)
    return Interval(*map(np.exp, student(each, np.isfinite(each))))
