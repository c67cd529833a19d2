"""What the calibration of a network's conventions tells the doctor."""

import torch

from ..breakdown import of_the_device
from ..checkpoints.probe import ALPHA, DRAWS, MISREAD, Calibration, UnfiniteError, probe
from ..design.description import Source
from ..diffusion.predictor import Predictor
from ..files import shown
from .fault import Fault

KNOWN = 0.5
"""Share of the noise left unexplained, where x is hardly anything else, by what is no model of noise."""

NAMES = (
    ("parameterization", "wrong_prediction"),
    ("schedule", "wrong_schedule"),
    ("clock", "wrong_time"),
    ("scale", "wrong_range"),
)
"""What a convention is made of, and the fault where another is better."""


def conventions(predictor: Predictor, source: Source) -> tuple[list[Fault], list[str], list[str]]:
    """Faults, reasons to be undecided, and notes."""
    if source.fingerprint == "model":
        return [], ["there are no data but the model's own samples, which its loss says little of: give --data"], []
    if source.conditions:
        return [], ["whether prediction and time are told right was not tried: each x0 has conditions of its own"], []
    try:
        found = probe(predictor, torch.stack([source.sample(i) for i in range(DRAWS)]))
    except (UnfiniteError, RuntimeError, ValueError, IndexError, AssertionError) as error:
        if of_the_device(error):
            raise
        return [], [], [f"whether prediction, time, schedule and range are told right was not tried: {shown(error)}"]
    if found is None:
        return [], [], []
    notes = [note.removeprefix("calibration: ") for note in found.notes]
    if not found.right:
        return named(found, notes), [], []
    if found.trained or found.indistinct:
        return [], [], []
    if found.misread:
        return [], [MISREAD], []
    if found.error[-1] <= KNOWN:
        return [], notes, []
    evidence = (
        f"where x is noise almost alone, {found.error[-1]:.3g} of it is not found in any convention; a model that "
        "always answers 0 leaves 1"
    )
    remedy = "check that trained weights are loaded (averages too), and that this is a network that predicts noise"
    return [Fault("no_denoiser", (), evidence, remedy)], [], []


def named(found: Calibration, notes: list[str]) -> list[Fault]:
    """One fault for everything that the network is told or read wrongly."""
    stated, best = found.stated, found.best
    names = [name for attribute, name in NAMES if getattr(stated, attribute) != getattr(best, attribute)]
    shared = names == ["wrong_time"] and getattr(best.clock, "base", None) == stated.clock
    evidence, _, remedy = notes[0].partition("; ")
    return [
        Fault("shared_timesteps" if shared else name, (), evidence, remedy or evidence, None if shared else ALPHA)
        for name in names[:1]
    ]
