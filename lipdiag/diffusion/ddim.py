"""The step of DDIM from time t to an earlier s: x <- a x + b eps, a = alpha_s / alpha_t and b = sigma_s - a sigma_t.

DDIM follows the probability-flow trajectory of x = alpha x0 + sigma eps. In x / alpha it reads

    d(x / alpha) = eps(x, t) d(sigma / alpha),

and one explicit Euler step of it, eps held fixed, is the rule of DDIM: first order in the step.

References:
    Song, Meng & Ermon, Denoising diffusion implicit models, 2021. https://arxiv.org/abs/2010.02502
"""

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_AMPLITUDE = 2.0**-12
"""The least alpha that a step starts from: a schedule that ends in pure noise has none, and DDIM divides by it."""


def ddim(
    alpha: Float[Tensor, "steps *batch"], sigma: Float[Tensor, "steps *batch"]
) -> tuple[Float[Tensor, "steps *batch"], Float[Tensor, "steps *batch"]]:
    """a and b of each step along these amplitudes, from noise to data; the last step ends at alpha 1, sigma 0."""
    alpha = alpha.clamp_min(LEAST_AMPLITUDE)
    a = torch.cat([alpha[1:], torch.ones_like(alpha[:1])]) / alpha
    return a, torch.cat([sigma[1:], torch.zeros_like(sigma[:1])]) - a * sigma
