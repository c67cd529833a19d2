"""Is a network told the right time, asked the right question, shown the right data? A calibration on noised data.

At a given log-SNR the noise in x cannot be told better than to its minimal mean squared error, whatever the coordinates
of x, and only a network that is used as it was trained comes near it. So every convention is tried on the same data
and noise at the same log-SNRs: what the network is told (index, [0, 1], 1000 [0, 1], sigma, log sigma, reversed), what
it predicts (one evaluation serves all), the schedule, the range of the data, a shared clock. The convention with the
smallest error wins where it wins clearly; where two cannot be told apart, what the files say stands.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lipdiag.diffusion.clock import Clock, Shared, Timesteps
from lipdiag.diffusion.parameterization import convert, eps
from lipdiag.diffusion.predictor import NetworkPredictor, Predictor
from lipdiag.diffusion.spelling import spell
from lipdiag.errors import CheckpointError
from lipdiag.linalg.linearize import out_of_memory
from lipdiag.zoo.convention import (
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

DRAWS = 8
LEVELS = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0)  # log-SNR
PASSES = 45 * DRAWS * len(LEVELS)  # forward passes of one sample that a probe takes, about
WORST, LEAST = 4.0, 1e-3  # errors beyond these tell nothing more: a wrong convention is wrong, a tiny error is rounding
CLEARLY = 0.15  # mean log error by which another convention must win
CLOSE = 0.02  # closer ones are the same
STANDARD_ERRORS = 2.5  # and by this many of them, over draws
LEARNED = 0.8  # times the error of the best guess that knows only the data's mean and variance: more is no model
LARGEST = 2**20  # numbers in x that are evaluated at once
BLOCK_LEVELS = (0.15, 0.35, 0.55, 0.75, 0.95)  # places inside a block of a shared clock
SOMETHING, NOTHING = 0.01, 0.04  # mean log error that telling block edges must gain, and may cost
SHARINGS = (0.1, 2), (0.2, 5), (0.1, 5), (0.1, 10)  # part of the table, and into how many blocks; the coarsest first


@dataclass
class Calibration:
    """What the probe found.

    Attributes:
        told: The convention that the files or the user gave.
        best: The one with the smallest error; `told` itself where no other wins clearly.
        error: Mean squared error of the told convention over that of the guess 0, per log-SNR in `levels`.
        best_error: Likewise of the best one, told its own time.
        levels: Log-SNRs.
        evaluations: Forward passes made, of DRAWS x len(levels) samples each.
        trained: Whether the best convention explains some of the noise.
        notes: All this for a reader, with the option that sets it right.
    """

    told: Convention
    best: Convention
    error: list[float]
    best_error: list[float]
    levels: list[float]
    evaluations: int
    trained: bool
    notes: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether the told convention stands."""
        return self.best == self.told


