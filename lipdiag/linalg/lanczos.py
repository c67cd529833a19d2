"""Singular values and extreme eigenvalues by Krylov methods, with bounds.

Golub-Kahan: from a unit vector v_1, k steps give orthonormal V, U and an upper bidiagonal B (alpha on the diagonal, beta
above it) with  A V = U B  and  A' U = V B' + beta_k v_{k+1} e_k'.  The singular values of B never exceed those of A.

The certificate: v_{k+1} = p(A'A) v_1 and u_k = q(AA') A v_1 are unit vectors, with polynomials that alpha and beta
determine. Along the leading right vector y of A, |<v_1, y>| max(|p(s^2)|, s |q(s^2)|) <= 1, s the largest singular
value. If v_1 is uniform on the sphere, |<v_1, y>| >= delta with known probability, and s is then at most the root
of max(|p|, s |q|) = 1 / delta beyond the largest singular value of B. No gap is assumed; a start that is not uniform
voids it. Lanczos on symmetric operators: likewise with A V = V T + beta_k v_{k+1} e_k' and p alone.

Hochstenbach, Probabilistic upper bounds for the matrix two-norm, 2013. https://doi.org/10.1007/s10915-013-9716-x
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lipdiag.linalg.operator import Operator

EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Bidiagonalization:
    """A V = U B and A' U = V B' + beta_k v_{k+1} e_k', for a batch of operators.

    Attributes:
        alpha: Diagonal of B.
        beta: What stands above the diagonal of B, and last the norm of the remainder, beta_k.
        left: U.
        right: V and v_{k+1}.
        adjoint_gap: |<A' u_1, v_1> - alpha_1| / alpha_1, which is zero if both products belong to one operator.
    """

    alpha: Float[Tensor, "batch k"]
    beta: Float[Tensor, "batch k"]
    left: Float[Tensor, "batch k rows"]
    right: Float[Tensor, "batch kk columns"]
    adjoint_gap: Float[Tensor, " batch"]


def double(device: torch.device) -> torch.dtype:
    """The widest floating type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def golub_kahan(
    A: Operator,
    start: Float[Tensor, "batch columns"],
    steps: int,
    stop: Callable[[Tensor, Tensor], bool] | None = None,
) -> Bidiagonalization:
    """Golub-Kahan bidiagonalization with full reorthogonalization.

    Where a sample's Krylov space is exhausted it goes on from a new vector, orthogonal to the old ones, so that
    `min(rows, columns)` steps find every singular value, multiple ones too.

    Args:
        A: The operators.
        start: First right vectors, of any length but zero.
        steps: How many, at most min(rows, columns).
        stop: Called with alpha and beta after every step; true ends the run.
    """
    if not 1 <= steps <= min(A.rows, A.columns):
        raise ValueError(
            f"{steps} steps were asked for; a {A.rows} x {A.columns} operator allows 1 to {min(A.rows, A.columns)}."
        )
    wide = {"dtype": double(A.device), "device": A.device}
    left = torch.zeros(A.batch, steps, A.rows, **wide)
    right = torch.zeros(A.batch, steps + 1, A.columns, **wide)
    alpha, beta = torch.zeros(A.batch, steps, **wide), torch.zeros(A.batch, steps, **wide)
    right[:, 0] = unit(start.to(**wide))
    scale = torch.zeros(A.batch, **wide)
    gap = torch.zeros(A.batch, **wide)
    for j in range(steps):
        u = A.mv(right[:, j].to(A.dtype)).to(**wide)
        left[:, j], alpha[:, j] = next_vector(u, left[:, :j], scale)
        scale = torch.maximum(scale, alpha[:, j])
        v = A.vm(left[:, j].to(A.dtype)).to(**wide)
        if j == 0:
            gap = ((v * right[:, 0]).sum(1) - alpha[:, 0]).abs() / torch.where(alpha[:, 0] > 0, alpha[:, 0], 1)
        right[:, j + 1], beta[:, j] = next_vector(v, right[:, : j + 1], scale)
        scale = torch.maximum(scale, beta[:, j])
        if stop is not None and stop(alpha[:, : j + 1], beta[:, : j + 1]):
            break
    k = j + 1
    return Bidiagonalization(alpha[:, :k], beta[:, :k], left[:, :k], right[:, : k + 1], gap)


