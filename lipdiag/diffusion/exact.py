"""Predictors in closed form, the truth that measurements are compared with.

For any law of the data, with the posterior of x0 given x = alpha x0 + sigma eps:
    eps*(x, t) = E[eps | x] = -sigma grad log q_t(x),        d eps*/dx = (I - (alpha/sigma)^2 Cov[x0 | x]) / sigma.
Gaussian, per principal axis, V = alpha^2 s^2 + sigma^2, z = x - alpha mu:
    eps* = sigma z / V
    d_t eps* = [sigma' (alpha^2 s^2 - sigma^2) - 2 alpha alpha' s^2 sigma] z / V^2 - sigma alpha' mu / V.
Mixtures weigh their components' predictions by the posterior w_k; w_k' = w_k (l_k' - <l'>), l_k = log(pi_k q_k(x)).
"""

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from .clock import Clock, Unit
from .continuous import double, slope
from .predictor import Predictor
from .schedule import Schedule


class ExactPredictor(Predictor):
    """A predictor with its derivatives in closed form, computed in float64 whatever the dtype of x.

    With a shared clock it is the exact predictor told a shared time: the formula at the time of the block's edge.
    """

    def _apply(self, fn, recurse=True):
        # .to(dtype), .float(), .half() move the numbers but do not round them: the truth stays in float64.
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, exact in before.items():
            buffer = self._buffers[name]
            if exact is not None and buffer is not None and buffer.dtype != exact.dtype:
                self._buffers[name] = exact.to(buffer.device)
        return self

    def conditioned(self, x, t, timestep):
        return self._noise(_flat(x), self.clock.time(timestep)).reshape(x.shape).to(x.dtype)

    def time_derivative(
        self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch *event"]:
        """Partial derivative of the prediction in t at fixed x, per unit of t."""
        told, rate = self._told(t), slope(self._told, double(t))
        return (self._noise_rate(_flat(x), told) * rate[:, None]).reshape(x.shape)

    def jacobian(self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"]) -> Float[Tensor, "batch d d"]:
        """Derivative of the flattened prediction in the flattened x."""
        return self._noise_jacobian(_flat(x), self._told(t))

    def log_density(self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Logarithm of the density of x at noise level t."""
        return self._log_density(_flat(x), double(t))

    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, "{n} *event"]:
        """n samples of the data."""
        return self._draw(n, generator).reshape(n, *self.shape)

    def _told(self, t: Tensor) -> Tensor:
        """The time at which the formula is evaluated: t itself unless the clock is shared."""
        t = double(t)
        return t if self.clock.base is self.clock else self.clock.time(self.clock(t))

    @abstractmethod
    def _noise(self, x: Tensor, t: Tensor) -> Tensor:
        """eps* of flat float64 x."""

    @abstractmethod
    def _noise_rate(self, x: Tensor, t: Tensor) -> Tensor:
        """d eps*/dt."""

    @abstractmethod
    def _noise_jacobian(self, x: Tensor, t: Tensor) -> Tensor:
        """d eps*/dx."""

    @abstractmethod
    def _log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log q_t(x)."""

    @abstractmethod
    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n flat samples of the data."""


class GaussianMixture(ExactPredictor):
    """The exact predictor of data from a mixture of normal laws.

    Args:
        weights: Positive, of shape (components,); scaled to sum to 1.
        means: Of shape (components, *shape).
        covariances: Variances of the means' shape, or full matrices over flattened coordinates, (components, d, d).
            Zeros are allowed.
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    axes: Tensor | None

    def __init__(
        self,
        weights: Float[Tensor, " components"],
        means: Float[Tensor, "components *event"],
        covariances: Float[Tensor, "components ..."],
        schedule: Schedule,
        clock: Clock = Unit(),  # noqa: B008 (frozen)
    ):
        super().__init__(schedule, clock, means.shape[1:])
        if not (weights > 0).all():
            raise ValueError(
                f"got the weights {weights.tolist()}; all are positive, so leave out components without weight"
            )
        variances, axes = _principal(means, covariances)
        self.register_buffer("log_weights", double(weights).log() - double(weights).sum().log())
        self.register_buffer("means", double(means).flatten(1))
        self.register_buffer("variances", variances)
        self.register_buffer("axes", axes)

    def _along_axes(self, z: Tensor) -> Tensor:
        """Coordinates along each component's principal axes."""
        return z if self.axes is None else torch.einsum("kij,...ki->...kj", self.axes, z)

    def _back(self, z: Tensor) -> Tensor:
        """The inverse of `_along_axes`."""
        return z if self.axes is None else torch.einsum("kij,...kj->...ki", self.axes, z)

    def _components(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Per component z = x - alpha mu along its axes, its variances V there, and log(pi q(x))."""
        alpha, sigma = (c[:, None, None] for c in self.schedule(t))
        z = self._along_axes(x[:, None] - alpha * self.means)
        V = alpha**2 * self.variances + sigma**2
        return z, V, self.log_weights - (z**2 / V + torch.log(2 * math.pi * V)).sum(-1) / 2

    def _noise(self, x, t):
        z, V, log = self._components(x, t)
        _, sigma = self.schedule(t)
        return sigma[:, None] * (log.softmax(-1)[..., None] * self._back(z / V)).sum(1)

    def _noise_rate(self, x, t):
        (alpha, sigma), (dalpha, dsigma) = (
            (c[:, None, None] for c in pair) for pair in (self.schedule(t), self.schedule.rates(t))
        )
        z, V, log = self._components(x, t)
        s2, mu, w = self.variances, self._along_axes(self.means), log.softmax(-1)[..., None]
        component = (
            dsigma * (alpha**2 * s2 - sigma**2) - 2 * alpha * dalpha * s2 * sigma
        ) * z / V**2 - sigma * dalpha * mu / V
        dV = 2 * (alpha * dalpha * s2 + sigma * dsigma)
        dlog = (dV / V * (z**2 / V - 1) / 2 + dalpha * mu * z / V).sum(-1, keepdim=True)
        return (w * self._back(component + (dlog - (w * dlog).sum(1, keepdim=True)) * sigma * z / V)).sum(1)

    def _noise_jacobian(self, x, t):
        z, V, log = self._components(x, t)
        _, sigma = self.schedule(t)
        w, p = log.softmax(-1), self._back(z / V)
        precision = torch.diag_embed(1 / V)
        if self.axes is not None:
            precision = self.axes @ precision @ self.axes.mT
        return sigma[:, None, None] * (torch.einsum("bk,bkij->bij", w, precision) - weighted_covariance(w, p))

    def _log_density(self, x, t):
        return self._components(x, t)[-1].logsumexp(-1)

    def _draw(self, n, generator):
        device = generator.device
        k = torch.multinomial(self.log_weights.exp().to(device), n, replacement=True, generator=generator)
        z = torch.randn(n, *self.means.shape[1:], dtype=torch.float64, device=device, generator=generator)
        k, z = k.to(self.means.device), z.to(self.means.device)
        z = z * self.variances[k].sqrt()
        if self.axes is not None:
            z = torch.einsum("bij,bj->bi", self.axes[k], z)
        return self.means[k] + z


class Gaussian(GaussianMixture):
    """The exact predictor of normally distributed data: a mixture of one.

    Args:
        mean: Of shape `shape`.
        covariance: Variances of the mean's shape, or a full matrix over flattened coordinates. Zeros are allowed.
    """

    def __init__(
        self,
        mean: Float[Tensor, "*event"],
        covariance: Float[Tensor, "..."],
        schedule: Schedule,
        clock: Clock = Unit(),  # noqa: B008 (frozen)
    ):
        super().__init__(torch.ones(1, device=mean.device), mean[None], covariance[None], schedule, clock)


class Empirical(ExactPredictor):
    """The exact predictor of data that are one of finitely many points: what a network learns by heart.

    Cost: memory for batch * points * d numbers, because distances are formed from differences. Expanding the square
    would lose them to rounding where sigma is small, and with them which point is near.

    Args:
        points: Of shape (points, *shape), equally likely.
    """

    points: Tensor

    def __init__(self, points: Float[Tensor, "points *event"], schedule: Schedule, clock: Clock = Unit()):  # noqa: B008
        super().__init__(schedule, clock, points.shape[1:])
        self.register_buffer("points", double(points).flatten(1))

    def _posterior(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The noise r in x if it came from each point, and log weights of the points up to their common norm."""
        alpha, sigma = (c[:, None, None] for c in self.schedule(t))
        r = (x[:, None] - alpha * self.points) / sigma
        return r, -r.square().sum(-1) / 2

    def _noise(self, x, t):
        r, log = self._posterior(x, t)
        return torch.einsum("bn,bnd->bd", log.softmax(-1), r)

    def _noise_rate(self, x, t):
        # eps* = (x - alpha m) / sigma, and m' = Cov(x0, l') with l' = (alpha' r.x0 + sigma' |r|^2) / sigma.
        alpha, sigma, dalpha, dsigma = (c[:, None] for c in (*self.schedule(t), *self.schedule.rates(t)))
        r, log = self._posterior(x, t)
        w = log.softmax(-1)
        dlog = (dalpha * torch.einsum("bnd,nd->bn", r, self.points) + dsigma * r.square().sum(-1)) / sigma
        dm = (w * (dlog - (w * dlog).sum(-1, keepdim=True))) @ self.points
        return -(dsigma * torch.einsum("bn,bnd->bd", w, r) + dalpha * (w @ self.points) + alpha * dm) / sigma

    def _noise_jacobian(self, x, t):
        alpha, sigma = (c[:, None, None] for c in self.schedule(t))
        _, log = self._posterior(x, t)
        covariance = weighted_covariance(log.softmax(-1), self.points.expand(len(x), -1, -1))
        return (torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) - (alpha / sigma) ** 2 * covariance) / sigma

    def _log_density(self, x, t):
        _, sigma = self.schedule(t)
        n, d = self.points.shape
        return self._posterior(x, t)[1].logsumexp(-1) - math.log(n) - d * torch.log(math.sqrt(2 * math.pi) * sigma)

    def _draw(self, n, generator):
        chosen = torch.randint(len(self.points), (n,), device=generator.device, generator=generator)
        return self.points[chosen.to(self.points.device)]


def _flat(x: Tensor) -> Tensor:
    return double(x).reshape(len(x), -1)


def weighted_covariance(w: Tensor, a: Tensor, b: Tensor | None = None) -> Tensor:
    """Covariance matrices of a and b (a itself if none) under the weights w."""
    b = a if b is None else b
    a = a - torch.einsum("bk,bki->bi", w, a)[:, None]
    b = b - torch.einsum("bk,bki->bi", w, b)[:, None]
    return torch.einsum("bki,bkj->bij", w[..., None] * a, b)


def _principal(means: Tensor, covariances: Tensor) -> tuple[Tensor, Tensor | None]:
    """Variances along the principal axes of each covariance, and those axes (none for the coordinate axes)."""
    d = means[0].numel()
    covariances = double(covariances)
    if covariances.shape == means.shape:
        variances, axes = covariances.flatten(1), None
    elif covariances.shape == (len(means), d, d):
        if not torch.allclose(covariances, covariances.mT, rtol=1e-6, atol=0):
            raise ValueError("got a covariance matrix that is not symmetric; give (A + A.T) / 2")
        variances, axes = torch.linalg.eigh(covariances)
        # Eigenvalues are known up to rounding of the largest: smaller ones are zero for all we know.
        known = d * torch.finfo(torch.float64).eps * variances.abs().amax(-1, keepdim=True)
        variances = torch.where(variances.abs() <= known, 0, variances)
    else:
        raise ValueError(
            f"got covariances of shape {tuple(covariances.shape)} for means of shape {tuple(means.shape)}; "
            f"give variances of that shape or matrices of shape {(len(means), d, d)}"
        )
    if not (variances >= 0).all():
        raise ValueError(
            f"got a negative variance, {variances.min():g}; variances are not negative, so check the covariance"
        )
    return variances, axes