def probe(predictor: Predictor, data: Float[Tensor, "n *event"], seed: int = 0) -> Calibration | None:
    """Compare the convention a network is used in with the common others, on data with known noise.

    Cost: `PASSES` forward passes of one sample, 48 at once; no derivatives.

    Args:
        predictor: Around a network; any other kind is no subject of a probe and gives None.
        data: At least one sample as the model is to be shown it; the first DRAWS are used.
        seed: Of the noise.

    Raises:
        CheckpointError: If the output is not finite as the network is used, or of another shape.
    """
    if not isinstance(predictor, NetworkPredictor):
        return None
    trial = Trial(predictor, data, seed)
    told = Convention(predictor.schedule, predictor.parameterization, predictor.clock)
    trial.judge([told])
    kinds = unique([told.parameterization, *PREDICTIONS])
    # A network with a table of its times must not be told one that the table does not have.
    clocks = [told.clock] if trial.rounds(told) else unique([told.clock, *common_clocks(told.schedule)])
    for clock in clocks:
        for scale, shift in ((1.0, 0.0), other_range(data)):
            trial.judge([Convention(told.schedule, kind, clock, scale, shift) for kind in kinds])
    start = trial.best(told) or told
    for schedule in common_schedules(told.schedule):
        natural = natural_clocks(schedule) if len(clocks) > 1 else []
        for clock in unique([start.clock, *natural]):
            moved = rebuilt(clock, schedule)
            if moved is not None:
                more = unique([*kinds, *natural_predictions(schedule)])
                trial.judge([Convention(schedule, kind, moved, start.scale, start.shift) for kind in more])
    winner = trial.best(told)
    trained = winner is not None and trial.learned(winner)
    if told not in trial.scores:
        hint = f"; use {flags(told, winner)}" if winner is not None and trained else ": check them, and the weights"
        raise CheckpointError(
            f"The model's output is not finite with the schedule {spell(told.schedule)} and the clock "
            f"{spell(told.clock)}{hint}."
        )
    best = winner if winner is not None and trained else told
    best_error = trial.errors[best].mean(0).tolist()
    shared = trial.shared(best) if trained else None
    if shared is not None:
        best = replace(best, clock=shared)
    found = Calibration(
        told=told,
        best=best,
        error=trial.errors[told].mean(0).tolist(),
        best_error=best_error,
        levels=list(trial.levels),
        evaluations=trial.evaluations,
        trained=trained,
    )
    found.notes = describe(found)
    return found


