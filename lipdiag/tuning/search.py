"""Grids of times tried on a model: fitted on some draws, judged on others by the error of the samples they end in.

The reference is Heun's method on many times. What a jump from one of its times to another does wrong is seen without
asking the model again, since the trajectory and the noise along it are known; what becomes of an error on the way to
the data is measured, by carrying one along (`gains`). The sum of the jumps' errors, each times its gain, is made small
over all grids at once by dynamic programming. Such grids and the best common ones are improved a little by the endpoint
error itself, and what is then the best of them further.

References:
    Chen et al., On the trajectory regularity of ODE-based diffusion sampling (GITS), 2024.
    https://arxiv.org/abs/2405.11326
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..advice.choice import Choice, choose
from ..advice.grids import NAMES, Axis, common, improved
from ..advice.pieces import cheapest
from ..diffusion.ddim import LEAST_AMPLITUDE
from ..diffusion.predictor import Predictor, device_of
from ..errors import NonFiniteError
from ..sampling.sampler import LARGEST_RATIO, normal
from ..sampling.walk import evaluations, predicted, walk

NODES = 120
"""Times of the reference."""

CARRIED = 3
"""One in so many of the draws that fit has its errors carried along."""

BEGUN = 8
"""Places of the reference where an error is begun."""

PASSES = 800
"""Evaluations of the model for each draw that fits, unless they are fewer than those of `LEAST_TRIALS` grids."""

LEAST_TRIALS = 20
STARTS = 2
"""So many of the common grids, and those by dynamic programming, are improved on half of the draws, the best on all."""

GITS, AMPLIFIED = "GITS, on this model", 1.15
"""The least sum of jumps' errors, the earlier ones amplified by each later step as the authors have it."""

ADVISED = "advised"


