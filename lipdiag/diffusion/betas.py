"""Discrete schedules: a table of betas, continued between its entries.

Index k of T is t = (k + 1) / T. The table gives alpha_k = sqrt(prod_(j <= k) (1 - beta_j)); with alpha = 1 at t = 0 the
loss of signal 1 - alpha is a cubic spline through these points, exact at them and finite also where alpha = 0. It is
evaluated twice, as 1 - alpha and as alpha, so that each is accurate relative to itself at its own end, and

    sigma^2 = 1 - alpha^2 = (1 - alpha) (1 + alpha).

On one interval of unit width, with values y0, y1, difference d and slopes s0, s1 (Hermite's form):
    y(w) = (1 - w) y0 + w y1 + w (1 - w) [ (1 - w) (s0 - d) - w (s1 - d) ].
"""

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError
from .continuous import Kept, Schedule, softplus


def spline_slopes(d: list[float]) -> list[float]:
    """Slopes at the knots of the cubic spline with unit spacing and differences d, kept monotone.

    The slopes solve s[i-1] + 4 s[i] + s[i+1] = 3 (d[i-1] + d[i]); the two outermost are those of the cubic through the
    four outermost points. Each is then cut to at most three times the smaller neighbouring difference, which does
    nothing to a smooth table and keeps a jagged one monotone, so that it has an inverse.

    References:
        Hyman, Accurate monotonicity preserving cubic interpolation, 1983. https://doi.org/10.1137/0904045
    """
    end = {1: (1.0,), 2: (3 / 2, -1 / 2)}.get(len(d), (11 / 6, -7 / 6, 2 / 6))
    first = sum(c * x for c, x in zip(end, d, strict=False))
    last = sum(c * x for c, x in zip(end, reversed(d), strict=False))
    # Forward elimination, then back substitution: s[i] = right[i] - pivot[i] s[i+1].
    pivot, right = [0.0], [first]
    for before, after in itertools.pairwise(d):
        pivot.append(1 / (4 - pivot[-1]))
        right.append((3 * (before + after) - right[-1]) * pivot[-1])
    slopes = [last]
    for p, r in zip(reversed(pivot), reversed(right), strict=True):
        slopes.append(r - p * slopes[-1])
    slopes.reverse()
    limits = [3 * min(pair) for pair in zip([d[0], *d], [*d, d[-1]], strict=True)]
    return [min(max(s, 0.0), limit) for s, limit in zip(slopes, limits, strict=True)]


class Table(Schedule):
    """A discrete schedule; concrete ones say their betas."""

    @property
    @abstractmethod
    def betas(self) -> Float[Tensor, " timesteps"]:
        """The noise added per step, float64, on the CPU."""

    @property
    @abstractmethod
    def timesteps(self) -> int:
        """How many steps there are."""

    def __post_init__(self):
        if not 1 <= self.timesteps <= 1_000_000:
            raise UsageError(f"got a table of {self.timesteps} timesteps; 1 to 1000000 are possible, so change that")
        beta = self.betas
        bad = ~((beta > 0) & torch.cat([beta[:-1] < 1, beta[-1:] <= 1]))
        if bad.any():
            k = int(bad.nonzero()[0])
            raise UsageError(
                f"got a beta of {beta[k]:g} at index {k} in a table of {len(beta)}; betas lie above 0 and below 1 "
                f"(the last may be 1), so choose other parameters for {type(self).__name__}"
            )
        log_alpha = torch.nn.functional.pad(torch.log1p(-beta).cumsum(0) / 2, (1, 0))
        lost, alpha = -torch.expm1(log_alpha), log_alpha.exp()
        d = lost.diff()
        slopes = torch.tensor(spline_slopes(d.tolist()), dtype=torch.float64, device="cpu")
        intervals = torch.stack([lost[:-1], lost[1:], alpha[:-1], alpha[1:], slopes[:-1] - d, slopes[1:] - d], dim=-1)
        noisiness = torch.log(lost * (1 + alpha)) - 2 * log_alpha  # -logsnr at the knots, rising
        object.__setattr__(self, "_intervals", Kept(intervals))
        object.__setattr__(self, "_inner", Kept(noisiness[1:-1].contiguous()))

    def _coefficients(self, index: Tensor) -> tuple[Tensor, ...]:
        # index_select because indexing by a tensor of no dimensions does not work under vmap
        rows = self._intervals.on(index.device).index_select(0, index.reshape(-1))  # type: ignore[attr-defined]
        return rows.reshape(*index.shape, -1).unbind(-1)

    def amplitudes(self, t):
        u = t * self.timesteps
        index = u.detach().floor().clamp(0, self.timesteps - 1).long()
        lost, alpha = _hermite(u - index, self._coefficients(index))
        return alpha, torch.sqrt(lost * (1 + alpha))

    def inverse(self, logsnr):
        inner = self._inner.on(logsnr.device)  # type: ignore[attr-defined]
        index = torch.searchsorted(inner, -logsnr.detach())
        interval = self._coefficients(index)
        log_alpha = -softplus(-logsnr) / 2
        lost, alpha = -torch.expm1(log_alpha), log_alpha.exp()

        def residual(w: Tensor, lost: Tensor, alpha: Tensor) -> Tensor:
            """How much signal is still to be lost, from whichever of the two is the smaller number."""
            lost_here, alpha_here = _hermite(w, interval)
            return torch.where(alpha < 0.5, alpha_here - alpha, lost - lost_here)

        low = torch.zeros_like(log_alpha.detach())
        width = torch.ones_like(low)
        for _ in range(52):
            width = width / 2
            low = torch.where(residual(low + width, lost.detach(), alpha.detach()) > 0, low + width, low)
        # One step of Newton gives the last digits, relative to w near the first knot, and carries the derivative. Its
        # length is that of the bracket at most: where the curve is flat it would be one rounding error over another.
        y0, y1, _, _, e0, e1 = interval
        rate = y1 - y0 + (1 - low) * (1 - 3 * low) * e0 - low * (2 - 3 * low) * e1
        step = residual(low, lost, alpha) / torch.where(rate > 0, rate, math.inf)
        step = step + (step.clamp(-width, width) - step).detach()
        return (index + low + step) / self.timesteps


