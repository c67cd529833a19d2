"""Stochastic estimates of traces and Frobenius norms, each with its standard error.

For probes z with E[z z'] = I:  E[z' A z] = tr A  and  E|A z|^2 = |A|_F^2. Rademacher probes give
Var[z' A z] = 2 (|S|_F^2 - sum S_ii^2), S = (A + A')/2: the diagonal, and so any multiple of the identity in A, adds no
variance. That is why Gaussian probes, whose variance is 2 |S|_F^2, are not offered. A start vector of a Krylov method,
uniform on the unit sphere, is one more probe at no cost once it is scaled by sqrt(n).

Two probes of one sample say little about their own variance. The variance relative to a sample's own size is alike in
samples that are alike, so it is pooled over them: sum of squared relative deviations / (samples (probes - 1)).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class ProbeEstimate(NamedTuple):
    """A mean over probes and what it may be off by.

    Attributes:
        value: (batch,) float64.
        standard_error: (batch,) float64; NaN if there is only one probe.
        freedom: (batch,) degrees of freedom of the standard error, for Student's t.
        probes: How many vectors the value is a mean of.
    """

    value: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"]
    freedom: Int[Tensor, " batch"]
    probes: int


def hutchinson_trace(
    probes: Float[Tensor, "p batch n"], images: Float[Tensor, "p batch n"], group: Int[Tensor, " batch"] | None = None
) -> ProbeEstimate:
    """The trace of square operators A, from probes z and their images A z.

    Args:
        probes: Vectors of mean square one per coordinate, such as `rademacher` or sqrt(n) times `sphere`.
        images: Their products A z.
        group: Samples with the same number share the variance relative to their Frobenius norm. The trace itself may be
            near zero and is no measure of its own error.

    References:
        Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989. https://doi.org/10.1080/03610918908812806
    """
    z, image = wide(probes), wide(images)
    return pooled((z * image).sum(-1), image.square().sum(-1).mean(0).sqrt(), group)


def hutchinson_squared_frobenius_norm(
    images: Float[Tensor, "p batch m"], group: Int[Tensor, " batch"] | None = None
) -> ProbeEstimate:
    """The sum of all squared entries of operators A, from the images A z of probes.

    Args:
        images: Products of A with vectors of mean square one per coordinate.
        group: Samples with the same number share the relative variance.
    """
    squares = wide(images).square().sum(-1)
    return pooled(squares, squares.mean(0), group)


def pooled(samples: Float[Tensor, "p batch"], scale: Float[Tensor, " batch"], group=None) -> ProbeEstimate:
    """The mean over p, with a standard error from deviations relative to `scale`, pooled over each group."""
    p, batch = samples.shape
    value = samples.mean(0)
    if group is None:
        group = torch.arange(batch, device=value.device)
    groups, group = group.to(value.device).unique(return_inverse=True)
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    squares = ((samples - value) / safe).square().sum(0)
    mine = group == torch.arange(len(groups), device=group.device)[:, None]
    members = mine.sum(1)[group]  # a card's index_add would add in any order
    variance = squares.where(mine, 0.0).sum(1)[group] / (members * (p - 1))
    return ProbeEstimate(value, scale * (variance / p).sqrt(), members * (p - 1), p)


def rademacher(shape, generator=None, dtype=torch.float32, device=None) -> Tensor:
    """Random signs."""
    source = generator.device if generator is not None else None
    bits = torch.randint(0, 2, tuple(shape), generator=generator, device=source, dtype=torch.int8)
    return (2 * bits - 1).to(device=device, dtype=dtype)


def sphere(shape, generator=None, dtype=torch.float32, device=None) -> Tensor:
    """Vectors uniform on the unit sphere of the last axis; the same directions in every precision."""
    source = generator.device if generator is not None else None
    wide_type = torch.float32 if source is not None and source.type == "mps" else torch.float64
    z = torch.randn(tuple(shape), generator=generator, device=source, dtype=wide_type)
    return (z / z.norm(dim=-1, keepdim=True)).to(device=device, dtype=dtype)


def wide(z: Tensor) -> Tensor:
    """z in float64, on the CPU if its device has none."""
    return z.cpu().double() if z.device.type == "mps" else z.double()
