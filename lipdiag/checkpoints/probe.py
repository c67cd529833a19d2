"""Is a network told the right time, asked the right question, shown the right data? A calibration on noised data.

At a given log-SNR the noise in x cannot be told better than to its minimal mean squared error, whatever the coordinates
of x, and only a network that is used as it was trained comes near it. So every convention is tried on the same data
and noise at the same log-SNRs: what the network is told (index, [0, 1], 1000 [0, 1], sigma, log sigma, reversed), what
it predicts (one evaluation serves all), the schedule, the range of the data, a shared clock.

What the files say is the null hypothesis. The convention that seems best on some draws is tried against it on others,
so that it is one test however many conventions there are, at the error rate ALPHA. It must win by MARGIN, and explain
the data as a trained network does: better than a guess from their mean and variance, and no multiple of the network's
answers would do better still. For a network that was hardly trained does best in whatever convention makes least of its
answers; these are too small at first, which is not held against the convention that is stated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.clock import Clock, Shared, Timesteps
from ..diffusion.convention import (
    PREDICTIONS,
    Convention,
    changes,
    common_clocks,
    common_schedules,
    flags,
    natural_clocks,
    natural_predictions,
    other_range,
    rebuilt,
    unique,
)
from ..diffusion.predictor import NetworkPredictor, Predictor
from ..errors import CheckpointError
from ..statistics import student
from .trial import LEVELS, Trial

CHOICE, TEST = 8, 24  # draws on which a convention is chosen, and on which it is tested
DRAWS = CHOICE + TEST
PASSES = 45 * CHOICE * len(LEVELS)  # forward passes of one sample that a probe takes, about
FEW = 4  # samples of the data with fewer of which next to nothing is certain
ALPHA = 0.001  # how often chance alone may contradict the files
MARGIN = 0.1  # mean log error by which another convention must win for certain
PLAIN = 1.25  # times the guess's error: less is as good as it
LOUDEST = 3.0  # where the stated one's answers may be too small by so much, without blame
KNOWLEDGE = 0.15  # and by which it must be better than the guess
CLOSE = 0.02  # mean log error by which two conventions differ that are as good
BLOCK_LEVELS = (0.15, 0.35, 0.55, 0.75, 0.95)  # places inside a block of a shared clock
SOMETHING, NOTHING = 0.01, 0.04  # mean log error that telling block edges must gain, and may cost
SHARINGS = (0.1, 2), (0.2, 5), (0.1, 5), (0.1, 10)  # part of the table, and into how many blocks; the coarsest first

MISREAD = (
    "the model finds the noise in no common convention, but its answers together with x tell it, in some proportion at "
    "each noise level: it is read in another way than it was trained; check --parameterization, --schedule and --clock "
    "by the code that trained it"
)


@dataclass
class Calibration:
    """What the probe found.

    Attributes:
        stated: The convention that the files or the user gave.
        best: The one that is better for certain; `stated` itself where there is none.
        error: Mean squared error of the stated convention over that of the guess 0, per log-SNR in `levels`.
        best_error: Likewise of the best one, told its own time.
        levels: Log-SNRs.
        evaluations: Forward passes made on the draws of the choice, CHOICE x len(levels) samples each.
        trained: Whether the best convention explains more of the noise than a guess.
        indistinct: Whether it explains as much, at every level: the data are so plain that there is no more to find.
        gain: Mean log error by which the best one, or the likeliest, wins on the draws of the test; and by which for
            certain.
        samples: Samples of the data.
        misread: Whether it does not, but a sum of answer and x in some proportion at each level does.
        notes: All this for a reader, with the option that sets it right.
    """

    stated: Convention
    best: Convention
    error: list[float]
    best_error: list[float]
    levels: list[float]
    evaluations: int
    trained: bool
    indistinct: bool
    gain: tuple[float, float]
    samples: int
    misread: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether the stated convention stands."""
        return self.best == self.stated


class UnfiniteError(CheckpointError):
    """A model whose output is not finite on some of the data in whatever convention, so that none can be tried."""


