"""Which times a sampler should ask a model at: the choice between grids, and how to say it to other tools.

A grid is chosen by its endpoint error on one half of some draws and judged on the other half, in pairs, against every
common grid. Nothing is called better unless the 95 % interval of the ratio of mean errors to that of the best common
grid says so; where none is better, the best common one is the advice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..printing import Row, plain
from ..statistics import Estimate, mean, ratio
from ..view import View
from .words import Words

DIGITS = 6
SCHEDULERS = {
    "ddim": "EulerDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm": 'DPMSolverMultistepScheduler, final_sigmas_type="zero"',
}
"""What takes such times in diffusers, and steps as the sampler does."""

FLOW = "FlowMatchEulerDiscreteScheduler"
LEAST_CERTAIN = 3.0
"""How many times the doubt about the reference an error is, from which on it says something."""

PART = 0.1
"""A last step is short enough where it costs this part of the whole error."""

UNIFORM = "uniform"
ROUNDING = 1e-9
"""So near to 1 a ratio is 1."""


@dataclass(frozen=True)
class Choice:
    """A grid for one number of steps.

    Attributes:
        steps: How many.
        name: Of the grid that is advised: `advised`, or a common one where no other is better.
        t: Its times, from noise to data.
        best: The common grid with the least error over all draws.
        uniform: The uniform one with the least.
        judged: Endpoint errors of every grid, the fitted one last, on the draws that judge.
        against_best: Ratio of the error of the fitted grid to the best common grid's, over the draws in pairs.
        against_uniform: Ratio of the advised grid's error to the best uniform grid's.
    """

    steps: int
    name: str
    t: np.ndarray
    best: str
    uniform: str
    judged: Mapping[str, np.ndarray]
    against_best: Estimate
    against_uniform: Estimate

    @property
    def errors(self) -> dict[str, Estimate]:
        """Mean endpoint error of every grid."""
        return {name: mean(values) for name, values in self.judged.items()}

    @property
    def better(self) -> bool:
        """Whether the fitted grid is better than every common one, its interval included."""
        return better(self.against_best)


def better(against: Estimate) -> bool:
    """Whether a ratio of errors is below 1, its interval included."""
    return bool(against.high < 1 - ROUNDING)


def choose(
    steps: int, grids: Mapping[str, np.ndarray], fitted: Mapping[str, np.ndarray], judged: Mapping[str, np.ndarray]
) -> Choice:
    """The advice between common grids and one that was fitted, the last one.

    Args:
        steps: Of each.
        grids: Their times.
        fitted: Endpoint errors of the draws that the last grid was fitted on.
        judged: Those of other draws.
    """
    *usual, ours = grids

    def error(name: str) -> float:
        return float(np.concatenate([fitted[name], judged[name]]).mean())

    best = min(usual, key=error)
    uniform = min((name for name in usual if name.startswith(UNIFORM)), key=error)
    against = ratio(judged[ours], judged[best])
    name = ours if better(against) else best
    return Choice(steps, name, grids[name], best, uniform, judged, against, ratio(judged[name], judged[uniform]))


@dataclass(frozen=True, repr=False)
class StepsAdvice(View):
    """Grids for several numbers of steps, and what they rest on.

    Attributes:
        model: What was sampled.
        sampler: How.
        choices: A number of steps each.
        told: Each grid as the model's own timesteps.
        sigmas: Each as sigma / alpha, or as t on the straight path, as other tools take it.
        whole: Whether the timesteps are whole numbers of a table.
        flow: Whether the schedule is the straight path.
        doubt: What is not known of the reference.
        last: Timesteps, and the error of one step to the data from each, from noise to data.
        draws: That judged; as many others fitted.
        notes: What a reader of the numbers has to know.
    """

    model: str
    sampler: str
    choices: tuple[Choice, ...]
    told: tuple[np.ndarray, ...]
    sigmas: tuple[np.ndarray, ...]
    whole: bool
    flow: bool
    doubt: float
    last: tuple[np.ndarray, np.ndarray]
    draws: int
    notes: tuple[str, ...] = ()

    def timesteps(self, number: int) -> list[float]:
        """A grid in the model's own time."""
        values = self.told[number].tolist()
        return [round(value) for value in values] if self.whole else [float(f"{value:.{DIGITS}g}") for value in values]

    def levels(self, number: int) -> list[float]:
        """A grid as sigmas, the data's 0 included."""
        return [*(float(f"{sigma:.{DIGITS}g}") for sigma in self.sigmas[number]), 0.0]

    def last_step(self, number: int) -> tuple[float, float]:
        """The error of a grid's last step by itself, and the noisiest timestep from which it would be small."""
        times, errors = self.last
        own = self.told[number][-1]
        order = np.argsort(times)
        here = float(np.interp(own, times[order], errors[order]))
        choice = self.choices[number]
        short = errors <= PART * choice.errors[choice.name].value
        return here, float(times[np.argmax(short)] if short.any() else times[-1])

    def code(self, number: int) -> dict[str, str]:
        """A grid to be pasted, by the tool that takes it."""
        sigmas = ", ".join(f"{level:g}" if level else "0.0" for level in self.levels(number))
        steps = self.choices[number].steps
        pasted = {}
        if self.flow:
            given = sigmas.rpartition(",")[0]
            pasted[f"diffusers ({FLOW})"] = f"pipe(..., num_inference_steps={steps}, sigmas=[{given}])"
        elif self.whole:
            given = ", ".join(map(str, self.timesteps(number)))
            known = f"diffusers ({SCHEDULERS[self.sampler]})"
            pasted[known] = f"pipe(..., num_inference_steps={steps}, timesteps=[{given}])"
        pasted["k-diffusion's sigmas, ComfyUI's ManualSigmas"] = sigmas
        return pasted

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        grids = []
        for number, choice in enumerate(self.choices):
            here, short = self.last_step(number)
            grids.append(
                {
                    "steps": choice.steps,
                    "grid": choice.name,
                    "better": choice.better,
                    "timesteps": self.timesteps(number),
                    "sigmas": self.levels(number),
                    "best_common": choice.best,
                    "against_best_common": choice.against_best.to_dict(),
                    "against_uniform": choice.against_uniform.to_dict(),
                    "errors": {name: error.to_dict() for name, error in choice.errors.items()},
                    "last_step_error": here,
                    "last_step_from": short,
                    "code": self.code(number),
                }
            )
        return {
            "model": self.model,
            "sampler": self.sampler,
            "draws": self.draws,
            "reference_error": self.doubt,
            "notes": list(self.notes),
            "grids": grids,
        }

    def rows(self) -> list[Row]:
        """A row a grid that was tried at a number of steps, with its error and that error's interval."""
        return [
            {
                "steps": choice.steps,
                "grid": name,
                "advised": int(name == choice.name),
                "error": error.value,
                "low": error.low,
                "high": error.high,
            }
            for choice in self.choices
            for name, error in choice.errors.items()
        ]

    def __str__(self) -> str:
        return str(words(self))

    def _repr_html_(self) -> str:
        return words(self).page()


