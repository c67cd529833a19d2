"""Every check: a law of true models, how far from it is a fault, and what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..results.run import Run
from .laws import (
    Test,
    equation,
    excess,
    expansion,
    jump,
    nothing,
    order,
    size,
    speed,
    still,
    symmetry,
    told,
)

Tests = Callable[[Run, float], Iterator[Test]]


@dataclass(frozen=True)
class Check:
    """A law, and how far from it is a fault.

    Attributes:
        question: What it answers, in words that need no explanation.
        tests: Comparisons of a run with the threshold; None where the model itself has to be asked.
        quantities: What `measure` has to be asked for.
        variables: What they fill.
        threshold: How far.
        looks: What is compared with the threshold.
        remedy: What to do.
    """

    question: str
    tests: Tests | None
    quantities: tuple[str, ...]
    variables: tuple[str, ...]
    threshold: float
    looks: str
    remedy: str


SAMPLED = "look at the faults near the noise, at the schedule, and at the limit of x0 in sampling"
PREDICTED = ("stein_product", "stein_square", "loss")
CHECKS: dict[str, Check] = {
    "size": Check(
        "whether a multiple of its answer would do better",
        size, ("stein", "loss"), PREDICTED, 0.1,
        "share of the loss that a multiple of the answer would save, at most",
        "multiply the output as the slope says, or check the parameterization and the scale of data and output",
    ),
    "excess": Check(
        "whether it is as good as its Jacobian allows",
        excess, ("stein", "loss", "trace"), (*PREDICTED, "trace"), 0.1,
        "loss above 1 - sigma tr J / d, that of a model that is the best with its Jacobian, at most",
        "train longer at these timesteps, or check the weights",
    ),
    "order": Check(
        "whether it errs less where there is less noise",
        order, ("loss",), ("loss",), 1.1,
        "error in x0 over that at a noisier timestep, at most",
        "train at these timesteps: check how timesteps are drawn and weighed in training",
    ),
    "band": Check(
        "whether it errs less where there is less noise, between the timesteps of the run",
        None, (), (), 1.1,
        "error over that in x0 at a little noisier timestep, of 128, and over that of a guess from mean and variance, "
        "at most",
        "train at these timesteps: check how timesteps are drawn and weighed in training",
    ),
    "scale": Check(
        "whether all that it predicts has the right scale",
        None, (), (), 0.05,
        "by how much the slope of what should be predicted on what is differs from 1 in every part of time, at most",
        "multiply the output as the slope says, or check the parameterization and the scale of data and output",
    ),
    "nothing": Check(
        "whether it beats an answer that is always 0",
        nothing, ("loss",), ("loss",), 1.1,
        "loss, which is 1 of a model that always answers 0, at most",
        "check that trained weights are loaded (averages too), and that this is a denoiser of these data",
    ),
    "expansion": Check(
        "whether its Jacobian keeps the bound of true models",
        expansion, ("one_sided_lipschitz",), ("denoising_bound",), 2.0,
        "sigma times the largest eigenvalue of the Jacobian's symmetric part, at most",
        "train longer at these timesteps, or check the weights; samplers may diverge there",
    ),
    "symmetry": Check(
        "whether its Jacobian is symmetric",
        symmetry, ("asymmetry",), ("asymmetry",), 0.5,
        "|J - J^T| over |J + J^T|, at most",
        "check the weights and that this is a denoiser: what it predicts is no gradient",
    ),
    "speed": Check(
        "whether K exceeds that of isolated points",
        speed, ("time_difference",), ("time_difference",), 3.0,
        "K over that of isolated points, at most",
        "condition on log-SNR or share these timesteps (`lipdiag advise`), and check the embedding of time",
    ),
    "jump": Check(
        "whether K jumps at a single timestep",
        jump, ("time_difference",), ("time_difference",), 5.0,
        "K over that of both neighbours, at most",
        "check what the network is told there: a table of times, or a band that was trained apart",
    ),
    "still": Check(
        "whether it tells timesteps apart",
        still, ("time_difference",), ("time_difference",), 0.5,
        "share of draws whose answer is the same at two timesteps to the last bit, at most",
        "embed timesteps in float32: cast after the embedding, not before",
    ),
    "told": Check(
        "whether it listens to its timestep",
        told, ("swap",), ("swap_loss",), 0.9,
        "loss told another timestep over that told its own, at least",
        "check what the network is told: clock, count of timesteps, and schedule",
    ),
    "shift": Check(
        "whether its timesteps are off by one",
        None, (), (), 0.4,
        "timesteps by which what the network is told is off, at most",
        "tell it so many timesteps less: indices that begin at 1, or a loop that is one off",
    ),
    "equation": Check(
        "whether its answers at different times are of one diffusion",
        equation, ("fokker_planck",), ("fokker_planck_residual",), 3.0,
        "squared residual of the Fokker-Planck equation, in units of the noise's own square, at most",
        "check schedule and clock, and how timesteps are weighed in training",
    ),
    "plateau": Check(
        "whether the embedding of time tells timesteps apart",
        None, (), (), 0.1,
        "share of neighbouring timesteps with the same embedding to the last bit, at most",
        "embed timesteps in float32: cast after the embedding, not before",
    ),
    "grain": Check(
        "whether the embedding of time is rounded",
        None, (), (), 0.1,
        "rounding of the embedding to half precision over its change from one timestep to the next, at most",
        "embed timesteps in float32, and leave autocast out of the embedding",
    ),
    "alias": Check(
        "whether far timesteps look alike to it",
        None, (), (), 0.05,
        "share of timesteps whose embedding is nearer to a far one's than half the way to a neighbour's, at most",
        "embed timesteps by lower frequencies too: the slowest must not come round within the whole time",
    ),
    "pace": Check(
        "whether its embedding of time is steady",
        None, (), (), 0.5,
        "change of the embedding to the next timestep over that between any two timesteps, at most",
        "embed timesteps by lower frequencies, or in the unit that the frequencies are made for (--clock)",
    ),
    "range": Check(
        "whether its samples keep to the range of the data",
        None, (), (), 0.05,
        "share of the numbers in samples that lie beyond the range of the data by a quarter of it, at most",
        SAMPLED,
    ),
    "power": Check(
        "whether its samples are as large as the data",
        None, (), (), 1.5,
        "root mean square of samples over that of the data, at most",
        SAMPLED,
    ),
    "copies": Check(
        "whether it learned its data by heart",
        None, (), (), 0.25,
        "share of samples that are near-copies of data, at most",
        "train on more data, for a shorter time, or with augmentation; give data that it was not trained on to compare",
    ),
}  # fmt: skip
"""Every check by name; the numbers are the thresholds. Where several find the same, the first cause is named."""