def next_vector(z: Tensor, basis: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The unit vector of z's part orthogonal to the basis, and that part's length.

    Where that part is nothing but rounding, the length is zero and the vector is any that is orthogonal to the basis, or
    zero if there is none.
    """
    size = torch.maximum(z.norm(dim=1), scale)
    z = orthogonalized(z, basis)
    length = z.norm(dim=1)
    lost = length <= 8 * torch.finfo(z.dtype).eps * size
    if lost.any():
        fresh = torch.zeros_like(z)
        if basis.shape[1] < z.shape[1]:
            generator = torch.Generator().manual_seed(basis.shape[1])
            any_direction = torch.randn(z.shape[1], generator=generator, dtype=torch.float64)
            fresh = orthogonalized(fresh + unit(any_direction[None]).to(z), basis)
        z = torch.where(lost[:, None], fresh, z)
    return unit(z), torch.where(lost, 0, length)


def unit(z: Tensor) -> Tensor:
    """z scaled to length one; zero stays zero."""
    length = z.norm(dim=1, keepdim=True)
    return z / torch.where(length > 0, length, 1)


def orthogonalized(z: Tensor, basis: Tensor) -> Tensor:
    """z without its components in the basis; two passes of Gram-Schmidt are as good as any number."""
    for _ in range(2 if basis.shape[1] else 0):
        z = z - ((basis @ z[:, :, None]).mT @ basis)[:, 0]
    return z


class SingularValues(NamedTuple):
    """Leading singular values with evidence of their error.

    Attributes:
        values: Descending; none exceeds the true one of its rank.
        residuals: Within this distance of each value lies some true singular value.
        upper: A bound of the largest one that holds with the confidence asked for.
        steps: Krylov steps taken.
        products: Products with A and with A', together.
        adjoint_gap: Relative disagreement of the two products, to be compared with their rounding.
        alpha1: Length of A v_1.
        first: v_1, a unit vector.
        image: A v_1.
    """

    values: Float[Tensor, "batch count"]
    residuals: Float[Tensor, "batch count"]
    upper: Float[Tensor, " batch"]
    steps: int
    products: int
    adjoint_gap: Float[Tensor, " batch"]
    alpha1: Float[Tensor, " batch"]
    first: Float[Tensor, "batch columns"]
    image: Float[Tensor, "batch rows"]


def singular_values(
    A: Operator,
    start: Float[Tensor, "batch columns"],
    steps: int,
    count: int = 1,
    width: float | None = None,
    confidence: float = 0.99,
    minimum: int = 8,
) -> SingularValues:
    """Leading singular values of A, each with a bound on its error.

    Cost: `steps` products with A and as many with A'; memory for steps * (rows + columns) numbers per sample.

    Args:
        A: The operators; their products must be deterministic.
        start: First right vectors; uniform on the sphere, else `upper` is void.
        steps: Largest Krylov depth; min(rows, columns) is always enough and never exceeded.
        count: How many values.
        width: Stop as soon as upper / value - 1 is at most this for every sample.
        confidence: Of `upper`, for each sample on its own.
        minimum: Do not stop before this many steps.

    References:
        Golub & Kahan, Calculating the singular values and pseudo-inverse of a matrix, 1965. https://doi.org/10.1137/0702016
    """
    steps = min(steps, A.rows, A.columns)
    if not 1 <= count <= steps:
        raise ValueError(f"{count} values were asked for; {steps} steps allow 1 to {steps}.")
    if not 0 < confidence < 1:
        raise ValueError(f"The confidence must lie between 0 and 1, not {confidence}.")

    def narrow(alpha, beta):
        if width is None or alpha.shape[1] < minimum:
            return False
        top = ritz(alpha, beta, A.rows)[0][:, 0]
        upper = upper_bound(alpha, beta, top, A.rows, A.columns, confidence)
        return bool((upper <= (1 + width) * top).all())

    run = golub_kahan(A, start, steps, narrow)
    values, residuals = ritz(run.alpha, run.beta, A.rows)
    upper = upper_bound(run.alpha, run.beta, values[:, 0], A.rows, A.columns, confidence)
    k = run.alpha.shape[1]
    image = run.alpha[:, :1] * run.left[:, 0]
    values, residuals = values[:, :count], residuals[:, :count]
    return SingularValues(values, residuals, upper, k, 2 * k, run.adjoint_gap, run.alpha[:, 0], run.right[:, 0], image)


def ritz(alpha: Tensor, beta: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Singular values of B and the residuals of its triples, |A' u - s v| = beta_k |last entry of u|; A v = s u is exact."""
    k = alpha.shape[1]
    B = torch.diag_embed(alpha) + torch.diag_embed(beta[:, : k - 1], offset=1)
    if k == rows:  # U is complete: A = U [B, beta_k e_k] V' exactly, and nothing is left over
        last = torch.zeros_like(B[:, :, :1])
        last[:, -1, 0] = beta[:, -1]
        values = torch.linalg.svdvals(torch.cat([B, last], -1))
        return values, torch.zeros_like(values)
    P, values, _ = torch.linalg.svd(B)
    return values, beta[:, -1:] * P[:, -1, :].abs()


@cache
def least_overlap(dimension: int, risk: float) -> float:
    """delta with P(|<v, y>| < delta) = risk, for v uniform on the unit sphere and y any unit vector."""
    from scipy.special import betaincinv

    return float(betaincinv(0.5, (dimension - 1) / 2, risk)) ** 0.5 if dimension > 1 else 1.0


def upper_bound(alpha: Tensor, beta: Tensor, top: Tensor, rows: int, columns: int, confidence: float) -> Tensor:
    """The probabilistic upper bound of the largest singular value, from the recurrences alone."""
    if alpha.shape[1] == min(rows, columns):
        return top
    alpha, beta, scale = alpha.cpu().double(), beta.cpu().double(), top.cpu().double()
    tiny = EPS * torch.where(scale > 0, scale, 1)[:, None]
    alpha, beta = alpha.clamp_min(tiny), beta.clamp_min(tiny)  # a breakdown: the bound closes on the value

    def growth(s):
        # alpha_j q_j = p_{j-1} - beta_{j-1} q_{j-1} and beta_j p_j = s^2 q_j - alpha_j p_{j-1}, scaled against overflow
        p, q, log = torch.ones_like(s), torch.zeros_like(s), torch.zeros_like(s)
        most = log
        for j in range(alpha.shape[1]):
            q = (p - (beta[:, j - 1 : j] if j else 0) * q) / alpha[:, j : j + 1]
            p = (s * s * q - alpha[:, j : j + 1] * p) / beta[:, j : j + 1]
            factor = torch.maximum(p.abs(), (s * q).abs())
            p, q, log = p / factor, q / factor, log + factor.log()
            most = torch.maximum(most, log)  # every step's bound holds, and those before a breakdown only
        return most

    return root_beyond(growth, scale, scale, -math.log(least_overlap(columns, 1 - confidence))).to(top)


def root_beyond(growth: Callable[[Tensor], Tensor], top: Tensor, scale: Tensor, goal: float) -> Tensor:
    """The least s > top with growth(s) >= goal, rounded up; growth increases beyond top.

    log10((s - top) / scale) is sought on a grid, which is refined until it resolves s to a few parts in a million.
    """
    low, high = torch.full_like(scale, -16.0)[:, None], torch.full_like(scale, 4.0)[:, None]
    fraction = torch.linspace(0, 1, 64, dtype=scale.dtype)
    for _ in range(4):
        grid = low + (high - low) * fraction
        above = growth(top[:, None] + scale[:, None] * 10**grid) >= goal
        first = torch.where(above.any(1), above.int().argmax(1), len(fraction) - 1)[:, None]
        low, high = grid.gather(1, (first - 1).clamp_min(0)), grid.gather(1, first)
    return top + scale * 10 ** high[:, 0]


class ExtremeEigenvalues(NamedTuple):
    """The smallest and the largest eigenvalue of symmetric operators, with evidence of their error.

    Attributes:
        smallest: Never below the true one.
        largest: Never above the true one.
        smallest_residual: Within this distance of `smallest` lies some true eigenvalue.
        largest_residual: Likewise.
        lower: A bound of the smallest one that holds with the confidence asked for.
        upper: Likewise for the largest one.
        steps: Krylov steps taken, each one product.
    """

    smallest: Float[Tensor, " batch"]
    largest: Float[Tensor, " batch"]
    smallest_residual: Float[Tensor, " batch"]
    largest_residual: Float[Tensor, " batch"]
    lower: Float[Tensor, " batch"]
    upper: Float[Tensor, " batch"]
    steps: int


def extreme_eigenvalues(
    A: Operator,
    start: Float[Tensor, "batch columns"],
    steps: int,
    width: float | None = None,
    confidence: float = 0.99,
    minimum: int = 8,
) -> ExtremeEigenvalues:
    """Extreme eigenvalues of symmetric operators by Lanczos with full reorthogonalization.

    Args:
        A: The operators; only `mv` is used.
        start: First vectors; uniform on the sphere, else `lower` and `upper` are void.
        steps: Largest Krylov depth; the dimension is always enough and never exceeded.
        width: Stop as soon as both bounds are within this fraction of the largest modulus for every sample.
        confidence: Of each bound, for each sample on its own.
        minimum: Do not stop before this many steps.

    References:
        van Dorsselaer, Hochstenbach & van der Vorst, Computing probabilistic bounds for extreme eigenvalues of symmetric
        matrices with the Lanczos method, 2000. https://doi.org/10.1137/S0895479899352956
    """
    if A.rows != A.columns:
        raise ValueError(f"Eigenvalues were asked of a {A.rows} x {A.columns} operator; only square ones have them.")
    if steps < 1:
        raise ValueError(f"{steps} steps were asked for; at least one is needed.")
    n, wide = A.columns, {"dtype": double(A.device), "device": A.device}
    steps = min(steps, n)
    basis = torch.zeros(A.batch, steps + 1, n, **wide)
    alpha, beta = torch.zeros(A.batch, steps, **wide), torch.zeros(A.batch, steps, **wide)
    basis[:, 0] = unit(start.to(**wide))
    scale = torch.zeros(A.batch, **wide)
    for j in range(steps):
        z = A.mv(basis[:, j].to(A.dtype)).to(**wide)
        alpha[:, j] = (z * basis[:, j]).sum(1)
        scale = torch.maximum(scale, z.norm(dim=1))
        basis[:, j + 1], beta[:, j] = next_vector(z, basis[:, : j + 1], scale)
        k = j + 1
        if k == steps or (width is not None and k >= minimum):
            found = extremes(alpha[:, :k], beta[:, :k], n, confidence)
            modulus = torch.maximum(found.smallest.abs(), found.largest.abs())
            gap = torch.maximum(found.upper - found.largest, found.smallest - found.lower)
            if width is not None and bool((gap <= width * modulus).all()):
                break
    return found


def extremes(alpha: Tensor, beta: Tensor, n: int, confidence: float) -> ExtremeEigenvalues:
    """What k steps of Lanczos say."""
    k = alpha.shape[1]
    off = torch.diag_embed(beta[:, : k - 1], offset=1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(alpha) + off + off.mT)
    residuals = beta[:, -1:] * vectors[:, -1, :].abs()
    smallest, largest = values[:, 0], values[:, -1]
    lower, upper = smallest, largest
    if k < n:
        lower = -beyond_largest(-alpha, beta, -smallest, n, confidence)
        upper = beyond_largest(alpha, beta, largest, n, confidence)
    return ExtremeEigenvalues(smallest, largest, residuals[:, 0], residuals[:, -1], lower, upper, k)


def beyond_largest(alpha: Tensor, beta: Tensor, top: Tensor, n: int, confidence: float) -> Tensor:
    """The probabilistic upper bound of the largest eigenvalue."""
    alpha, beta, base = alpha.cpu().double(), beta.cpu().double(), top.cpu().double()
    scale = (alpha.abs() + beta).amax(1)
    beta = beta.clamp_min(EPS * torch.where(scale > 0, scale, 1)[:, None])

    def growth(s):
        # beta_j p_j = (s - alpha_j) p_{j-1} - beta_{j-1} p_{j-2}
        p, old, log = torch.ones_like(s), torch.zeros_like(s), torch.zeros_like(s)
        most = log
        for j in range(alpha.shape[1]):
            new = ((s - alpha[:, j : j + 1]) * p - (beta[:, j - 1 : j] if j else 0) * old) / beta[:, j : j + 1]
            factor = torch.maximum(new.abs(), p.abs())
            p, old, log = new / factor, p / factor, log + factor.log()
            most = torch.maximum(most, log + p.abs().log())
        return most

    return root_beyond(growth, base, scale, -math.log(least_overlap(n, 1 - confidence))).to(top)
