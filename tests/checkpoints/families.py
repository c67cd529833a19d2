"""Small networks of every kind of data and convention, trained for few steps or many, for what is said of them."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipdiag.data.dataset import dataset
from lipdiag.diffusion.clock import Clock, LogSigma, Reversed, Sigma, Timesteps, Unit
from lipdiag.diffusion.exact import GaussianMixture
from lipdiag.diffusion.parameterization import (
    Edm,
    Parameterization,
    convert,
    data_velocity,
    eps,
    score,
    v,
    velocity,
    x0,
)
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import VE, VP, Karras, Linear, Normalized, Schedule, SquaredCosine, Straight

LINEAR, STRAIGHT, KARRAS = Linear(), Straight(), Karras()
CONVENTIONS: tuple[tuple[Schedule, Parameterization, Clock], ...] = (
    (LINEAR, eps, Timesteps()),
    (LINEAR, v, Timesteps()),
    (LINEAR, x0, Timesteps()),
    (SquaredCosine(), eps, Timesteps()),
    (VP(), eps, Unit(999.0)),
    (STRAIGHT, velocity, Unit()),
    (STRAIGHT, velocity, Unit(1000.0)),
    (STRAIGHT, data_velocity, Reversed(Unit())),
    (Normalized(KARRAS), Edm(), LogSigma(KARRAS)),
    (VE(), score, Sigma(VE())),
)
STEPS = (0, 20, 100, 500)


class Features(nn.Module):
    """Sines and cosines of the time, in units of the convention's range, and 32 features made of them."""

    def __init__(self, clock: Clock):
        super().__init__()
        t = torch.linspace(1e-3, 1, 200, dtype=torch.float64)
        values = clock(t)
        self.logarithm = 0 < float(values.min()) < 1e-4 * float(values.max())  # noise levels of many magnitudes
        values = values.log() if self.logarithm else values
        self.offset, self.range = float(values.min()), float(values.max() - values.min())
        self.after = nn.Sequential(nn.Linear(17, 32), nn.SiLU(), nn.Linear(32, 32))

    def forward(self, told: Tensor) -> Tensor:
        told = told.clamp_min(1e-9).log() if self.logarithm else told
        place = (told[:, None].float() - self.offset) / self.range
        angles = place * torch.logspace(0, 2, 8)
        return self.after(torch.cat([place, angles.sin(), angles.cos()], -1))


class Perceptron(nn.Module):
    """Of flat data."""

    def __init__(self, size: int, clock: Clock, width: int = 96):
        super().__init__()
        self.time = Features(clock)
        self.layers = nn.ModuleList([nn.Linear(size + 32, width), nn.Linear(width + 32, width)])
        self.last = nn.Linear(width, size)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        features, h = self.time(told), x.flatten(1)
        for layer in self.layers:
            h = nn.functional.silu(layer(torch.cat([h, features], -1)))
        return self.last(h).view_as(x)