def probe(predictor: Predictor, data: Float[Tensor, "n *event"], seed: int = 0) -> Calibration | None:
    """Compare the convention a network is used in with the common others, on data with known noise.

    Cost: `PASSES` forward passes of one sample, 48 at once, times as many noises as samples of fewer than 32 numbers
    need to have so many; no derivatives.

    Args:
        predictor: Around a network; any other kind is no subject of a probe and gives None.
        data: At least one sample as the model is to be shown it; the first DRAWS are used. With fewer there is less
            evidence, and with one there is none.
        seed: Of the noise.

    Raises:
        CheckpointError: If the output is not finite as the network is used, or of another shape.
    """
    if not isinstance(predictor, NetworkPredictor):
        return None
    # a sample that is given twice is one
    different = {sample.double().cpu().numpy().tobytes(): sample for sample in data[:DRAWS]}
    data = torch.stack(list(different.values()))
    fresh = CHOICE if len(data) == DRAWS else 0  # where there are enough, the test is on other data too
    choice = Trial(predictor, data, torch.arange(CHOICE, device="cpu") % len(data), seed)
    test = Trial(predictor, data, fresh + torch.arange(TEST, device="cpu") % (len(data) - fresh), seed + 1)
    stated = predictor.convention
    try_all(choice, stated, data)
    winner = chosen(choice, stated)
    if stated not in choice.errors:
        known = winner is not None and choice.learned(winner)
        hint = f"; use {flags(stated, winner)}" if winner is not None and known else ": check them, and the weights"
        kind = CheckpointError if winner is not None else UnfiniteError
        raise kind(
            f"the model's output is not finite with the schedule {stated.spelled['schedule']} and the clock "
            f"{stated.spelled['clock']}{hint}"
        )
    gain, certain = (0.0, 0.0), False
    if winner is not None and winner != stated and choice.learned(winner):
        gain, certain = contradicted(test, stated, winner)
    best = winner if winner is not None and certain else stated
    trained = choice.learned(best)
    best_error = choice.errors[best].mean(0).tolist()
    clock = shared(choice, test, best) if trained else None
    calibration = Calibration(
        stated=stated,
        best=best if clock is None else replace(best, clock=clock),
        error=choice.errors[stated].mean(0).tolist(),
        best_error=best_error,
        levels=list(choice.levels),
        evaluations=choice.evaluations,
        trained=trained,
        indistinct=bool((choice.errors[stated].mean(0) <= PLAIN * choice.guess.mean(0)).all()),
        gain=gain,
        samples=len(data),
        misread=not trained and misread(choice, test, stated),
    )
    calibration.notes = describe(calibration)
    return calibration


def try_all(trial: Trial, stated: Convention, data: Tensor) -> None:
    """The stated convention and the common ones: clocks, ranges and predictions first, then schedules."""
    trial.judge([stated])
    own = stated.whole
    kinds = unique([own.parameterization, *PREDICTIONS, *natural_predictions(own.schedule)])
    # A network with a table of its times must not be told one that the table does not have.
    clocks = [own.clock] if trial.rounds(stated) else unique([own.clock, *common_clocks(own.schedule)])
    for clock in clocks:
        for scale, shift in ((1.0, 0.0), other_range(data)):
            trial.judge([Convention(own.schedule, kind, clock, scale, shift) for kind in kinds])
    start = chosen(trial, stated) or stated
    for schedule in common_schedules(own.schedule):
        natural = natural_clocks(schedule) if len(clocks) > 1 else []
        for clock in unique([start.clock, *natural]):
            moved = rebuilt(clock, schedule)
            if moved is not None:
                more = unique([*kinds, *natural_predictions(schedule)])
                trial.judge([Convention(schedule, kind, moved, start.scale, start.shift) for kind in more])


def chosen(trial: Trial, stated: Convention) -> Convention | None:
    """The convention with the smallest error, of those as good the one that changes least; None if there is none."""
    scores = {convention: float(trial.score(error).mean()) for convention, error in trial.errors.items()}
    smallest = min(scores.values(), default=math.inf)
    close = [convention for convention, score in scores.items() if score <= smallest + CLOSE]
    # of two that change as much, the more usual one, which was tried first
    return min(close, key=lambda convention: changes(stated, convention), default=None)


def contradicted(test: Trial, stated: Convention, winner: Convention) -> tuple[tuple[float, float], bool]:
    """The mean log error by which another convention wins, by which for certain, and whether that is enough."""
    own, other = test.louder(stated, LOUDEST), test.louder(winner, 1.0, math.inf)
    if not own or not other:
        return (0.0, 0.0), False
    scores = [test.score(error) for error in other]
    difference = test.score(own[0]) - scores[0]
    gain = float(difference.mean()), at_least(difference, test.rows)
    trained = test.knowledge(other[0]) > KNOWLEDGE and float((scores[0] - scores[1]).mean()) < MARGIN
    return gain, trained and gain[1] > MARGIN


def misread(choice: Trial, test: Trial, stated: Convention) -> bool:
    """Whether answers tell of the noise what those of a trained network do, but not in the way that they are read."""
    t = test.times(stated)
    few, many = (trial.ask(stated, t, stated.whole.clock(t)) for trial in (choice, test))
    if few is None or many is None:
        return False
    own, best = test.error(many, stated, t, LOUDEST), test.read(many, few)
    return test.knowledge(best) > KNOWLEDGE and at_least(test.score(own) - test.score(best), test.rows) > MARGIN


def at_least(gain: Float[Tensor, " draws"], rows: Tensor) -> float:
    """The lower end of a mean gain's interval at the error rate ALPHA, by Student's t over samples of the data.

    Draws of one sample are not independent of each other and count as one; with one sample there is no evidence.
    """
    means = torch.stack([gain[rows == row].mean() for row in rows.unique()])
    low = float(student(means.double().cpu().numpy(), level=1 - 2 * ALPHA).low)
    return low if math.isfinite(low) else -math.inf


