"""Deterministic samplers along any times, on any schedule: what a grid of times is judged by.

All of them follow the probability-flow trajectory of y = x / alpha, dy = eps d(sigma / alpha), by the step of
`diffusion.ddim`, x <- a x + b e, and differ in the noise e that they put there:

    ddim, euler   the predicted noise itself (first order; one rule, whether it is written in x or in y)
    heun          its mean over both ends of the step, the far end by a first step of DDIM (second order, two
                  evaluations a step; a step to the data has one end)
    dpm           DPM-Solver++ 2M: the noise that goes with the x0 that is extrapolated, in log(sigma / alpha), from
                  this time and the one before (second order, one evaluation; plain at both ends)

References:
    Song, Meng & Ermon, Denoising diffusion implicit models, 2021. https://arxiv.org/abs/2010.02502
    Karras et al., Elucidating the design space of diffusion-based generative models, 2022.
    https://arxiv.org/abs/2206.00364
    Lu et al., DPM-Solver++, 2022. https://arxiv.org/abs/2211.01095
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.ddim import LEAST_AMPLITUDE, ddim
from ..diffusion.predictor import Predictor
from ..errors import UsageError, meant

RULES = ("ddim", "dpm", "euler", "heun")


def require_rule(rule: str) -> None:
    """Refuse a rule that there is not.

    Raises:
        UsageError: In that case.
    """
    if rule not in RULES:
        raise UsageError(
            f"there is no sampler {rule!r}{meant(rule, RULES)} along times of one's own: "
            f"choose one of {', '.join(RULES)}"
        )


def evaluations(rule: str, steps: int) -> int:
    """How often a sampler asks the model in so many steps."""
    return 2 * steps - 1 if rule == "heun" else steps


@torch.no_grad()
def walk(
    predictor: Predictor, x: Float[Tensor, "n *event"], times: Float[Tensor, " steps"], rule: str
) -> Iterator[tuple[Float[Tensor, "n *event"], Float[Tensor, "n *event"]]]:
    """The noise predicted at each time, and the state after the step from there; the last one is x0.

    Args:
        predictor: The model; what keeps its x0 in range is left out.
        x: The state at the first time, in the dtype of the arithmetic.
        times: From noise to data.
        rule: One of `RULES`.

    Raises:
        UsageError: If there is no such rule.
    """
    require_rule(rule)
    alpha, sigma = (amplitudes.to(x.device) for amplitudes in predictor.schedule(times))
    alpha = alpha.clamp_min(LEAST_AMPLITUDE)
    a, b = ddim(alpha, sigma)
    place = (sigma / alpha).log()
    before = None
    for i in range(len(times)):
        eps = noise = predicted(predictor, x, times[i])
        last = i + 1 == len(times)
        if rule == "heun" and not last:
            noise = (eps + predicted(predictor, a[i] * x + b[i] * eps, times[i + 1])) / 2
        elif rule == "dpm":
            x0 = (x - sigma[i] * eps) / alpha[i]
            if before is not None and not last:
                ratio = (place[i + 1] - place[i]) / (place[i] - place[i - 1])
                noise = (x - alpha[i] * (x0 + ratio / 2 * (x0 - before))) / sigma[i]
            before = x0
        x = a[i] * x + b[i] * noise
        yield eps, x


def predicted(predictor: Predictor, x: Tensor, t: Tensor) -> Tensor:
    """The model's noise at one time for all samples, asked in the dtype of its own weights."""
    dtype = next((p.dtype for p in predictor.parameters() if p.is_floating_point()), x.dtype)
    return predictor(x.to(dtype), t.to(x.device).expand(len(x))).to(x.dtype)
