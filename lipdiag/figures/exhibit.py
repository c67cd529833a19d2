"""What a singularity figure shows, before anything is drawn: curves, theory, the data rows and the caption."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..findings.theory import Theory, theory
from ..printing import Row
from ..results.curve import QUOTIENTS, Curve, curves
from ..results.run import Run
from . import captions

ANCHOR = 0.1
"""The t at which the curve for smooth data, whose height theory leaves open, is put onto the measured one."""

POINT_DATA, SMOOTH_DATA = "theory, point data", "theory, smooth data"
SYMBOLS = {
    "time_difference": r"$K(t,\,t^\prime)$",
    "time_derivative": r"$\|\partial_t\,\epsilon_\theta\|_2$",
    "embedding_difference": r"$\|\Delta e\|_2\,/\,|\Delta t|$",
}


def symbol(run: Run, variable: str) -> str:
    """A variable in formulas, where it has one."""
    if variable == "time_difference" and run.discrete and run.step == 1:
        return r"$K(t,\,t{+}1)$"
    return SYMBOLS.get(variable, variable)


@dataclass(frozen=True)
class Exhibit:
    """Curves of one variable, with what the target of training would show at the first run's timesteps.

    Attributes:
        curves: One a run.
        target: None where the first run does not tell enough.
        between: The same on a finer grid, as it is drawn.
        scale: Height of the curve for smooth data; NaN where nothing was measured beyond the anchor.
    """

    curves: list[Curve]
    target: Theory | None = None
    between: Theory | None = None
    scale: float = np.nan

    @property
    def first(self) -> Run:
        return self.curves[0].run

    @property
    def variable(self) -> str:
        return self.curves[0].variable

    @property
    def shared(self) -> list[Run]:
        return [curve.run for curve in self.curves if curve.run.shared]

    @property
    def bounded(self) -> bool:
        """Whether any mean has an interval, which takes two draws."""
        return any(np.isfinite(curve.statistics.high[~curve.zero]).any() for curve in self.curves)

    @property
    def symbol(self) -> str:
        return symbol(self.first, self.variable)

    @property
    def zoom(self) -> float:
        return max(curve.run.zoom for curve in self.curves)

    @property
    def lines(self) -> dict[str, np.ndarray]:
        """Theory: name -> values at the first run's timesteps."""
        return self.named(self.target)

    def named(self, theory: Theory | None) -> dict[str, np.ndarray]:
        """The curves of theory by name, that for smooth data at its height."""
        if theory is None:
            return {}
        smooth = {SMOOTH_DATA: self.scale * theory.schedule} if np.isfinite(self.scale) else {}
        return {POINT_DATA: theory.points, **smooth}

    def rows(self) -> list[Row]:
        """The drawn numbers: every curve's, then the theory's."""
        rows = [row for curve in self.curves for row in curve.rows()]
        for series, values in self.lines.items():
            for i, value in enumerate(values):
                row: Row = {"series": series, "variable": self.variable, "kind": "theory"}
                row |= {name: float(self.first.time(name)[i]) for name in ("timestep", "t", "sigma", "logsnr")}
                rows.append({**row, "mean": float(value)})
        return rows

    def sentences(self) -> list[str]:
        """The caption's: what is drawn, of what, in which norm and unit, from how many draws."""
        shared = [sentence for curve in self.curves for sentence in blocks(curve)]
        return [*self._measured(), *shared, *self._theory()]

    def _measured(self) -> list[str]:
        first = self.first
        bands = f"dark bands: {captions.INTERVAL}; " if self.bounded else ""
        if self.variable == "time_difference":
            what = "K(t, t') = |eps(x_t, t) - eps(x_t, t')|_2 / |t - t'| with x_t noised to level t and "
            what += f"t' = t + {first.step:g} in timesteps" if first.step else "t' a thousandth of the time axis later"
        else:
            what = "|d eps(x_t, t) / dt|_2, the partial derivative of the noise prediction in the timestep at fixed x_t"
            if first.discrete:
                what += " (between the integer timesteps of training it is the network's interpolation)"
        return [
            f"Rate of change of the noise prediction in time: {what}",
            f"{captions.norm(first)}, unit {first.unit}{captions.own_time(first)}",
            f"Lines: mean of {captions.of_curves(self.curves)}; {bands}light bands: 5 to 95 % of the draws",
        ]

    def _theory(self) -> list[str]:
        if self.target is None:
            return []
        difference = self.variable == "time_difference"
        formula = "sqrt(d) |1 - sigma_t / sigma_t'| / |t - t'|" if difference else "sqrt(d) sigma' / sigma"
        sentence = "Grey, theory of the training target, not of the network: dashed, isolated data points in "
        sentence += f"d = {self.first.dimension} dimensions, {formula}"
        if not self.first.variance_preserving and np.ptp(self.first.time("alpha")) > 0:
            sentence += " (the noise's part; the data add |alpha' x0| / sigma)"
        if SMOOTH_DATA in self.lines:
            sentence += "; dotted, smooth data, the schedule's own factor sigma' "
            sentence += f"scaled to {self.first.label} at t = {ANCHOR:g}"
        return [sentence]


def blocks(curve: Curve) -> list[str]:
    """What sharing did to a curve."""
    run, sentences = curve.run, []
    if run.shared and (curve.jump.any() or curve.zero.any()):
        sentence = (
            f"{run.label} shares its timestep in the {len(run.edges) - 1} shaded blocks below {run.end:g}: inside "
        )
        sentence += "a block the value is exactly 0 by construction"
        if curve.jump.any():
            sentence += ", and the large markers are the jumps from one block to the next"
        sentences.append(sentence)
    if run.missing_jumps and curve.variable in QUOTIENTS:
        sentences.append(f"Not measured: {run.label}'s jumps at timesteps {', '.join(map(str, run.missing_jumps))}")
    return sentences


def gather(runs: Sequence[Run], variable: str | None = None, show_theory: bool = True) -> Exhibit:
    """What is to be shown of some runs.

    Args:
        runs: Whose time is counted in the same unit.
        variable: The variable to draw; by default the difference quotient where all have it, else the derivative.
        show_theory: Whether to draw what the target of training would show.
    """
    each = curves(list(runs), variable)
    target, between = (theory(each[0].run, each[0].variable, fine) if show_theory else None for fine in (False, True))
    return Exhibit(each, target, between, anchor(each[0], target) if target else np.nan)


def anchor(curve: Curve, target: Theory) -> float:
    """Height of the curve for smooth data: through the first measured point beyond the anchor, no zero and no jump."""
    usable = (curve.run.time("t") > ANCHOR) & curve.line & (curve.statistics.mean > 0) & (target.schedule > 0)
    if not usable.any():
        return np.nan
    first = int(usable.argmax())
    return float(curve.statistics.mean[first] / target.schedule[first])
