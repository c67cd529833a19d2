"""What a schedule is, x = alpha(t) x0 + sigma(t) eps with t = 0 data and t = 1 noise, and those given by formulas.

Everything is computed in float64 and without cancellation as t -> 0, where the interesting things happen:
1 - alpha^2 is never formed by subtraction but by expm1 or a product of sines, logsnr = 2 log(alpha / sigma)
is a difference of logarithms of accurate numbers, and each inverse is written in the small quantity.

    VP      alpha = e^(-B/2), sigma^2 = 1 - e^(-B)      with B(t) = beta_min t + (beta_max - beta_min) t^2/2
    sub-VP  alpha = e^(-B/2), sigma   = 1 - e^(-B)
VE and Karras have alpha = 1; Straight has alpha = 1 - t, sigma = t; the cosines are written out below.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError


def double(t: Tensor) -> Tensor:
    """t in float64, on the CPU where its own device has no float64."""
    return t.to("cpu" if t.device.type == "mps" else t.device, torch.float64)


def back(y: Tensor, t: Tensor) -> Tensor:
    """y on the device that t came from."""
    return y.to(t.device, torch.float32) if t.device.type == "mps" else y


class Kept:
    """Numbers of a schedule or a clock, given on the CPU, on each device that asks: a device is waited for once."""

    def __init__(self, values: Tensor):
        self._on = {values.device: values}

    def __reduce__(self) -> tuple[type, tuple[Tensor]]:
        return Kept, (self._on[torch.device("cpu")],)

    def on(self, device: torch.device) -> Tensor:
        if device not in self._on:
            self._on[device] = self._on[torch.device("cpu")].to(device)
        return self._on[device]


def along(a: Tensor, x: Tensor) -> Tensor:
    """One number a sample, shaped to broadcast over the samples x."""
    return a.view(-1, *[1] * (x.ndim - 1))


def slope(f, t: Float[Tensor, "*shape"]):
    """Derivatives of the tensors f(t), where f acts on every element of t by itself.

    A product from the left with ones is the derivative of such a function. It is preferred to the one from the right
    because forward mode cannot be nested in `torch.autograd.forward_ad.dual_level`, where predictors are measured.
    """
    with torch.enable_grad():
        step = torch.zeros_like(t, requires_grad=True)
        moved = t + step
    if not moved.requires_grad:  # under vmap and in inference mode, by torch.func, which loads a compiler
        return under_transforms(f, t)
    with torch.enable_grad():
        values = f(moved)
    kept = torch.is_grad_enabled() and t.requires_grad

    def of(y: Tensor) -> Tensor:
        if not y.requires_grad:
            return torch.zeros_like(t)
        return torch.autograd.grad(
            y, step, torch.ones_like(y), retain_graph=True, create_graph=kept, materialize_grads=True
        )[0]

    return of(values) if isinstance(values, Tensor) else tuple(map(of, values))


def under_transforms(f, t: Float[Tensor, "*shape"]):
    """What `slope` gives, where only torch.func differentiates."""
    values, product = torch.func.vjp(f, t)[:2]
    if isinstance(values, Tensor):
        return product(torch.ones_like(values))[0]
    ones, zeros = torch.ones_like(t), torch.zeros_like(t)
    return tuple(product(tuple(ones if j == i else zeros for j in range(len(values))))[0] for i in range(len(values)))


class Schedule(ABC):
    """Amplitudes of signal and noise over t in [0, 1]; concrete schedules are frozen dataclasses."""

    def __call__(self, t: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Signal and noise amplitudes (alpha, sigma), float64."""
        alpha, sigma = self.amplitudes(double(t))
        return back(alpha, t), back(sigma, t)

    def rates(self, t: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Derivatives (alpha', sigma') in t; sigma' is infinite at t = 0 where beta(0) > 0."""
        dalpha, dsigma = slope(self.amplitudes, double(t))
        return back(dalpha, t), back(dsigma, t)

    def logsnr(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Log signal-to-noise ratio 2 log(alpha / sigma), falling in t."""
        alpha, sigma = self.amplitudes(double(t))
        return back(2 * (alpha.log() - sigma.log()), t)

    def time(self, logsnr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The t at which the log signal-to-noise ratio is `logsnr`; outside the schedule's range the nearer end."""
        t = self.inverse(double(logsnr)).clamp(-1e-6, 1 + 1e-6)
        # The clamp is kept out of the derivative, which rounding at t = 1 would otherwise turn into zero.
        return back(t + (t.clamp(0, 1) - t).detach(), logsnr)

    @abstractmethod
    def amplitudes(self, t: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """(alpha, sigma) of float64 t, each accurate relative to itself."""

    @abstractmethod
    def inverse(self, logsnr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """t of float64 logsnr."""


def require(condition: bool, got: object, allowed: str) -> None:
    """Refuse a schedule whose numbers make no sense."""
    if not condition:
        raise UsageError(f"got {got}, which is no schedule: {allowed}; change its numbers")


def noise_integral(beta_min: float, beta_max: float, t: Tensor) -> Tensor:
    """B(t), the integral of the linear beta from 0 to t."""
    return t * (beta_min + (beta_max - beta_min) / 2 * t)


def noise_integral_inverse(beta_min: float, beta_max: float, B: Tensor) -> Tensor:
    """t of B; the root in 1/t, because the usual one is inf/inf for infinite B and cancels for small B."""
    B = B.clamp_min(1e-300)
    return 2 / (beta_min / B + torch.sqrt((beta_min / B) ** 2 + 2 * (beta_max - beta_min) / B))


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) to the last digit in float64; torch's own threshold, 20, loses six.

    Not by torch's logsigmoid, which fails under nested vmap on graphics processors.
    """
    return torch.nn.functional.softplus(x, threshold=40)


@dataclass(frozen=True)
class VP(Schedule):
    """Variance-preserving diffusion, linear beta (Song et al., Score-Based Generative Modeling through SDEs, 2021).

    In use: score_sde (VPSDE), EDM's VP networks, SiT (VP); vp(0, 20) is lucidrains' continuous-time `linear` but for
    1e-4 of noise at t = 0.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self):
        require(0 <= self.beta_min <= self.beta_max < math.inf and self.beta_max > 0, self, "0 <= beta_min <= beta_max")

    def amplitudes(self, t):
        B = noise_integral(self.beta_min, self.beta_max, t)
        return torch.exp(-B / 2), torch.sqrt(-torch.expm1(-B))

    def inverse(self, logsnr):
        # alpha^2 / sigma^2 = 1 / (e^B - 1), so B = log(1 + e^-logsnr)
        return noise_integral_inverse(self.beta_min, self.beta_max, softplus(-logsnr))


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-variance-preserving diffusion: VP's signal with less noise, sigma = 1 - alpha^2 (Song et al., 2021).

    In use: score_sde (subVPSDE).
    """

    def amplitudes(self, t):
        B = noise_integral(self.beta_min, self.beta_max, t)
        return torch.exp(-B / 2), -torch.expm1(-B)

    def inverse(self, logsnr):
        # alpha / sigma = e^(-B/2) / (1 - e^-B) = 1 / (2 sinh(B/2))
        return noise_integral_inverse(self.beta_min, self.beta_max, 2 * torch.asinh(torch.exp(-logsnr / 2) / 2))


@dataclass(frozen=True)
class VE(Schedule):
    """Variance-exploding diffusion with geometric sigma (Song et al., 2021).

    In use: score_sde (VESDE), NCSN++ in diffusers, EDM's VE networks.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self):
        require(0 < self.sigma_min < self.sigma_max < math.inf, self, "0 < sigma_min < sigma_max")

    def amplitudes(self, t):
        return torch.ones_like(t), self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))

    def inverse(self, logsnr):
        return (-logsnr / 2 - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class Karras(Schedule):
    """EDM's noise levels: alpha = 1, sigma^(1/rho) linear in t (Karras et al., Elucidating the Design Space, 2022).

    In use: EDM, EDM2, k-diffusion, consistency models, lucidrains' ElucidatedDiffusion, diffusers (EDM schedulers).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self):
        allowed = "0 <= sigma_min < sigma_max and rho > 0"
        require(0 <= self.sigma_min < self.sigma_max < math.inf and 0 < self.rho < math.inf, self, allowed)

    @property
    def ends(self) -> tuple[float, float]:
        """sigma^(1/rho) at t = 0 and at t = 1."""
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def amplitudes(self, t):
        low, high = self.ends
        return torch.ones_like(t), (low + t * (high - low)) ** self.rho

    def inverse(self, logsnr):
        low, high = self.ends
        return (torch.exp(-logsnr / (2 * self.rho)) - low) / (high - low)


@dataclass(frozen=True)
class Straight(Schedule):
    """Rectified flow: alpha = 1 - t, sigma = t (Liu et al., Flow Straight and Fast, 2022).

    In use: SD3, Flux, Sana and others in diffusers (FlowMatchEuler), SiT (linear), torchcfm, flow_matching, rectified-
    flow-pytorch.
    """

    def amplitudes(self, t):
        return 1 - t, t.clone()

    def inverse(self, logsnr):
        return torch.sigmoid(-logsnr / 2)


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha proportional to cos((t + offset) / (1 + offset) pi/2) (Nichol & Dhariwal, Improved DDPM, 2021).

    In use: the continuous form of improved-diffusion's `cosine`; alpha is 1 at t = 0.
    """

    offset: float = 0.008

    def __post_init__(self):
        require(0 <= self.offset < math.inf, self, "0 <= offset")

    @property
    def start(self) -> float:
        """The angle a at t = 0; the angle at t is a + b."""
        return self.offset / (1 + self.offset) * math.pi / 2

    def amplitudes(self, t):
        # alpha = cos(a + b) / cos(a); cos^2(a) - cos^2(a + b) = sin(b) sin(2a + b); cos(a + b) from its zero at t = 1.
        a, per_time = self.start, math.pi / 2 / (1 + self.offset)
        alpha = torch.sin((1 - t) * per_time) / math.cos(a)
        return alpha, torch.sqrt(torch.sin(t * per_time) * torch.sin(2 * a + t * per_time)) / math.cos(a)

    def inverse(self, logsnr):
        # sin(a + b) = S = sqrt(sin^2 a + sigma^2 cos^2 a) and cos(a + b) = alpha cos(a); then sin(b) is
        # S cos(a) - alpha cos(a) sin(a), freed from cancellation by its conjugate.
        alpha, variance = torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr)
        sin, cos = math.sin(self.start), math.cos(self.start)
        S = torch.sqrt(sin**2 + variance * cos**2)
        b = torch.atan2(variance * cos / (S + alpha * sin).clamp_min(1e-300), alpha * cos**2 + S * sin)
        return b * (1 + self.offset) / (math.pi / 2)