def price(sampler: str, steps: Sequence[int], draws: int) -> int:
    """Evaluations of the model that advice on so many steps takes, at most; see `Trial`."""
    fit, judge = draws // 2, draws - draws // 2
    half, carried, grids = -(-fit // 2), -(-fit // CARRIED), len(NAMES) + 1
    places = range(max(1, NODES // BEGUN), NODES, max(1, NODES // BEGUN))
    asked = draws * evaluations("heun", NODES) + fit * evaluations("heun", NODES // 2 + 1)
    asked += carried * sum(NODES - place for place in places)
    for count in steps:
        trials, starts = budget(sampler, count), STARTS + 2
        rough, fine = trials + starts, starts + 1 + trials // 2
        asked += evaluations(sampler, count) * (half * rough + fit * (fine + grids + 1) + judge * (grids + 1))
    return asked


def budget(sampler: str, steps: int) -> int:
    """How many grids of so many steps are tried."""
    return max(LEAST_TRIALS, PASSES // evaluations(sampler, steps))


def axis_of(predictor: Predictor) -> Axis:
    """A model's axis of time: all its timesteps, or from one thousandth of noise to one of signal."""
    clock, schedule, count = predictor.clock.base, predictor.schedule, None
    if clock.discrete:
        count = round(abs(clock.ends[1] - clock.ends[0]))
        t = torch.arange(1, count + 1, dtype=torch.float64, device="cpu") / count
    else:
        bound = 2 * float(np.log(LARGEST_RATIO))
        high, low = schedule.logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")).clamp(-bound, bound)
        t = schedule.time(torch.linspace(float(high), float(low), 2001, dtype=torch.float64, device="cpu"))
    alpha, sigma = schedule(t)
    return Axis(t.numpy(), (sigma / alpha.clamp_min(LEAST_AMPLITUDE)).numpy(), count)


@dataclass(frozen=True)
class Reference:
    """Fine trajectories.

    Attributes:
        t: Their times, from noise to data.
        ratio: sigma / alpha there, and 0 at the end.
        y: x / alpha there, and x0 at the end (times + 1, draws, ...).
        eps: The noise predicted there.
        doubt: How far x0 is off, by Richardson: a third of its mean distance from that of half as many times.
    """

    t: np.ndarray
    ratio: np.ndarray
    y: Tensor
    eps: Tensor
    doubt: float


ORDER = 2
"""The order of Heun's method: with half as many times its error is 2^ORDER times as large."""


class Trial:
    """A model, the first noise of some draws, and what their samples ought to be.

    Args:
        predictor: The model, on its device.
        sampler: One of `sampling.walk.RULES`.
        draws: Half of them fit grids, half judge them.
        seed: Of the first noise.
        advance: Called with the number of evaluations that were made since its last call.
        priced: Called at first, with the seconds that one of them takes.
    """

    def __init__(
        self,
        predictor: Predictor,
        sampler: str,
        draws: int,
        seed: int,
        advance: Callable[[int], object] | None = None,
        priced: Callable[[float], object] | None = None,
    ):
        self.predictor, self.sampler, self.advance = predictor, sampler, advance or (lambda count: None)
        self.axis = axis_of(predictor)
        noise = torch.stack([normal(seed, i, predictor.shape) for i in range(draws)])
        self.noise = noise.to(device_of(predictor))
        self.fitting, self.judging = slice(0, draws // 2), slice(draws // 2, draws)
        if priced is not None:
            priced(self.seconds())
        self.reference = self.fine()
        self.alone = self.jumps()
        self.costs = self.alone * self.gains()

    @torch.no_grad()
    def seconds(self) -> float:
        """What an evaluation of one draw takes: the shorter of two batches; the first may warm something up."""
        t, x, taken = np.array([self.axis.t[-1]]), self.begin(self.axis.t[-1:], slice(None)), []
        for _ in range(2):
            begun = time.perf_counter()
            float(
                predicted(self.predictor, x, torch.tensor(t[0], device="cpu")).flatten()[0]
            )  # which waits for the device
            taken.append(time.perf_counter() - begun)
        return min(taken) / len(x)

    def begin(self, t: np.ndarray, draws: slice) -> Tensor:
        """The state at a grid's first time: noise of standard deviation one, or sigma where that is more."""
        sigma = float(self.predictor.schedule(torch.tensor(t[:1], device="cpu"))[1])
        return max(1.0, sigma) * self.noise[draws]

    def states(self, t: np.ndarray, rule: str, draws: slice) -> tuple[list[Tensor], list[Tensor]]:
        """Noise and states along a grid."""
        eps, after = [], []
        for noise, x in walk(self.predictor, self.begin(t, draws), torch.tensor(t, device="cpu"), rule):
            eps.append(noise)
            after.append(x)
            self.advance(len(x) * (2 if rule == "heun" and len(after) < t.size else 1))
        if not after[-1].isfinite().all():
            raise NonFiniteError(
                f"samples by {t.size} steps of {rule} are not finite, so that no grid can be judged; check weights, "
                "schedule and parameterization with `lipdiag inspect`"
            )
        return eps, after

    def fine(self) -> Reference:
        """The reference of all draws."""
        t = self.axis.nodes(NODES)
        everything = slice(0, len(self.noise))
        eps, after = self.states(t, "heun", everything)
        alpha, sigma = self.predictor.schedule(torch.tensor(t, device="cpu"))
        alpha = alpha.clamp_min(LEAST_AMPLITUDE)
        ratio = np.append((sigma / alpha).numpy(), 0.0)
        scales = torch.cat([alpha, torch.ones(1, dtype=torch.float64, device="cpu")]).tolist()
        y = torch.stack([x / scale for x, scale in zip([self.begin(t, everything), *after], scales, strict=True)])
        half = np.append(t[:-1:2], t[-1])
        doubt = distance(self.states(half, "heun", self.fitting)[1][-1], y[-1, self.fitting]).mean()
        return Reference(t, ratio, y, torch.stack(eps), float(doubt) / (2**ORDER - 1))

    def errors(self, t: np.ndarray, draws: slice) -> np.ndarray:
        """The distance of each draw's sample by a grid from the reference, root mean square over its entries."""
        return distance(self.states(t, self.sampler, draws)[1][-1], self.reference.y[-1, draws])

    def jumps(self) -> np.ndarray:
        """What one step between two times of the reference does wrong, mean over draws, in y (from, to).

        By the noise at its beginning, and for samplers of second order by the mean of it at both ends.
        """
        reference = self.reference
        y, eps = (z[:, self.fitting].flatten(2) for z in (reference.y, reference.eps))
        out = np.full((len(y), len(y)), np.inf)
        for i in range(len(y) - 1):
            noise = eps[i].expand(len(y) - 1 - i, *eps[i].shape)
            if self.sampler not in ("ddim", "euler"):
                noise = torch.cat([(noise[:-1] + eps[i + 1 :]) / 2, noise[-1:]])
            steps = torch.tensor(reference.ratio[i + 1 :] - reference.ratio[i], device=y.device)[:, None, None]
            out[i, i + 1 :] = (y[i] + steps * noise - y[i + 1 :]).norm(dim=2).mean(1).cpu().numpy()
        return out / np.sqrt(y.shape[2])

    @torch.no_grad()
    def gains(self) -> np.ndarray:
        """How much of an error at each time of the reference is left at its end, of a jump's error carried along."""
        reference, draws = self.reference, slice(0, -(-self.fitting.stop // CARRIED))
        y, eps = reference.y[:, draws], reference.eps[:, draws]
        alpha = self.predictor.schedule(torch.tensor(reference.t, device="cpu"))[0].clamp_min(LEAST_AMPLITUDE).tolist()
        stride = max(1, len(eps) // BEGUN)
        places = list(range(stride, len(eps), stride))
        carried, sizes = y[:0], []
        for i in range(stride, len(eps)):
            if i in places:
                error = y[i - stride] + (reference.ratio[i] - reference.ratio[i - stride]) * eps[i - stride] - y[i]
                sizes.append(distance(error, torch.zeros_like(error)))
                carried = torch.cat([carried, error[None]])
            x = alpha[i] * (y[i] + carried).flatten(0, 1)
            noise = predicted(self.predictor, x, torch.tensor(reference.t[i], device="cpu")).reshape(carried.shape)
            self.advance(len(x))
            carried = carried + (reference.ratio[i + 1] - reference.ratio[i]) * (noise - eps[i])
        left = [distance(error, torch.zeros_like(error)) for error in carried]
        known = [np.divide(a, b, out=np.ones_like(a), where=b > 0).mean() for a, b in zip(left, sizes, strict=True)]
        return np.interp(np.arange(len(y)), [*places, len(y) - 1], [*known, 1.0])

    def advise(self, steps: int) -> Choice:
        """The best grid of so many steps that was found, and how it and the common ones do on draws of their own."""
        usual = common(self.axis, steps)
        known = steps < len(self.costs)
        if known:
            usual[GITS] = self.cut(self.alone, steps, lambda before, cost: AMPLIFIED * before + cost)
        cheapest = [self.cut(self.costs**power, steps) for power in (1, 2) if known]

        half = slice(0, -(-self.fitting.stop // 2))

        def score(t: np.ndarray, draws: slice = self.fitting) -> float:
            return float(self.errors(t, draws).mean())

        fitted = {name: self.errors(t, self.fitting) for name, t in usual.items()}
        best = sorted(usual, key=lambda name: fitted[name].mean())
        begun = [usual[name] for name in best[:STARTS]] + cheapest
        trials = budget(self.sampler, steps)
        tried = (improved(self.axis, t, lambda t: score(t, half), trials // len(begun)) for t in begun)
        grid = improved(self.axis, min(tried, key=score), score, trials // 2)
        fitted[ADVISED] = self.errors(grid, self.fitting)
        judged = {name: self.errors(t, self.judging) for name, t in (usual | {ADVISED: grid}).items()}
        return choose(steps, usual | {ADVISED: grid}, fitted, judged)

    def cut(self, costs: np.ndarray, steps: int, combine: Callable[..., np.ndarray] = np.add) -> np.ndarray:
        """The times of the reference between which all jumps together cost least."""
        return self.reference.t[cheapest(costs, steps, combine)[:-1]]

    def last_steps(self) -> np.ndarray:
        """The error of one step to the data from each time of the reference, mean over the draws that judge."""
        reference = self.reference
        ratio = torch.tensor(reference.ratio[:-1], device=reference.y.device).reshape(-1, *[1] * (reference.y.ndim - 1))
        ends = reference.y[:-1] - ratio * reference.eps
        return np.array([distance(end[self.judging], reference.y[-1, self.judging]).mean() for end in ends])


def distance(a: Tensor, b: Tensor) -> np.ndarray:
    """The distance of each sample from another, root mean square over entries."""
    return (a - b).flatten(1).square().mean(1).sqrt().cpu().numpy()
