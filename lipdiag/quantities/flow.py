"""How x moves: the probability-flow ODE dx/dt = alpha' x0 + sigma' eps, along which deterministic samplers go."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.continuous import along
from ..diffusion.parameterization import convert, eps, velocity
from ..diffusion.predictor import NetworkPredictor
from .point import Point

LEAST_SIGNAL = 1e-3
"""Amplitude of the signal below which x0 = (x - sigma eps) / alpha has lost its digits; at zero terminal SNR all."""


def flow_velocity(point: Point) -> Float[Tensor, "batch *event"]:
    """dx/dt of the probability-flow ODE, alpha' x0 + sigma' eps at the model's own x0 and eps.

    Where there is hardly any signal eps no longer tells x0, but v, a velocity or x0 itself do: a network that says one
    of these is asked for its own words there, which takes one more pass.
    """
    predictor, noise, x = point.predictor, point.eps.double(), point.x.double()
    alpha, sigma = (along(s, x) for s in predictor.schedule(point.t))
    alpha_rate, sigma_rate = (along(s, x) for s in predictor.schedule.rates(point.t))
    moved = alpha_rate * (x - sigma * noise) / alpha + sigma_rate * noise
    faint = alpha < LEAST_SIGNAL
    if not isinstance(predictor, NetworkPredictor) or predictor.parameterization == eps or not faint.any():
        return moved
    with torch.no_grad():
        said = predictor.output(point.x, predictor.clock(point.t)).double()
    own = convert(said, x, point.t, predictor.schedule, predictor.parameterization, velocity)
    return torch.where(faint, own, moved)
