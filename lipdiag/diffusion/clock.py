"""The network's own time: what a model trained at noise level t is told.

A clock is monotone in t and invertible; `Shared` is E-TSDM: timesteps near the data are told to the network only up to
the block they lie in, and while the noise level stays the true one the model cannot tell times of one block apart.

References:
    Yang et al., Lipschitz Singularities in Diffusion Models, 2024. https://arxiv.org/abs/2306.11251
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..errors import UsageError
from .continuous import Kept, Schedule, back, double

SNAP = 1e-6  # a timestep this near to an integer is that integer: (k + 1) / count * count - 1 is k only up to rounding
EDGE = 1e-5  # of the whole time: so near to an end is the end, in edges that were printed


class Clock(ABC):
    """A model's own time as a function of t; concrete clocks are frozen dataclasses."""

    @property
    @abstractmethod
    def unit(self) -> str:
        """What one timestep is, for axes and messages."""

    @property
    def discrete(self) -> bool:
        """Whether the model was trained on integers only."""
        return False

    @property
    def base(self) -> "Clock":
        """The clock without sharing."""
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The timesteps at t = 0 and at t = 1; of an index the first one, and the one after the last."""
        first, last = self.forward(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")).tolist()
        return first, last

    @property
    def tenth(self) -> float:
        """The timestep after the first tenth, from the data on: where sharing ends by default."""
        first, last = self.ends
        return first + (last - first) / 10

    def holds(self, timesteps: Iterable[float]) -> bool:
        """Whether timesteps lie between the ends, or as near as six printed digits are."""
        low, high = sorted(self.ends)
        slack = EDGE * (high - low) if high - low < math.inf else EDGE
        return all(low - slack <= timestep <= high + slack for timestep in timesteps)

    def __call__(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The timestep at t, float64."""
        return back(self.forward(double(t)), t)

    def time(self, timestep: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The t of a timestep, float64."""
        return back(self.inverse(double(timestep)), timestep)

    @abstractmethod
    def forward(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The timestep of float64 t."""

    @abstractmethod
    def inverse(self, timestep: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The t of a float64 timestep."""


@dataclass(frozen=True)
class Timesteps(Clock):
    """Indices 0, 1, ..., count - 1 of a table: index k is t = (k + 1) / count.
    In use: diffusers, OpenAI's repositories, DiT, lucidrains, MONAI: whatever has a table of betas.
    """

    count: int = 1000

    def __post_init__(self):
        if self.count < 1:
            raise UsageError(f"got timesteps({self.count}); a table has at least 1 timestep, so give its length")

    @property
    def unit(self) -> str:
        return "timestep"

    @property
    def discrete(self) -> bool:
        return True

    @property
    def ends(self) -> tuple[float, float]:
        return 0.0, float(self.count)

    def forward(self, t):
        k = self.count * t - 1
        slip = (k.round() - k).detach()
        return k + torch.where(slip.abs() <= SNAP, slip, 0)  # the derivative stays `count`

    def inverse(self, timestep):
        return (timestep + 1) / self.count


@dataclass(frozen=True)
class Unit(Clock):
    """t itself, times a scale.
    In use: score_sde's VP networks (999), SD3 and others in diffusers (1000), Flux (1).
    """

    scale: float = 1.0

    def __post_init__(self):
        _require_positive(self.scale, "unit")

    @property
    def unit(self) -> str:
        return "t" if self.scale == 1 else f"t/{1 / self.scale:g}"

    def forward(self, t):
        return t * self.scale

    def inverse(self, timestep):
        return timestep / self.scale


@dataclass(frozen=True)
class Sigma(Clock):
    """The noise-to-signal ratio sigma / alpha, which is sigma itself for VE and EDM.
    In use: score_sde's VE networks, NCSN++ in diffusers, k-diffusion, denoisers D(x, sigma).

    The ratio rather than sigma: it has an inverse that is accurate at both ends for every schedule.
    """

    schedule: Schedule

    @property
    def unit(self) -> str:
        return "sigma/alpha"

    def forward(self, t):
        alpha, sigma = self.schedule(t)
        return sigma / alpha

    def inverse(self, timestep):
        return self.schedule.time(-2 * timestep.log())


@dataclass(frozen=True)
class LogSigma(Clock):
    """The logarithm of a multiple of the noise-to-signal ratio, times a scale.
    In use: EDM and EDM2 (1/4), ElucidatedDiffusion (1/4), EDM's VE networks (log(sigma / 2)), consistency models (250).
    """

    schedule: Schedule
    scale: float = 0.25
    factor: float = 1.0

    def __post_init__(self):
        _require_positive(self.scale, "log_sigma")
        _require_positive(self.factor, "log_sigma")

    @property
    def unit(self) -> str:
        ratio = "sigma/alpha" if self.factor == 1 else f"{self.factor:g} sigma/alpha"
        return f"log({ratio})" if self.scale == 1 else f"{self.scale:g} log({ratio})"

    def forward(self, t):
        return self.scale * (math.log(self.factor) - self.schedule.logsnr(t) / 2)

    def inverse(self, timestep):
        return self.schedule.time(2 * math.log(self.factor) - 2 / self.scale * timestep)


@dataclass(frozen=True)
class LogSNR(Clock):
    """The log signal-to-noise ratio 2 log(alpha / sigma), which falls in t.
    In use: lucidrains' continuous-time diffusion, imagen-pytorch, VDM, simple diffusion.
    """

    schedule: Schedule

    @property
    def unit(self) -> str:
        return "log SNR"

    def forward(self, t):
        return self.schedule.logsnr(t)

    def inverse(self, timestep):
        return self.schedule.time(timestep)


@dataclass(frozen=True)
class Reversed(Clock):
    """A bounded clock read backwards, from noise to data: 1 - t for SiT and torchcfm, whose time 1 is the data.
    In use: SiT, torchcfm, flow_matching, rectified-flow-pytorch, all as reversed(unit()).
    """

    clock: Clock

    def __post_init__(self):
        if not isinstance(self.clock, Timesteps | Unit):
            raise UsageError(
                f"got {type(self.clock).__name__.lower()} to be reversed; only timesteps and unit have two ends, so "
                "give one of these"
            )

    @property
    def _sum(self) -> float:
        """The sum of the first timestep and the last."""
        return sum(self.clock.ends) - self.clock.discrete

    @property
    def ends(self) -> tuple[float, float]:
        first, last = self.clock.ends
        return self._sum - first, self._sum - last

    @property
    def unit(self) -> str:
        return f"{self.clock.unit}, from noise to data"

    @property
    def discrete(self) -> bool:
        return self.clock.discrete

    def forward(self, t):
        return self._sum - self.clock.forward(t)

    def inverse(self, timestep):
        return self.clock.inverse(self._sum - timestep)


@dataclass(frozen=True)
class Shared(Clock):
    """E-TSDM: timesteps between the data and `end` are told as the edge of their block on the data's side.
    In use: E-TSDM and `lipdiag.share_timesteps`.

    From 0, or the first timestep of a clock that falls in t, to `end` there are `blocks` equal blocks (cut at integers
    for an index clock), or those between `edges`. From `end` on the clock is the original. The derivative inside a
    block is exactly 0. Timesteps before the first edge belong to the first block.

    Args:
        clock: The clock without sharing; integers are snapped by it before they are shared.
        end: The first timestep that is not shared, in the clock's own unit.
        blocks: How many blocks there are; follows from `edges` where these are given.
        edges: Bounds of the blocks from the data on, the last being `end`; falling for a clock that falls in t.
    """

    clock: Clock
    end: float = 100.0
    blocks: int = 5
    edges: tuple[float, ...] = ()

    def __post_init__(self):
        if isinstance(self.clock, Shared):
            raise UsageError("got a shared clock inside a shared clock; a clock is shared once: give all edges at once")
        if self.edges:
            object.__setattr__(self, "blocks", len(self.edges) - 1)
        most = (self.end - self._first) * self._sign if self.discrete else 1e6
        if not 1 <= self.blocks <= most or not math.isfinite(self.end):
            raise UsageError(
                f"got {self.blocks} blocks up to {self.end}; 1 to {most:g} fit in there, so give fewer or another end"
            )
        steps = [(b - a) * self._sign for a, b in itertools.pairwise(self.bounds)]
        if not (min(steps) > 0 and all(map(math.isfinite, self.bounds))):
            way = "rise" if self._sign > 0 else "fall"
            raise UsageError(
                f"got the edges {self.bounds}; with this clock they {way} from the data on, so give them in that order"
            )
        if self.bounds[-1] != self.end:
            raise UsageError(
                f"got edges up to {self.bounds[-1]:g} and end {self.end:g}; the last edge is `end`, so make them equal"
            )
        if self.discrete and any(edge != round(edge) for edge in self.bounds):
            raise UsageError(f"got the edges {self.bounds}; an index clock is shared at integers, so round them")
        object.__setattr__(self, "_bounds", Kept(torch.tensor(self.bounds, dtype=torch.float64, device="cpu")))

    @cached_property
    def _sign(self) -> int:
        """+1 for a clock that rises in t, -1 for one that falls."""
        early, late = self.clock(torch.tensor([0.25, 0.75], dtype=torch.float64, device="cpu")).tolist()
        return 1 if late > early else -1

    @property
    def _first(self) -> float:
        """Where equal blocks begin."""
        return self.clock.ends[0] if self._sign < 0 else 0.0

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """All edges of the blocks, including `end`."""
        if self.edges:
            return tuple(float(edge) for edge in self.edges)
        first = self._first
        uniform = [first + i * (self.end - first) / self.blocks for i in range(self.blocks)]
        return (*(float(round(edge)) if self.discrete else edge for edge in uniform), float(self.end))

    @property
    def unit(self) -> str:
        return self.clock.unit

    @property
    def discrete(self) -> bool:
        return self.clock.discrete

    @property
    def base(self) -> Clock:
        return self.clock

    def block(self, timestep: Float[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
        """Index of the block that a timestep of the original clock lies in; `blocks` itself from `end` on."""
        bounds = self._bounds.on(timestep.device)[1:].to(timestep.dtype)  # type: ignore[attr-defined]
        return ((timestep.detach().unsqueeze(-1) - bounds) * self._sign >= 0).sum(-1)

    def forward(self, t):
        timestep = self.clock.forward(t)
        block = self.block(timestep)
        bounds = self._bounds.on(t.device).to(t.dtype)  # type: ignore[attr-defined]
        edge = bounds.index_select(0, block.reshape(-1)).reshape(block.shape)
        return torch.where(block < self.blocks, edge, timestep)

    def inverse(self, timestep):
        return self.clock.inverse(timestep)


def _require_positive(scale: float, name: str) -> None:
    if not 0 < scale < math.inf:
        raise UsageError(f"got {name} with a scale of {scale}; a scale is positive and finite, so give such a number")


CLOCKS: dict[str, type[Clock]] = {
    "timesteps": Timesteps,
    "unit": Unit,
    "sigma": Sigma,
    "log_sigma": LogSigma,
    "log_snr": LogSNR,
    "reversed": Reversed,
    "shared": Shared,
}
