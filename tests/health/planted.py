"""Models that are known to be right, of three sizes, and faults that are put into them."""

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

import lipdiag
from lipdiag.diffusion.clock import LogSigma, Reversed, Timesteps, Unit
from lipdiag.diffusion.exact import GaussianMixture
from lipdiag.diffusion.parameterization import Edm, convert, eps, v, velocity, x0
from lipdiag.diffusion.predictor import NetworkPredictor, Predictor
from lipdiag.diffusion.schedule import Karras, Linear, Schedule, Straight

LARGE, SMALL = 32, 16


@cache
def mixture(schedule: Schedule | None = None, size: int = LARGE) -> GaussianMixture:
    """Four clusters, thin in most of their dimensions, in [-1, 1] or about."""
    generator = torch.Generator().manual_seed(0)
    means = 0.6 * torch.randn(4, size, generator=generator, dtype=torch.float64)
    variances = torch.full((4, size), 0.05, dtype=torch.float64)
    variances[:, : 3 * size // 4] = 1e-4
    return GaussianMixture(torch.ones(4), means, variances, schedule or Linear(), Timesteps())


@cache
def data(size: int = LARGE, count: int = 512) -> np.ndarray:
    """Samples of the mixture."""
    return mixture(None, size).draw(count, torch.Generator().manual_seed(1)).numpy()


class Exact(nn.Module):
    """The best prediction as a network of some kind, which is told its own time."""

    def __init__(self, schedule: Schedule, kind: Callable, clock) -> None:
        super().__init__()
        self.model, self.kind, self.clock = mixture(schedule), kind, clock

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        t = self.clock.time(timestep.double())
        noise = self.model._noise(x.double(), t)
        return convert(noise, x.double(), t, self.model.schedule, eps, self.kind).to(x.dtype)


def exact(kind: Callable = eps, schedule: Schedule | None = None, clock=None) -> NetworkPredictor:
    """The exact model of a kind."""
    schedule, clock = schedule or Linear(), clock or Timesteps()
    return NetworkPredictor(Exact(schedule, kind, clock), schedule, kind, clock, (LARGE,))


ZOO: dict[str, Callable[[], NetworkPredictor]] = {
    "ddpm": exact,
    "v": lambda: exact(v),
    "x0": lambda: exact(x0),
    "flow": lambda: exact(velocity, Straight(), Unit()),
    "reversed flow": lambda: exact(velocity, Straight(), Reversed(Unit())),
    "edm": lambda: exact(Edm(), Karras(), LogSigma(Karras())),
}
"""Exact models of every kind."""


class Perceptron(nn.Module):
    """A small network: an embedding of time, and three layers that are told it."""

    def __init__(self, size: int = SMALL, width: int = 96) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, -7, 16)), persistent=False)
        self.time_embed = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.first, self.last = nn.Linear(size, width), nn.Linear(width, size)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(3)
        )

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        angles = timestep[:, None] * self.frequencies.to(timestep.dtype)
        told = self.time_embed(torch.cat([angles.sin(), angles.cos()], 1).to(x.dtype))
        h = self.first(x) + told
        for block in self.blocks:
            h = h + block(h + told)
        return x + self.last(h)


@cache
def perceptron(seed: int = 0, steps: int = 800) -> NetworkPredictor:
    """One trained for some seconds on the mixture."""
    torch.manual_seed(seed)
    network, schedule = Perceptron(), Linear()
    draws = torch.from_numpy(data(SMALL, 4096)).float()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    alphas, sigmas = (c.float() for c in schedule(Timesteps().time(torch.arange(1000, dtype=torch.float64))))
    for _ in range(steps):
        k = torch.randint(0, 1000, (256,))
        noise = torch.randn(256, SMALL)
        x = alphas[k, None] * draws[torch.randint(0, 4096, (256,))] + sigmas[k, None] * noise
        optimizer.zero_grad()
        error = (network(x, k.float()) - noise).square().mean(1)
        error.mean().backward()
        optimizer.step()
        decay.step()
    return NetworkPredictor(network.eval(), schedule, eps, Timesteps(), (SMALL,))