def _hermite(w: Tensor, interval: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(1 - alpha, alpha) at the fraction w of an interval."""
    lost0, lost1, alpha0, alpha1, e0, e1 = interval
    bend = w * (1 - w) * ((1 - w) * e0 - w * e1)
    return (1 - w) * lost0 + w * lost1 + bend, (1 - w) * alpha0 + w * alpha1 - bend


@dataclass(frozen=True)
class Linear(Table):
    """DDPM's betas, equally spaced (Ho et al., Denoising Diffusion Probabilistic Models, 2020).

    In use: diffusers (`linear`), OpenAI's repositories (`linear`), DiT, lucidrains (`linear`), MONAI (`linear_beta`).
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    timesteps: int = 1000

    @property
    def betas(self):
        return _linspace(self.beta_start, self.beta_end, self.timesteps)


@dataclass(frozen=True)
class ScaledLinear(Table):
    """Betas whose square roots are equally spaced, with the numbers of latent diffusion.

    In use: Stable Diffusion 1, 2 and XL, diffusers (`scaled_linear`), MONAI (`scaled_linear_beta`), latent diffusion
    (its `linear`).
    """

    beta_start: float = 8.5e-4
    beta_end: float = 0.012
    timesteps: int = 1000

    @property
    def betas(self):
        return _linspace(_root(self.beta_start), _root(self.beta_end), self.timesteps) ** 2


@dataclass(frozen=True)
class Quadratic(ScaledLinear):
    """scaled_linear with the numbers of DDPM (Song et al., DDIM, 2021).

    In use: the code of DDIM (`quad`).
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02


@dataclass(frozen=True)
class Sigmoid(Table):
    """Betas on a logistic curve over [-6, 6] (Xu et al., GeoDiff, 2022).

    In use: diffusers (`sigmoid`), MONAI (`sigmoid_beta`); lucidrains' `sigmoid` is another, which its files hold as
    betas.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    timesteps: int = 1000

    @property
    def betas(self):
        rise = torch.sigmoid(_linspace(-6, 6, self.timesteps))
        return rise * (self.beta_end - self.beta_start) + self.beta_start


@dataclass(frozen=True)
class SquaredCosine(Table):
    """Nichol & Dhariwal's cosine as a table with capped betas (Improved DDPM, 2021).

    In use: improved- and guided-diffusion (`cosine`), diffusers (`squaredcos_cap_v2`), lucidrains (`cosine`), EDM's
    iDDPM networks.
    """

    timesteps: int = 1000
    max_beta: float = 0.999

    @property
    def betas(self):
        # 1 - cos^2(q) / cos^2(p) = sin(q - p) sin(q + p) / cos^2(p)
        angle = (_linspace(0, 1, self.timesteps + 1) + 0.008) / 1.008 * (math.pi / 2)
        p, q = angle[:-1], angle[1:]
        step = math.sin(math.pi / 2 / 1.008 / self.timesteps)
        return (step * torch.sin(q + p) / torch.cos(p) ** 2).clamp(max=self.max_beta)


@dataclass(frozen=True)
class ZeroTerminalSNR(Table):
    """Another table with alpha shifted and scaled such that it ends at exactly 0 and keeps its first value.

    In use: diffusers (`rescale_betas_zero_snr`).

    References:
        Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2024. https://arxiv.org/abs/2305.08891
    """

    of: Table

    @property
    def timesteps(self):
        return self.of.timesteps

    @property
    def betas(self):
        # alpha~_k = const (alpha_k - alpha_T), so the ratio r of neighbours has 1 - r = (alpha_(k-1) - alpha_k) /
        # (alpha_(k-1) - alpha_T), beta~ = (1 - r) (1 + r); the first is kept and the last is 1.
        beta = self.of.betas
        log_step = torch.log1p(-beta) / 2
        alpha = log_step.cumsum(0).exp()
        fall = -torch.expm1(log_step[1:]) * alpha[:-1] / (alpha[:-1] - alpha[-1])
        return torch.cat([beta[:1], (fall * (2 - fall))[:-1], torch.ones_like(beta[1:2])])


@dataclass(frozen=True)
class Discrete(Table):
    """A table of betas as they are, for instance out of a checkpoint.

    In use: every file that holds its betas: lucidrains, latent diffusion, diffusers (`trained_betas`).
    """

    values: tuple[float, ...]

    @property
    def timesteps(self):
        return len(self.values)

    @property
    def betas(self):
        return torch.tensor(self.values, dtype=torch.float64, device="cpu")


def _linspace(start: float, end: float, count: int) -> Tensor:
    return torch.linspace(start, end, count, dtype=torch.float64, device="cpu")


def _root(beta: float) -> float:
    # A negative beta becomes NaN here and is refused with all others that lie outside (0, 1).
    return math.sqrt(beta) if beta >= 0 else math.nan