def shared(choice: Trial, test: Trial, best: Convention) -> Clock | None:
    """The shared clock a network was trained with, if telling it block edges serves it better than the true time.

    A network that was told its true time errs least when it is told so. If one errs less when it is told edges of
    blocks, it was only ever told edges, and its own blocks are the coarsest that cost nothing. One that was not
    trained for long may err less when it is told any earlier time, but that does not end where sharing does.
    """
    clock = best.clock
    if not isinstance(clock, Timesteps) or clock.count < 50:
        return None
    block = clock.count / 50
    inside = torch.tensor([i + place for i in (0, 1) for place in BLOCK_LEVELS], dtype=torch.float64, device="cpu")
    t = clock.time((inside * block).floor())
    unshared = block_errors(choice, best, t, clock(t))
    clocks = [Shared(clock, float(round(part * clock.count)), blocks) for part, blocks in SHARINGS]
    costs = [float((block_errors(choice, best, t, candidate(t)) - unshared).mean()) for candidate in clocks]
    found = next((candidate for candidate, cost in zip(clocks, costs, strict=True) if cost < NOTHING), None)
    if found is None or not min(costs) < -SOMETHING or float(unshared.mean()) > 0:  # or it does not know noise there
        return None
    edges = clocks[costs.index(min(costs))]
    gain = block_errors(test, best, t, clock(t)) - block_errors(test, best, t, edges(t))
    if not (at_least(gain, test.rows) > 0 and float(gain.mean()) > SOMETHING):
        return None
    beyond = clock.time((found.end + torch.tensor(BLOCK_LEVELS, dtype=torch.float64, device="cpu") * block).floor())
    true, earlier = (block_errors(test, best, beyond, clock(beyond) - shift) for shift in (0, block // 2))
    return found if float((earlier - true).mean()) > 0 else None


def block_errors(trial: Trial, best: Convention, t: Tensor, told: Tensor) -> Float[Tensor, " draws"]:
    """Mean log errors, near the data."""
    products = trial.ask(best, t, told)
    if products is None:
        return torch.full((trial.draws,), math.inf, dtype=torch.float64, device="cpu")
    return trial.error(products, best, t).clamp_min(1e-12).log().mean(1)


def describe(calibration: Calibration) -> list[str]:
    """The probe's result in words: what is stated, what the evidence is, what to do."""
    size = f"mean squared error {geometric(calibration.error):.3g} of the noise's own"
    if not calibration.trained and calibration.right and calibration.indistinct:
        return [
            "calibration: the model finds as much of the noise as a guess from the data's mean and variance "
            f"({size}): the data are so plain that there may be no more to find, and tell no conventions apart"
        ]
    if calibration.misread:
        return [f"calibration: {MISREAD}"]
    if not calibration.trained:
        return [
            "calibration: in no convention does the model find more of the noise than a guess from the data's mean "
            f"and variance ({size}) beyond doubt: it is untrained, its condition is wrong, or the data are not its "
            "own; it is measured as told"
        ]
    if calibration.right and calibration.samples < FEW:
        return [
            f"calibration: the convention was not tested ({size}): {calibration.samples} of the data are too few, give "
            f"{FEW} or more"
        ]
    if calibration.right:
        return [f"calibration: the convention fits the data ({size}; no other is clearly better)"]
    stated, best = calibration.stated, calibration.best
    shared = isinstance(best.clock, Shared) and not isinstance(stated.clock, Shared)
    alone = replace(best, clock=best.whole.clock.base) if shared else best
    mean, least = (math.exp(gain) for gain in calibration.gain)
    evidence = (
        f"errs {mean:.3g} times less in the noise (at least {least:.2g} times, {TEST} draws, error rate {ALPHA:.1%})"
    )
    sentences, options = [], flags(stated, alone)
    if options:
        named = flags(alone, stated).replace("--", "")
        sentences.append(f"stated is {named}, but the model {evidence} in another convention; use {options}")
    if shared:
        sentences.append(
            "the network behaves as if it was trained with shared timesteps: told edges of blocks it errs less than "
            f"told its own time, and not beyond them; if it was, use {flags(alone, best)}"
        )
    if (best.scale, best.shift) != (1.0, 0.0):
        scaled = "in [0, 1]: give (x + 1) / 2" if best.scale < 1 else "in [-1, 1]: give 2 x - 1"
        option = " (pictures: --range 0,1)" if best.scale < 1 else ""
        sentences.append(
            f"the model expects data {scaled} in place of x, as an array of floats{option}; with these it {evidence}"
        )
    return [f"calibration: {sentence}" for sentence in sentences]


def geometric(errors: Sequence[float]) -> float:
    """The geometric mean, which the scores compare."""
    return math.exp(sum(math.log(max(error, 1e-12)) for error in errors) / len(errors))