def unet() -> NetworkPredictor:
    """The embedded DDPM."""
    return lipdiag.load("digits-ddpm")


class Around(nn.Module):
    """A network with something done to what it is told or says."""

    def __init__(self, network: nn.Module, how: Callable) -> None:
        super().__init__()
        self.network, self.how = network, how

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        def ask(x: Tensor, timestep: Tensor) -> Tensor:
            y = self.network(x, timestep)
            return getattr(y, "sample", y)

        return self.how(ask, x, timestep)


def around(model: NetworkPredictor, how: Callable, **changes) -> NetworkPredictor:
    """The same model with something done to its network, or to how it is used."""
    parts = {name: getattr(model, name) for name in ("schedule", "parameterization", "clock", "shape")} | changes
    return NetworkPredictor(Around(model.network, how), **parts)


def among(x: Tensor, timestep: Tensor, low: float, high: float) -> Tensor:
    return ((timestep >= low) & (timestep < high)).view(-1, *[1] * (x.ndim - 1))


def plain(ask: Callable, x: Tensor, timestep: Tensor) -> Tensor:
    return ask(x, timestep)


USED: dict[str, tuple[str, Callable[[NetworkPredictor], Predictor]]] = {
    "larger": ("wrong_scale", lambda m: around(m, lambda ask, x, k: 1.15 * ask(x, k))),
    "smaller": ("wrong_scale", lambda m: around(m, lambda ask, x, k: 0.8 * ask(x, k))),
    "unit time": ("wrong_time", lambda m: around(m, plain, clock=Unit())),
    "backwards": ("wrong_time", lambda m: around(m, plain, clock=Reversed(Timesteps()))),
    "one more": ("shifted_time", lambda m: around(m, lambda ask, x, k: ask(x, k + 1))),
    "one less": ("shifted_time", lambda m: around(m, lambda ask, x, k: ask(x, (k - 1).clamp_min(0)))),
    "band": (
        "untrained_band",
        lambda m: around(m, lambda ask, x, k: torch.where(among(x, k, 60, 400), 0.3 * x.sin(), ask(x, k))),
    ),
    "high band": (
        "untrained_band",
        lambda m: around(m, lambda ask, x, k: torch.where(among(x, k, 500, 1000), 0.3 * x.sin(), ask(x, k))),
    ),
    "schedule": ("wrong_schedule", lambda m: around(m, plain, schedule=lipdiag.diffusion.schedule.SquaredCosine())),
    "prediction": ("wrong_prediction", lambda m: around(m, plain, parameterization=v)),
    "rounded": ("rounded_time", lambda m: around(m, lambda ask, x, k: ask(x, k.bfloat16().to(k.dtype)))),
    "deaf": ("ignored_time", lambda m: around(m, lambda ask, x, k: ask(x, torch.full_like(k, 300.0)))),
}
"""Ways to use a model wrongly: name, the fault to be found, and how."""


def random_weights(model: NetworkPredictor) -> NetworkPredictor:
    """The network as it was before its training."""
    broken = copy.deepcopy(model)
    torch.manual_seed(3)
    for module in broken.network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return broken


def emptied(model: NetworkPredictor, layer: str) -> NetworkPredictor:
    """With weights of 0 in one layer."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        for weight in dict(broken.network.named_modules())[layer].parameters():
            weight.zero_()
    return broken


def transplanted(model: NetworkPredictor, donor: NetworkPredictor, layer: str) -> NetworkPredictor:
    """With another model's weights in one layer."""
    broken = copy.deepcopy(model)
    found = dict(donor.network.named_modules())[layer].state_dict()
    dict(broken.network.named_modules())[layer].load_state_dict(found)
    return broken