class Trial:
    """One network, one set of data and noise, and the errors of every convention tried on them.

    Attributes:
        errors: Mean squared error per draw and level, in units of the noise.
        scores: Mean log error per draw.
        evaluations: Forward passes so far.
        part: Samples that the network sees at once; halved when memory runs out.
    """

    def __init__(self, predictor: NetworkPredictor, data: Tensor, seed: int):
        self.predictor = predictor
        weights = [p for p in [*predictor.parameters(), *predictor.buffers()] if p.is_floating_point()]
        kinds = {p.dtype for p in weights}
        self.device = weights[0].device if weights else torch.device("cpu")
        self.dtype = kinds.pop() if len(kinds) == 1 else torch.float32  # what a network of several kinds casts itself
        generator = torch.Generator().manual_seed(seed)
        self.data = data[torch.arange(DRAWS) % len(data)].double().cpu()
        self.part = max(1, LARGEST // max(1, self.data[0].numel()))
        self.noise = torch.randn(self.data.shape, generator=generator, dtype=torch.float64)
        ends = predictor.schedule.logsnr(torch.tensor([1e-3, 1.0], dtype=torch.float64)).tolist()
        self.levels = [level for level in LEVELS if ends[1] <= level <= ends[0]] or [sum(ends) / 2]
        self.errors: dict[Convention, Tensor] = {}
        self.scores: dict[Convention, Tensor] = {}
        self.times: dict[Hashable, Tensor] = {}
        self.coefficients: dict[Hashable, tuple[Tensor, ...]] = {}
        self.evaluations = 0

    def judge(self, conventions: Sequence[Convention]) -> None:
        """Note the errors of conventions that differ in the parameterization alone: one forward pass."""
        first, levels = conventions[0], torch.tensor(self.levels, dtype=torch.float64)
        # The data are scaled, so the same signal-to-noise ratio is reached at another time.
        key = first.schedule, first.scale
        if key not in self.times:
            self.times[key] = first.schedule.time(levels - 2 * math.log(first.scale))
        t = self.times[key]
        self._note(conventions, t, first.clock(t), len(self.levels))

    def _note(self, conventions: Sequence[Convention], t: Tensor, told: Tensor, levels: int) -> None:
        x, y, t = self.run(conventions[0], t, told)
        if y is None:
            return
        for convention in conventions:
            found = self.noise_in(y, x, t, convention)
            error = (found - self.noise.repeat(levels, *[1] * (self.noise.ndim - 1))).square().flatten(1).mean(1)
            error = error.reshape(levels, DRAWS).T
            if convention not in self.errors and error.isfinite().all():
                self.errors[convention] = error
                self.scores[convention] = error.clamp(LEAST, WORST).log().mean(1)

    def run(self, convention: Convention, t: Tensor, told: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Noised data at every time for every draw, level-major, what the network says, or None if not finite."""
        shape = (-1, *[1] * (self.data.ndim - 1))
        t, told = t.repeat_interleave(DRAWS), told.repeat_interleave(DRAWS)
        alpha, sigma = (c.view(shape) for c in convention.schedule(t))
        times = len(t) // DRAWS
        data = (self.data * convention.scale + convention.shift).repeat(times, *[1] * (self.data.ndim - 1))
        x = alpha * data + sigma * self.noise.repeat(times, *[1] * (self.data.ndim - 1))
        first = self.evaluations == 0  # the convention of the files; what fails there is not hidden
        try:
            y = self.evaluate(x, told)
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            if first or out_of_memory(error):
                raise
            return x, None, t
        return x, y if bool(y.isfinite().all()) else None, t

    def evaluate(self, x: Tensor, told: Tensor) -> Tensor:
        """What the network says, float64 on the CPU; large samples go through in parts."""
        self.evaluations += 1
        while True:
            parts = zip(x.split(self.part), told.split(self.part), strict=True)
            try:
                with torch.no_grad():
                    pieces = [
                        self.predictor.output(a.to(self.device, self.dtype), b.to(self.device)).double().cpu()
                        for a, b in parts
                    ]
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.part == 1:
                    raise
            else:
                return torch.cat(pieces)
            self.part = max(1, min(self.part, len(x)) // 2)

    def rounds(self, told: Convention) -> bool:
        """Whether the network tells its own times apart but not one between two of them: then it looks them up."""
        if not told.clock.discrete:
            return False
        t = torch.full((1,), 0.5, dtype=torch.float64)
        index = told.clock(t).floor().repeat(DRAWS)
        x, y, _ = self.run(told, t, index[:1])
        if y is None or not torch.equal(y, self.evaluate(x, index + 0.3)):
            return False
        return not torch.equal(y, self.evaluate(x, index + 1))

    def noise_in(self, y: Tensor, x: Tensor, t: Tensor, convention: Convention) -> Tensor:
        """What `convert` makes of y; its coefficients are kept, since most conventions share their times."""
        schedule, shape = convention.schedule, (-1, *[1] * (x.ndim - 1))
        key = schedule, convention.parameterization, t[0].item(), len(t)
        if key not in self.coefficients:
            one, zero = torch.ones_like(t), torch.zeros_like(t)
            # eps = c y + d x, linear in both
            self.coefficients[key] = tuple(
                convert(y, x, t, schedule, convention.parameterization, eps).view(shape)
                for y, x in ((one, zero), (zero, one))
            )
        c, d = self.coefficients[key]
        return c * y + d * x

    def best(self, told: Convention) -> Convention | None:
        """The convention with the smallest error, or `told` where that is not clearly worse; None if none is finite."""
        if not self.scores:
            return None
        winner = min(self.scores, key=lambda convention: float(self.scores[convention].mean()))
        if told in self.scores and not clearly(self.scores[told], self.scores[winner], CLEARLY, STANDARD_ERRORS):
            return told
        # Among those that cannot be told apart from the winner, the one that changes least, then the most usual one.
        close = [c for c in self.scores if not clearly(self.scores[c], self.scores[winner], CLOSE, 1.0)]
        return min(close, key=lambda c: changes(told, c))

    def learned(self, convention: Convention) -> bool:
        """Whether the model beats, at some level, the guess that knows the data's mean and variance alone."""
        error = self.errors[convention].mean(0).tolist()
        return any(mine < LEARNED * guess for mine, guess in zip(error, self.linear(), strict=True))

    def linear(self) -> list[float]:
        """The mean squared error, per level, of the best guess that knows the data's mean and variance alone."""
        snr = torch.tensor(self.levels, dtype=torch.float64).exp() * float(self.data.var())
        return (snr / (1 + snr)).tolist()

    def shared(self, best: Convention) -> Clock | None:
        """The shared clock a network was trained with, if telling it block edges serves it better than the true time.

        A network that was told its true time errs least when it is told so. If one errs less when it is told edges of
        blocks, it was only ever told edges, and its own blocks are the coarsest that cost nothing. One that was not
        trained for long may err less when it is told any earlier time, but that does not end where sharing does.
        """
        clock = best.clock
        if not isinstance(clock, Timesteps) or clock.count < 50:
            return None
        block = clock.count / 50
        inside = torch.tensor([i + place for i in (0, 1) for place in BLOCK_LEVELS], dtype=torch.float64)
        t = clock.time((inside * block).floor())
        plain = self.block_errors(best, t, clock(t))
        clocks = [Shared(clock, float(round(part * clock.count)), blocks) for part, blocks in SHARINGS]
        errors = [self.block_errors(best, t, candidate(t)) for candidate in clocks]
        if not any(clearly(plain, error, SOMETHING, STANDARD_ERRORS) for error in errors):
            return None
        costs = [float((error - plain).mean()) for error in errors]
        found = next((candidate for candidate, cost in zip(clocks, costs, strict=True) if cost < NOTHING), None)
        if found is None:
            return None
        beyond = clock.time((found.end + torch.tensor(BLOCK_LEVELS, dtype=torch.float64) * block).floor())
        true, earlier = (self.block_errors(best, beyond, clock(beyond) - shift) for shift in (0, block // 2))
        return found if float((earlier - true).mean()) > 0 else None

    def block_errors(self, best: Convention, t: Tensor, told: Tensor) -> Tensor:
        """Mean log errors per draw, near the data."""
        x, y, times = self.run(best, t, told)
        if y is None:
            return torch.full((DRAWS,), math.inf, dtype=torch.float64)
        found = self.noise_in(y, x, times, best)
        noise = self.noise.repeat(len(t), *[1] * (self.noise.ndim - 1))
        error = (found - noise).square().flatten(1).mean(1).reshape(len(t), DRAWS).T
        return error.clamp_min(1e-12).log().mean(1)


def clearly(worse: Tensor, better: Tensor, least: float, standard_errors: float) -> bool:
    """Whether paired scores differ by enough to matter and by more than so many standard errors."""
    gain = worse - better
    if not bool(gain.isfinite().all()):
        return False
    spread = float(gain.std()) / math.sqrt(len(gain))
    return float(gain.mean()) > max(least, standard_errors * spread)


def describe(found: Calibration) -> list[str]:
    """The probe's result in words."""
    if not found.trained:
        return [
            "calibration: in no convention does the model find more of the noise than a guess from the data's mean and "
            f"variance (mean squared error {geometric(found.error):.3g} of the noise's own): it is untrained, its "
            "condition is wrong, or the data are not its own; it is measured as told"
        ]
    size = f"mean squared error {geometric(found.error):.3g} of the noise's own"
    if found.right:
        return [f"calibration: the convention fits the data ({size}; no other is clearly better)"]
    told, best = found.told, found.best
    shared = isinstance(best.clock, Shared) and not isinstance(told.clock, Shared)
    alone = replace(best, clock=best.clock.base) if shared else best
    sentences, options = [], flags(told, alone)
    if options:
        sentences.append(
            f"the model explains the noise better in another convention ({geometric(found.best_error):.3g} "
            f"instead of {geometric(found.error):.3g} of the noise's own square); use {options}"
        )
    if shared:
        sentences.append(
            "the network behaves as if it was trained with shared timesteps: told edges of blocks it errs less than "
            f"told its own time, and not beyond them; if it was, use {flags(alone, best)}"
        )
    if (best.scale, best.shift) != (1.0, 0.0):
        scaled = "in [0, 1]: give (x + 1) / 2" if best.scale < 1 else "in [-1, 1]: give 2 x - 1"
        sentences.append(f"the model expects data {scaled} in place of x, as an array of floats")
    return [f"calibration: {sentence}" for sentence in sentences]


def geometric(errors: Sequence[float]) -> float:
    """The geometric mean, which the scores compare."""
    return math.exp(sum(math.log(max(error, 1e-12)) for error in errors) / len(errors))
