"""What a network predicts, as two coefficients: y = a x0 + b eps.

With x = alpha x0 + sigma eps these are two equations for x0 and eps. Solved and put into another prediction
y' = a' x0 + b' eps they give the one formula by which every kind of prediction becomes every other:

    y' = [ (a' sigma - b' alpha) y + (b' a - a' b) x ] / (a sigma - b alpha).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError
from .continuous import Schedule, along, back, double

Parameterization = Callable[[Schedule, Tensor], tuple[Tensor, Tensor]]


def eps(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """The noise.

    In use: DDPM, diffusers (`epsilon`), OpenAI's repositories, DiT, lucidrains (`pred_noise`), score_sde's VP networks.
    """
    return torch.zeros_like(t), torch.ones_like(t)


def minus_eps(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the noise, as networks in EDM's VE preconditioner say it.

    In use: EDM's VE networks.
    """
    return torch.zeros_like(t), -torch.ones_like(t)


def x0(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """The data.

    In use: diffusers (`sample`), lucidrains (`pred_x0`), azula's denoisers, any denoiser D(x, sigma).
    """
    return torch.ones_like(t), torch.zeros_like(t)


def v(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha eps - sigma x0 (Salimans & Ho, Progressive Distillation, 2022).

    In use: diffusers and MONAI (`v_prediction`), lucidrains (`pred_v`, the default), Stable Diffusion 2, imagen-pytorch
    (`v`).
    """
    alpha, sigma = schedule(t)
    return -sigma, alpha


def velocity(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha' x0 + sigma' eps, the flow-matching target; eps - x0 on the straight schedule.

    In use: SD3, Flux, Sana and others in diffusers (FlowMatchEuler).
    """
    return schedule.rates(t)


def data_velocity(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """Minus velocity, x0 - eps on the straight schedule: of flows from noise to data (SiT, torchcfm).

    In use: SiT, torchcfm, flow_matching, rectified-flow-pytorch (`flow`).
    """
    dalpha, dsigma = schedule.rates(t)
    return -dalpha, -dsigma


def score(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """-eps / sigma, the gradient of the log density of x.

    In use: score_sde's VE networks, NCSN++ in diffusers.
    """
    _, sigma = schedule(t)
    return torch.zeros_like(t), -1 / sigma


@dataclass(frozen=True)
class Edm:
    """The raw output F of an EDM network: x0 = c_skip x/alpha + c_out F at noise level sigma/alpha.

    In use: the bare networks of EDM, EDM2, k-diffusion and lucidrains' ElucidatedDiffusion.

    References:
        Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022.
        https://arxiv.org/abs/2206.00364
    """

    sigma_data: float = 0.5

    def __post_init__(self):
        if not 0 < self.sigma_data < math.inf:
            raise UsageError(f"got edm({self.sigma_data}); sigma_data is positive, usually 0.5, so give such a number")

    def __call__(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        # With s = sigma/alpha, d = sigma_data: F = (x0 - c_skip (x0 + s eps)) / c_out,
        # c_skip = d^2 / (s^2 + d^2), c_out = s d / sqrt(s^2 + d^2).
        alpha, sigma = schedule(t)
        norm = torch.sqrt(sigma**2 + (self.sigma_data * alpha) ** 2)
        return sigma / norm / self.sigma_data, -self.sigma_data * alpha / norm


edm = Edm  # written like the others


@dataclass(frozen=True)
class Consistency:
    """The raw output F of a consistency model, f = c_skip x/alpha + c_out F, whose f is x/alpha itself at sigma_min.

    In use: OpenAI's consistency models.

    c_skip and c_out have sigma - sigma_min where EDM's have sigma. f stands in the place of x0: it is where the model
    jumps to, not the mean of the data, and eps is the direction of that jump.

    References:
        Song et al., Consistency Models, 2023, appendix C. https://arxiv.org/abs/2303.01469
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002

    def __post_init__(self):
        if not (0 < self.sigma_data < math.inf and 0 < self.sigma_min < math.inf):
            raise UsageError(
                f"got consistency({self.sigma_data}, {self.sigma_min}); sigma_data and sigma_min are positive, usually "
                "0.5 and 0.002, so give such numbers"
            )

    def __call__(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        # F as above, with c_skip = d^2 / (r^2 + d^2), c_out = r d / sqrt(s^2 + d^2), where r = s - sigma_min, which is
        # kept from being zero at the end, where F is not heard.
        alpha, sigma = schedule(t)
        d, r = self.sigma_data * alpha, sigma - self.sigma_min * alpha + 1e-150
        norm = torch.sqrt(sigma**2 + d**2) / (r**2 + d**2)
        return r * norm / self.sigma_data, -d * sigma / r * norm


consistency = Consistency

PARAMETERIZATIONS: dict[str, Parameterization | type[Edm] | type[Consistency]] = {
    "eps": eps,
    "minus_eps": minus_eps,
    "x0": x0,
    "v": v,
    "velocity": velocity,
    "data_velocity": data_velocity,
    "score": score,
    "edm": Edm,
    "consistency": Consistency,
}


def convert(
    y: Float[Tensor, "batch *event"],
    x: Float[Tensor, "batch *event"],
    t: Float[Tensor, " batch"],
    schedule: Schedule,
    source: Parameterization,
    target: Parameterization,
) -> Float[Tensor, "batch *event"]:
    """The prediction y of kind `source`, made at x and t, as one of kind `target`.

    Coefficients are float64 and cast to y's dtype last. Where the source does not determine the target (noise at
    alpha = 0 says nothing of the data) the result is not finite or meaningless.
    """
    if source == target:
        return y
    t = double(t)
    alpha, sigma = schedule(t)
    # Where a common factor alpha = 0 cancels, as from score to eps at zero terminal SNR, this keeps 0/0 from appearing.
    alpha = alpha + 1e-150
    (a, b), (a_new, b_new) = source(schedule, t), target(schedule, t)
    determinant = a * sigma - b * alpha
    of_y, of_x = (a_new * sigma - b_new * alpha) / determinant, (b_new * a - a_new * b) / determinant
    of_y, of_x = (along(back(c, y).to(y.device, y.dtype), y) for c in (of_y, of_x))
    return of_y * y + of_x * x
