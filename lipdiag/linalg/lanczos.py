"""Singular values and extreme eigenvalues by Krylov methods, with bounds.

Golub-Kahan: from a unit vector v_1, k steps give orthonormal V and U and an upper bidiagonal B, alpha on its diagonal
and beta above, with  A V = U B  and  A' U = V B' + beta_k v_{k+1} e_k'.  The singular values of B never exceed those of
A, and each is within beta_k |last entry of its left vector| of one of A's.

Lanczos: for a symmetric A, k steps give orthonormal V and a tridiagonal T with  A V = V T + beta_k v_{k+1} e_k'.  The
eigenvalues of T lie between the extreme ones of A.

Products may be in any precision; all else is in float64, and the bases are reorthogonalized in full. Upper bounds are
those of certificate.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .certificate import eigenvalue_bound, upper_bound
from .operator import Operator


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


def wide(z: Tensor, A: Operator) -> Tensor:
    """z on the device of A, in the widest type that it has."""
    return z.to(A.device, torch.float32 if A.device.type == "mps" else torch.float64)


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
    most = min(A.rows, A.columns)
    if not 1 <= steps <= most:
        raise ValueError(f"{steps} steps were asked for; a {A.rows} x {A.columns} operator allows 1 to {most}")
    first = unit(wide(start, A))
    left = first.new_zeros(A.batch, steps, A.rows)
    right = first.new_zeros(A.batch, steps + 1, A.columns)
    alpha, beta = first.new_zeros(A.batch, steps), first.new_zeros(A.batch, steps)
    scale, gap = first.new_zeros(A.batch), first.new_zeros(A.batch)
    right[:, 0] = first
    for j in range(steps):
        u = wide(A.mv(right[:, j].to(A.dtype)), A)
        left[:, j], alpha[:, j] = next_vector(u, left[:, :j], scale)
        scale = torch.maximum(scale, alpha[:, j])
        v = wide(A.vm(left[:, j].to(A.dtype)), A)
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

    Where that part is nothing but rounding, the length is zero and the vector any that is orthogonal to the basis, or
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
        raise ValueError(f"{count} values were asked for; {steps} steps allow 1 to {steps}")
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must lie between 0 and 1, not {confidence}")

    def narrow(alpha, beta):
        if width is None or alpha.shape[1] < minimum:
            return False
        top = ritz(alpha, beta, A.rows)[0][:, 0]
        upper = upper_bound(alpha, beta, top, A.rows, A.columns, confidence)
        return not bool((upper > (1 + width) * top).any())  # a sample that is not a number does not hold up the others

    run = golub_kahan(A, start, steps, narrow)
    values, residuals = ritz(run.alpha, run.beta, A.rows)
    upper = upper_bound(run.alpha, run.beta, values[:, 0], A.rows, A.columns, confidence)
    k = run.alpha.shape[1]
    image = run.alpha[:, :1] * run.left[:, 0]
    values, residuals = values[:, :count], residuals[:, :count]
    return SingularValues(values, residuals, upper, k, 2 * k, run.adjoint_gap, run.alpha[:, 0], run.right[:, 0], image)


def bidiagonal(alpha: Float[Tensor, "batch k"], beta: Float[Tensor, "batch k"]) -> Float[Tensor, "batch k k"]:
    """B, alpha on its diagonal and beta above it; the last of beta, the remainder, stands outside."""
    return torch.diag_embed(alpha) + torch.diag_embed(beta[:, :-1], offset=1)


def ritz(alpha: Tensor, beta: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Singular values of B, and how far each is from one of A at most; NaN where products are not finite.

    If U is complete, A = U [B, beta_k e_k] V' with one more column, exactly, and its singular values are those of A.
    """
    k = alpha.shape[1]
    finite = (alpha.isfinite() & beta.isfinite()).all(1)[:, None]
    alpha, beta = torch.where(finite, alpha, 0), torch.where(finite, beta, 0)
    B = bidiagonal(alpha, beta)
    if k == rows:
        last = torch.zeros_like(B[:, :, :1])
        last[:, -1, 0] = beta[:, -1]
        values = torch.linalg.svdvals(torch.cat([B, last], -1))
        residuals = torch.zeros_like(values)
    else:
        P, values, _ = torch.linalg.svd(B)
        residuals = beta[:, -1:] * P[:, -1, :].abs()
    return torch.where(finite, values, math.nan), torch.where(finite, residuals, math.nan)


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
        Lanczos, An iteration method for the solution of the eigenvalue problem of linear differential and integral
        operators, 1950. https://doi.org/10.6028/jres.045.026
    """
    if A.rows != A.columns:
        raise ValueError(f"eigenvalues were asked of a {A.rows} x {A.columns} operator; only square ones have them")
    if steps < 1:
        raise ValueError(f"{steps} steps were asked for; at least one is needed")
    n = A.columns
    steps = min(steps, n)
    first = unit(wide(start, A))
    basis = first.new_zeros(A.batch, steps + 1, n)
    alpha, beta, scale = first.new_zeros(A.batch, steps), first.new_zeros(A.batch, steps), first.new_zeros(A.batch)
    basis[:, 0] = first
    for j in range(steps):
        z = wide(A.mv(basis[:, j].to(A.dtype)), A)
        alpha[:, j] = (z * basis[:, j]).sum(1)
        scale = torch.maximum(scale, z.norm(dim=1))
        basis[:, j + 1], beta[:, j] = next_vector(z, basis[:, : j + 1], scale)
        k = j + 1
        if k == steps or (width is not None and k >= minimum):
            found = extremes(alpha[:, :k], beta[:, :k], n, confidence)
            modulus = torch.maximum(found.smallest.abs(), found.largest.abs())
            gap = torch.maximum(found.upper - found.largest, found.smallest - found.lower)
            if width is not None and not bool((gap > width * modulus).any()):
                break
    return found


def extremes(alpha: Tensor, beta: Tensor, n: int, confidence: float) -> ExtremeEigenvalues:
    """What k steps of Lanczos say."""
    k = alpha.shape[1]
    finite = (alpha.isfinite() & beta.isfinite()).all(1)[:, None]
    alpha, beta = torch.where(finite, alpha, 0), torch.where(finite, beta, 0)
    B = bidiagonal(alpha, beta)
    values, vectors = torch.linalg.eigh(B + B.triu(1).mT)
    residuals = torch.where(finite, beta[:, -1:] * vectors[:, -1, :].abs(), math.nan)
    values = torch.where(finite, values, math.nan)
    smallest, largest = values[:, 0], values[:, -1]
    lower = -eigenvalue_bound(-alpha, beta, -smallest, n, confidence)
    upper = eigenvalue_bound(alpha, beta, largest, n, confidence)
    return ExtremeEigenvalues(smallest, largest, residuals[:, 0], residuals[:, -1], lower, upper, k)