class Convolutions(nn.Module):
    """Of data with one channel and one to three axes."""

    def __init__(self, axes: int, clock: Clock, width: int = 16):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        self.time = Features(clock)
        self.first = conv(1, width, 3, padding=1)
        self.layers = nn.ModuleList([conv(width, width, 3, padding=d, dilation=d) for d in (1, 2)])
        self.shifts = nn.ModuleList([nn.Linear(32, width) for _ in self.layers])
        self.norms = nn.ModuleList([nn.GroupNorm(4, width) for _ in self.layers])
        self.last = conv(width, 1, 3, padding=1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        features, h = self.time(told), self.first(x)
        for layer, shift, norm in zip(self.layers, self.shifts, self.norms, strict=True):
            added = shift(features).view(*h.shape[:2], *[1] * (h.ndim - 2))
            h = h + layer(nn.functional.silu(norm(h) + added))
        return self.last(nn.functional.silu(h))


class InTheirUnits(nn.Module):
    """A network of noise levels up to hundreds: shown x / sqrt(1 + sigma^2), and its output divided by sigma."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        sigma = told.clamp_min(1e-3).view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        return self.inner(x / (1 + sigma**2).sqrt(), told) / sigma


def points(n: int, generator: torch.Generator) -> Tensor:
    """Points of a plane, near a circle."""
    angle = torch.rand(n, generator=generator) * 2 * math.pi
    return torch.stack([angle.cos(), angle.sin()], -1) + 0.05 * torch.randn(n, 2, generator=generator)


def clusters(n: int, generator: torch.Generator) -> Tensor:
    """Points of a plane, of two unequal clusters."""
    right = (torch.rand(n, generator=generator) < 0.3).float()[:, None]
    return (
        torch.tensor([[-0.5, 0.2]]) + right * torch.tensor([[1.5, 0.6]]) + 0.1 * torch.randn(n, 2, generator=generator)
    )


def signals(n: int, generator: torch.Generator) -> Tensor:
    """Sines of 32 samples."""
    frequency, phase = 1 + 2 * torch.rand(n, 1, generator=generator), 6.28 * torch.rand(n, 1, generator=generator)
    return (frequency * torch.linspace(0, 6.28, 32) + phase).sin()[:, None]


def pictures(n: int, generator: torch.Generator) -> Tensor:
    """Digits."""
    data = dataset("digits")
    return torch.stack([data[int(i)] for i in torch.randint(1797, (n,), generator=generator)])


def volumes(n: int, generator: torch.Generator) -> Tensor:
    """Balls of 8 x 8 x 8 voxels, light on dark."""
    places = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 8)] * 3, indexing="ij"))
    centers = 0.8 * torch.rand(n, 3, 1, 1, 1, generator=generator) - 0.4
    radius = 0.3 + 0.4 * torch.rand(n, 1, 1, 1, generator=generator)
    return ((radius - (places - centers).norm(dim=1)) * 5).tanh()[:, None]


DATA = {"points": points, "clusters": clusters, "signals": signals, "pictures": pictures, "volumes": volumes}


@dataclass(frozen=True)
class Family:
    """Data, convention and kind of network."""

    data: str
    convention: tuple[Schedule, Parameterization, Clock]
    flat: bool
    seed: int

    def network(self) -> nn.Module:
        """Never trained."""
        torch.manual_seed(self.seed)
        shape, clock = self.examples(1)[0].shape, self.convention[2]
        inner = Perceptron(math.prod(shape), clock) if self.flat else Convolutions(len(shape) - 1, clock)
        return InTheirUnits(inner) if isinstance(self.convention[0], VE) else inner

    def examples(self, n: int, seed: int = 0) -> Tensor:
        """Of the data."""
        return DATA[self.data](n, torch.Generator().manual_seed(seed))

    def trained(self, steps: tuple[int, ...] = STEPS) -> Iterator[tuple[int, NetworkPredictor]]:
        """The network after so many steps each."""
        network, (schedule, kind, clock) = self.network(), self.convention
        data, generator = self.examples(1024, 1), torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        for before, until in itertools.pairwise((0, *steps)):
            for _ in range(before, until):
                step(network, data, generator, optimizer, self.convention)
            yield until, NetworkPredictor(network, schedule, kind, clock, tuple(data.shape[1:]))


def step(network: nn.Module, data: Tensor, generator: torch.Generator, optimizer, convention) -> None:
    """One step of training, by the mean squared error of the network's output."""
    schedule, kind, clock = convention
    batch = data[torch.randint(len(data), (32,), generator=generator)]
    t = (1e-3 + (1 - 1e-3) * torch.rand(32, generator=generator, dtype=torch.float64)).clamp(max=0.999)
    if clock.discrete:
        t = clock.time(clock(t).round().clamp_min(0))
    if isinstance(schedule, Normalized):
        t = schedule.time(-2 * (1.2 * torch.randn(32, generator=generator, dtype=torch.float64) - 1.2)).clamp(1e-3, 1)
    shape = (-1, *[1] * (batch.ndim - 1))
    noise = torch.randn(batch.shape, generator=generator)
    alpha, sigma, a, b = (c.view(shape).float() for c in (*schedule(t), *kind(schedule, t)))
    target = a * batch + b * noise
    weight = sigma if isinstance(schedule, VE) else 1
    loss = (weight * (network(alpha * batch + sigma * noise, clock(t).float()) - target)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def families(seeds: range) -> list[Family]:
    """Every kind of data in every convention."""
    return [
        Family(data, convention, flat, seed)
        for seed in seeds
        for data, flat in (
            ("points", True), ("clusters", True), ("signals", False), ("signals", True), ("pictures", False),
            ("pictures", True), ("volumes", False),
        )
        for convention in CONVENTIONS
    ]  # fmt: skip


class Blend(nn.Module):
    """The exact denoiser of a mixture in `size` dimensions, to the part `skill`, and for the rest a random network."""

    def __init__(self, size: int, convention: tuple[Schedule, Parameterization, Clock], skill: float, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.skill, (self.schedule, self.kind, self.clock) = skill, convention
        # neighbours of one another vary together, as pixels do, about a mean that is not 0
        bumps = torch.randn(6, max(2, size // 8), generator=generator, dtype=torch.float64)
        means = 0.6 * nn.functional.interpolate(bumps[None], size, mode="linear", align_corners=True)[0] + 0.2
        self.exact = GaussianMixture(torch.ones(6), means, torch.full_like(means, 0.03), self.schedule)
        inner = Perceptron(size, self.clock)
        self.random = InTheirUnits(inner) if isinstance(self.schedule, VE) else inner

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        t = self.clock.time(told.double()).nan_to_num(0.5).clamp(1e-3, 1)
        y = convert(self.exact(x.double(), t), x.double(), t, self.schedule, eps, self.kind)
        return (self.skill * y + (1 - self.skill) * self.random(x, told)).to(x.dtype)

    def predictor(self) -> NetworkPredictor:
        """Rightly labelled."""
        return NetworkPredictor(self, self.schedule, self.kind, self.clock, tuple(self.exact.shape))

    def examples(self, n: int) -> Tensor:
        """Of its data."""
        return self.exact.draw(n, torch.Generator().manual_seed(5)).float()