def words(advice: StepsAdvice) -> Words:
    """An advice on steps in words."""
    said = [
        f"{advice.model}, {advice.sampler}: error of the samples against a fine solution of the same trajectories "
        f"(known to {plain(advice.doubt)}), root mean square an entry, mean over {advice.draws} draws [95 % interval]; "
        f"the advised grids were fitted on {advice.draws} others.",
        *advice.notes,
    ]
    rows = [("steps", "fitted grid", "best common grid", "", "fitted / best common")]
    notes, code = [], []
    for number, choice in enumerate(advice.choices):
        *_, ours = choice.errors
        error, best = choice.errors[ours], choice.errors[choice.best]
        against = str(choice.against_best).partition(", n")[0]
        rows.append((str(choice.steps), plain(error.value), plain(best.value), choice.best, against))
        notes.append(verdict(advice, number))
        for tool, line in advice.code(number).items():
            code.append((f"{choice.steps} steps, {tool}", line))
    caution = (
        "An error against the model's own trajectories is not a distance between samples and data: compare those too."
    )
    return Words(said, rows, notes, code, caution)


def verdict(advice: StepsAdvice, number: int) -> str:
    """What is advised for one number of steps, and what its last step costs."""
    choice = advice.choices[number]
    *_, ours = choice.errors
    steps = f"{choice.steps} steps"
    if choice.better:
        said = f"{steps}: take the {ours} grid"
    else:
        said = f"{steps}: no grid was found to be better than the best common one; take {choice.name}"
    error = choice.errors[choice.name].value
    if error < LEAST_CERTAIN * advice.doubt:
        said += " (errors are near what is not known of the reference)"
    here, short = advice.last_step(number)
    own = float(advice.told[number][-1])
    said += f". Its last step, from {own:.3g} to the data, costs {plain(here)} by itself"
    return f"{said}; one from {short:.3g} costs at most {PART:.0%} of the whole."
