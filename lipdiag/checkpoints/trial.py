"""A network is asked about noised data, and for each way to read its answer the errors in the noise are noted.

One forward pass serves every prediction: what is read is eps = c y + d x, linear in the answer y and in x, so that the
squared error is a quadratic form in the inner products of y, x and the true noise.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..breakdown import curable, of_the_device
from ..diffusion.continuous import along
from ..diffusion.convention import Convention
from ..diffusion.parameterization import convert, eps
from ..diffusion.predictor import NetworkPredictor

LEVELS = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0)  # log-SNR
NUMBERS = 32  # a draw's error is a mean over at least so many: where x has fewer, over several noises
WORST, LEAST = 2.0, 1e-3  # a wrong convention is wrong, and a tiny error is rounding
LEARNED = 0.8  # times the guess's error: more is no model
LARGEST = 2**20  # numbers in x that are evaluated at once


class Trial:
    """One network, one set of data and noise, and the errors of every convention tried on them.

    Args:
        predictor: Around the network.
        data: At least one sample.
        rows: Which one for each draw.
        seed: Of the noise.

    Attributes:
        levels: Log-SNRs.
        errors: Mean squared error per draw and level, in units of the noise, of every convention that is finite.
        guess: Likewise that of the best guess that knows the data's mean and variance alone, whatever the convention.
        evaluations: Forward passes so far, of all draws at all levels.
        part: Samples that the network sees at once; halved when memory runs out.
    """

    def __init__(self, predictor: NetworkPredictor, data: Float[Tensor, "n *event"], rows: Tensor, seed: int):
        self.predictor = predictor
        weights = [p for p in [*predictor.parameters(), *predictor.buffers()] if p.is_floating_point()]
        kinds = {p.dtype for p in weights}
        self.device = weights[0].device if weights else torch.device("cpu")
        self.dtype = kinds.pop() if len(kinds) == 1 else torch.float32  # what a network of several kinds casts itself
        size = max(1, data[0].numel())
        self.draws, self.noises, self.part = len(rows), math.ceil(NUMBERS / size), max(1, LARGEST // size)
        self.data, self.rows = data[rows].double().cpu(), rows
        generator = torch.Generator().manual_seed(seed)
        shape = (self.draws * self.noises, *data.shape[1:])
        self.noise = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        ends = predictor.schedule.logsnr(torch.tensor([1e-3, 1.0], dtype=torch.float64, device="cpu")).tolist()
        self.levels = [level for level in LEVELS if ends[1] <= level <= ends[0]] or [sum(ends) / 2]
        self.guess = self.guessed(data.double().cpu())
        self.errors: dict[Convention, Tensor] = {}
        self.evaluations = 0

    def judge(self, conventions: Sequence[Convention]) -> None:
        """Note the errors of conventions that differ in the parameterization alone: one forward pass."""
        t = self.times(conventions[0])
        products = self.ask(conventions[0], t, conventions[0].whole.clock(t))
        if products is None:
            return
        for convention in conventions:
            error = self.error(products, convention, t)
            if convention not in self.errors and error.isfinite().all():
                self.errors[convention] = error

    def louder(self, convention: Convention, *most: float) -> list[Tensor]:
        """The errors with answers that are multiplied by up to so much where that helps; [] if they are not finite."""
        t = self.times(convention)
        products = self.ask(convention, t, convention.whole.clock(t))
        errors = [] if products is None else [self.error(products, convention, t, loudest) for loudest in most]
        return errors if all(bool(error.isfinite().all()) for error in errors) else []

    def times(self, convention: Convention) -> Tensor:
        """When the levels are reached: the data are scaled, so the same signal-to-noise ratio is at another time."""
        levels = torch.tensor(self.levels, dtype=torch.float64, device="cpu") - 2 * math.log(convention.scale)
        return convention.whole.schedule.time(levels)

    def ask(self, convention: Convention, t: Tensor, told: Tensor) -> Tensor | None:
        """Inner products of (y, x, noise) per time, draw and noise, of data noised to t for a network told `told`.

        None if the network refuses or its output is not finite; what fails at first, as its files say, is not hidden.
        """
        first, rows = self.evaluations == 0, len(t) * len(self.noise)
        self.evaluations += 1
        found: list[Tensor] = []
        done = 0
        while done < rows:
            row = torch.arange(done, min(done + self.part, rows), device="cpu")
            try:
                found.append(self.products(convention, row, t, told))
            except (RuntimeError, MemoryError, ValueError, IndexError, AssertionError) as error:
                if curable(error) and self.part > 1:
                    self.part = max(1, min(self.part, rows) // 2)
                    continue
                if first or of_the_device(error):
                    raise
                return None
            done += len(row)
        products = torch.cat(found).view(len(t), self.draws, self.noises, 3, 3)
        return products if bool(products.isfinite().all()) else None

    def products(self, convention: Convention, row: Tensor, t: Tensor, told: Tensor) -> Tensor:
        """Those of some rows; rows are ordered by time, then draw, then noise."""
        time, place = row // len(self.noise), row % len(self.noise)
        noise, data = self.noise[place], self.data[place // self.noises]
        alpha, sigma = (along(c[time], data) for c in convention.whole.schedule(t))
        x = alpha * (data * convention.scale + convention.shift) + sigma * noise
        with torch.no_grad():
            y = self.predictor.output(x.to(self.device, self.dtype), told[time].to(self.device)).double().cpu()
        vectors = torch.stack([y, x, noise], 1).flatten(2)
        return vectors @ vectors.mT / vectors.shape[-1]

    def error(
        self, products: Tensor, convention: Convention, t: Tensor, loudest: float = 1.0
    ) -> Float[Tensor, "draws times"]:
        """Mean squared error of the noise that is read from the answers.

        With `loudest` the answers are first multiplied by what fits best from 1 to it, one number a time: those of a
        network that was not trained for long are too small.
        """
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        schedule, parameterization, _ = convention.whole
        c, d = (convert(y, x, t, schedule, parameterization, eps) for y, x in ((one, zero), (zero, one)))
        yy, yx, ye = products.mean((1, 2))[:, 0].T
        louder = ((ye - d * yx) / (c * yy)).nan_to_num(1.0).clamp(1.0, loudest)
        return self.combined(products, c * louder, d)

    def read(self, products: Tensor, other: Tensor) -> Float[Tensor, "draws times"]:
        """Mean squared error of c y + d x, with the two numbers a time that fit best in other products."""
        mean = other.mean((1, 2))
        c, d = torch.linalg.lstsq(mean[:, :2, :2], mean[:, :2, 2:]).solution[..., 0].T
        return self.combined(products, c, d)

    def combined(self, products: Tensor, c: Tensor, d: Tensor) -> Float[Tensor, "draws times"]:
        """Mean squared error of c y + d x as the noise."""
        w = torch.stack([c, d, -torch.ones_like(c)], -1)
        return torch.einsum("ti,tdnij,tj->dt", w, products, w).clamp_min(0) / self.noises

    def guessed(self, data: Tensor) -> Float[Tensor, "draws levels"]:
        """The error of Wiener's filter, which knows how much the samples differ from their mean.

        The mean is that of the other samples, or one number where that is nearer.
        """
        rest = data - data.mean()
        if len(data) > 1:
            others = (data - data.mean(0)) * (len(data) / (len(data) - 1))
            rest = min(rest, others, key=lambda part: float(part.square().mean()))
        variance = float(rest.square().mean())
        rest = rest[self.rows].repeat_interleave(self.noises, 0)
        found = []
        for level in self.levels:
            ratio = math.exp(level / 2)
            error = ratio * (rest - ratio * variance * self.noise) / (1 + ratio**2 * variance)
            found.append(error.square().view(self.draws, -1).mean(1))
        return torch.stack(found, 1)

    def score(self, error: Float[Tensor, "draws levels"]) -> Float[Tensor, " draws"]:
        """Mean log error per draw; errors beyond `WORST` times the guess's tell nothing more."""
        return torch.minimum(error, WORST * self.guess).clamp_min(LEAST).log().mean(1)

    def knowledge(self, error: Float[Tensor, "draws levels"]) -> float:
        """Mean log error by which the guess is worse."""
        return float((self.guess.clamp_min(LEAST).log() - error.clamp_min(LEAST).log()).mean())

    def learned(self, convention: Convention) -> bool:
        """Whether the model beats, at some level, the guess that knows the data's mean and variance alone."""
        return bool((self.errors[convention].mean(0) < LEARNED * self.guess.mean(0)).any())

    def rounds(self, stated: Convention) -> bool:
        """Whether the network tells its own times apart but not one between two of them: then it looks them up."""
        clock = stated.whole.clock
        if not clock.discrete:
            return False
        t = torch.full((1,), 0.5, dtype=torch.float64, device="cpu")
        index = clock(t).floor()
        at, between, after = (self.ask(stated, t, index + shift) for shift in (0, 0.3, 1))
        if at is None or between is None or not torch.equal(at, between):
            return False
        return after is None or not torch.equal(at, after)
