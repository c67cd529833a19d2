"""How likely a sample is to the model: its log-density, along the probability-flow ODE to the noise.

In y = x / alpha over s = sigma / alpha the ODE is dy/ds = eps, and a density that it carries changes by its divergence:

    log p(x, t) = log p(y, s at the end) + int sigma tr J d ln s - d ln alpha(t).

Both are integrated by Heun's method in `STEPS` steps, even in log-SNR, the trace by random signs z, E z' J z = tr J; so
that the value of a draw is uncertain by its signs, and the mean over draws, with its interval, is not biased by them.
At the end x is taken to be normal, of variance alpha^2 + sigma^2: data of variance about one, hardly seen there.

References:
    Song et al., Score-based generative modeling through stochastic differential equations, 2021.
    https://arxiv.org/abs/2011.13456
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.clock import Clock
from ..diffusion.continuous import Schedule, along
from ..diffusion.ddim import LEAST_AMPLITUDE
from ..linalg.linearize import linearize
from .point import Point
from .quantity import Quantity, Values, Variable, dot
from .sensitivity import LAST_LOGSNR

STEPS = 32


def rising(clock: Clock, schedule: Schedule, t: Float[Tensor, " batch"], steps: int) -> Float[Tensor, "nodes batch"]:
    """Times from t to pure noise, even in log-SNR; whole timesteps where the clock counts them, some of them twice."""
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=t.device)[:, None]
    first, last = schedule.logsnr(t), schedule.logsnr(torch.ones_like(t)).clamp_min(-LAST_LOGSNR)
    nodes = schedule.time(first + share * (last - first))
    if clock.discrete:
        nodes = clock.base.time(clock.base(nodes).round())
    return torch.cat([t[None], torch.maximum(nodes[1:], t)])


def log_densities(point: Point, steps: int) -> Float[Tensor, " batch"]:
    """The integral above, float64."""
    predictor, d = point.predictor, point.x[0].numel()
    times = rising(predictor.clock, predictor.schedule, point.t, steps)
    alpha, sigma = predictor.schedule(times)
    alpha = alpha.clamp_min(LEAST_AMPLITUDE)
    ratio = sigma / alpha
    signs = [z.reshape(point.x.shape).to(point.x.dtype) for z in point.probes]

    def asked(y: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """eps, and sigma tr J."""
        line = linearize(predictor, (along(alpha[i], y) * y).to(point.x.dtype), times[i], point.methods, record=False)
        trace = torch.stack([dot(z, line.jvp(dx=z)) for z in signs]).mean(0)
        return line.output.double(), sigma[i] * trace

    y = point.x.double() / along(alpha[0], point.x)
    total = -d * alpha[0].log()
    for i in range(steps):
        step, rise = along(ratio[i + 1] - ratio[i], y), (ratio[i + 1] / ratio[i]).log()
        noise, trace = asked(y, i)
        other, later = asked(y + step * noise, i + 1)
        y = y + step * (noise + other) / 2
        total = total + rise * (trace + later) / 2
    variance = 1 + ratio[-1].square()
    return total - (d * (2 * math.pi * variance).log() + dot(y, y) / variance) / 2


def log_density(point: Point) -> Values:
    return {"log_density": log_densities(point, STEPS)}


QUANTITIES = {
    "log_density": Quantity(
        log_density,
        {"log_density": Variable("log-density of x_t, by the model's probability flow to the noise", "1", "nats")},
        lambda work: 2 * STEPS * (1 + work.probes),
        of_noise=True,
    )
}
