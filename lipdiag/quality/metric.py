"""Distances between samples and data: FID, KID through torchmetrics, and who is whose copy.

    FID = |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)),     of means and covariances of features; biased upwards, by more
                                                        for fewer samples, and by far where n <= number of features
    KID = unbiased squared MMD with (f.f'/d + 1)^3,     of mean 0 between samples of one law

References:
    Heusel et al., GANs trained by a two time-scale update rule, 2017. https://arxiv.org/abs/1706.08500
    Binkowski et al., Demystifying MMD GANs, 2018. https://arxiv.org/abs/1801.01401
"""

import warnings
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import LipdiagError, UsageError

SUBSETS = 100
COPY = 0.25
"""A sample is a near-copy of a datum if it is nearer to it than this part of the data's own median nearest distance."""


class Given(nn.Module):
    """Features that were extracted before, in place of the extractor that torchmetrics calls."""

    def __init__(self, count: int):
        super().__init__()
        self.num_features = count

    def forward(self, features: Tensor) -> Tensor:
        return features


def require_torchmetrics() -> None:
    """Refuse to go on without torchmetrics.

    Raises:
        LipdiagError: If it is not installed.
    """
    try:
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise LipdiagError(
            "FID and KID need torchmetrics, which is not installed: pip install 'lipdiag[quality]'"
        ) from error


def frechet(data: Float[Tensor, "n d"], samples: Float[Tensor, "m d"]) -> float:
    """The FID of two sets of features, in float64.

    With C = A' A and C' = B' B, A and B the centred features over the root of one less than their count,
    tr (C C')^(1/2) is the sum of the singular values of A B'. That has no root of a product that rounding makes
    indefinite, and of fewer samples than features it costs as much less as they are fewer.
    """
    sets = data.double(), samples.double()
    means = [features.mean(0) for features in sets]
    roots = [(f - mean) / (len(f) - 1) ** 0.5 for f, mean in zip(sets, means, strict=True)]
    spread = sum(root.square().sum() for root in roots)
    if min(map(len, roots)) > data.shape[1]:  # the triangle of a QR has the same A' A in fewer rows
        roots = [torch.linalg.qr(root, mode="r").R for root in roots]
    shared = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return float((means[0] - means[1]).square().sum() + spread - 2 * shared)


class Kernel(NamedTuple):
    """A KID and its standard error."""

    value: float
    standard_error: float


def kernel(data: Float[Tensor, "n d"], samples: Float[Tensor, "m d"], seed: int = 0) -> Kernel:
    """The KID of two sets of features: the mean of torchmetrics' over random quarters of them.

    From the spread s over subsets of k out of n follows the standard error of the whole, s sqrt(k / (n - k)): a
    variance falls as 1 / k, and subsets of the same data agree the more the larger they are. Where both sets are of
    one law it falls as 1 / k^2, so that the error is overstated there.

    Raises:
        UsageError: For fewer than 8 of either.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    n = min(len(data), len(samples))
    if n < 8:
        raise UsageError(f"got {n} samples: KID needs at least 8")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that features take memory
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(feature=Given(data.shape[1]), subsets=SUBSETS, subset_size=n // 4)
        metric.update(data.double(), real=True)
        metric.update(samples.double(), real=False)
        mean, spread = metric.compute()
    return Kernel(float(mean), float(spread) * (n // 4 / (n - n // 4)) ** 0.5)


def nearest(
    x: Float[Tensor, "m *event"], data: Float[Tensor, "n *event"], block: int = 512, place: int = 1
) -> Float[Tensor, " m"]:
    """Euclidean distance from each x to its nearest datum, or to the one in another place by distance.

    Formed from differences: expanding the square would lose small distances, those of copies, to rounding.
    """
    data = data.flatten(1).double()
    compute = "donot_use_mm_for_euclid_dist"
    parts = (torch.cdist(part, data, compute_mode=compute) for part in x.flatten(1).double().split(block))
    return torch.cat([part.kthvalue(place).values for part in parts])


def own_distance(data: Float[Tensor, "n *event"], block: int = 512) -> float:
    """The median distance from a datum to its nearest other: the nearest one of all is itself."""
    return float(nearest(data, data, block, place=2).median())
