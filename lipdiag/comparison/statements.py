"""Statements about whole curves and about samples: one number of each model, and what can be said of the second's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..results.run import Run
from .effect import Effect, mean, over_draws, over_pairs, verdict
from .pairs import Pair, effect, values
from .quality import METRICS, Quality
from .weights import Part, edge_weights, end_of, mean_weights, parts, peak_weights, total_weights

LEVEL = 0.95
SPEED = "time_difference"
NAMES = {SPEED: "K", "loss": "loss", "sensitivity": "sensitivity", "spectral_norm": "sp. norm"}
"""Variables that are compared, and what to call them."""

BY_DIFFERENCE = frozenset({"loss", *METRICS})
"""What is judged by the difference; all else by the ratio."""

Weights = Callable[[Run], np.ndarray]


@dataclass(frozen=True)
class Statement:
    """One number in which two models are compared.

    Attributes:
        name: What the number is.
        variable: The variable of the run or of the evaluation that it is made of.
        effect: How it differs between the models.
    """

    name: str
    variable: str
    effect: Effect

    @property
    def by_ratio(self) -> bool:
        return self.variable not in BY_DIFFERENCE

    @property
    def verdict(self) -> str:
        """What is true of the second model: `lower`, `higher` or `no difference shown`."""
        return verdict(self.effect, self.by_ratio)


def weighed(pairs: Sequence[Pair], variable: str, name: str, weights: Weights) -> Statement:
    """The statement about a weighed sum over timesteps, of every draw that has all of them."""

    def number(run: Run) -> np.ndarray:
        w = weights(run)
        return w[w != 0] @ values(run, variable)[w != 0]

    return Statement(f"{NAMES[variable]}{name}", variable, effect(pairs, number, LEVEL))


def averages(pairs: Sequence[Pair], variable: str) -> list[Statement]:
    """Means below the end of sharing and from there on."""
    first = pairs[0][0]

    def of(part: Part) -> Statement:
        return weighed(pairs, variable, f" {part.name}", lambda run: mean_weights(run, part))

    return [of(part) for part in parts(first, end_of(*pairs[0]))]


def speeds(pairs: Sequence[Pair]) -> tuple[list[Statement], list[str]]:
    """Statements on K: its sum below the end of sharing, its mean, its largest value, and that at the edges of blocks.

    Returns:
        Statements, and sentences about those that cannot be made.
    """

    def means(run: Run) -> np.ndarray:
        return mean(values(run, SPEED))

    a, b = pairs[0]
    said, missing = [], []
    if a.discrete:
        runs = [run for pair in pairs for run in pair]
        first, last = int(np.ceil(a.timestep.min())), int(a.timestep.max())
        everything = Part(
            "of all" if last == a.count - 1 and first == 0 else f"{first}-{last}", a.timestep >= 0, first, last
        )
        below = [part for part in parts(a, end_of(a, b)) if part.first < end_of(a, b)]
        for part, what in [*((part, "sum") for part in below), (everything, "mean")]:
            if all(total_weights(run, means(run), part) is not None for run in runs):
                size = part.size if what == "mean" else 1

                def weights(run: Run, part: Part = part, size: int = size) -> np.ndarray:
                    total = total_weights(run, means(run), part)
                    assert total is not None
                    return total / size

                said.append(weighed(pairs, SPEED, f", {what} {part.name}", weights))
            else:
                missing.append(f"no {what} of K {part.name}: {unsummed(runs)}")
    elif not (a.shared or b.shared):
        said += averages(pairs, SPEED)
    blind = [run for pair in pairs for run in pair if not run.all_jumps]
    if blind:
        missing.append(f"no largest K: {unsummed(blind)}")
    else:
        said.append(weighed(pairs, SPEED, ", largest", lambda run: peak_weights(means(run))))
    at = a.jumps | b.jumps
    if at.any():
        many = len(set((a if a.shared else b).edges)) - 1
        where = f" at the {many} edges" if at.sum() == many else f" at {at.sum()} of {many} edges"
        said.append(weighed(pairs, SPEED, where, lambda run: edge_weights(at)))
    elif a.shared or b.shared:
        missing.append(f"no K at the edges of blocks: {unsummed([a, b])}")
    return said, missing


def unsummed(runs: Sequence[Run]) -> str:
    """Why K cannot be summed, and what would help."""
    for run in runs:
        if not run.discrete and not run.all_jumps:
            return f"{run.label}'s jumps were not all measured; measure both with times across every edge of its blocks"
        if run.discrete and run.step != 1:
            return f"its two times are {run.step:g} timesteps apart; measure both with --step 1"
        if run.missing_jumps:
            places = ",".join(map(str, run.missing_jumps))
            return f"{run.label}'s jumps at {places} were not measured; measure both with these among the --timesteps"
    return "it is not 0 inside shared blocks, so that it is no sum of jumps; measure both with every timestep"


def of_samples(quality: Quality) -> list[Statement]:
    """Each distance with each sampler: over sampling seeds of one pair, or over the means of several."""
    said = []
    for metric, name in METRICS.items():
        numbers = quality.values[metric]
        for i, sampler in enumerate(quality.samplers):
            a, b = numbers[:, 0, i], numbers[:, 1, i]
            paired = over_draws(a[0], b[0], LEVEL) if len(numbers) == 1 else over_pairs(mean(a), mean(b), LEVEL)
            said.append(Statement(f"{name} {sampler}", metric, paired))
    return said