@dataclass(frozen=True)
class UnnormalizedCosine(Schedule):
    """alpha = cos((t + offset) / (1 + offset) pi/2), not divided by its value at t = 0, where there is noise already.

    In use: lucidrains' ContinuousTimeGaussianDiffusion and imagen-pytorch (`alpha_cosine_log_snr`).
    """

    offset: float = 0.008

    def __post_init__(self):
        require(0 <= self.offset < math.inf, self, "0 <= offset")

    def amplitudes(self, t):
        per_time = math.pi / 2 / (1 + self.offset)
        return torch.sin((1 - t) * per_time), torch.sin((t + self.offset) * per_time)  # the cosine from its zero

    def inverse(self, logsnr):
        return torch.atan(torch.exp(-logsnr / 2)) * (1 + self.offset) / (math.pi / 2) - self.offset


@dataclass(frozen=True)
class ShiftedCosine(Schedule):
    """logsnr = -2 log tan(pi t/2) + 2 log(shift); cosine and sine for shift = 1.

    In use: progressive distillation and v-diffusion (shift 1), SiT (GVP), simple diffusion (64 / resolution).

    References:
        Hoogeboom et al., simple diffusion, 2023. https://arxiv.org/abs/2301.11093
    """

    shift: float = 1.0

    def __post_init__(self):
        require(0 < self.shift < math.inf, self, "0 < shift")

    def amplitudes(self, t):
        signal, noise = self.shift * torch.sin((1 - t) * (math.pi / 2)), torch.sin(t * (math.pi / 2))
        norm = torch.sqrt(signal**2 + noise**2)
        return signal / norm, noise / norm

    def inverse(self, logsnr):
        return torch.atan(self.shift * torch.exp(-logsnr / 2)) / (math.pi / 2)


@dataclass(frozen=True)
class Normalized(Schedule):
    """Another schedule with x divided by its own root mean square sqrt(sigma_data^2 alpha^2 + sigma^2).

    In use: the bare networks of EDM, EDM2, k-diffusion and ElucidatedDiffusion, without their preconditioner.

    What an EDM network sees: its preconditioner multiplies x by c_in = 1 / sqrt(sigma_data^2 + sigma^2), so in these
    coordinates the network's input is x itself. At equal log-SNR a Jacobian in EDM's own x is c_in times this one.
    """

    of: Schedule
    sigma_data: float = 0.5

    def __post_init__(self):
        require(0 < self.sigma_data < math.inf, self, "sigma_data is positive, usually 0.5")

    def amplitudes(self, t):
        alpha, sigma = self.of.amplitudes(t)
        norm = torch.hypot(self.sigma_data * alpha, sigma)
        return alpha / norm, sigma / norm

    def inverse(self, logsnr):
        return self.of.inverse(logsnr)
