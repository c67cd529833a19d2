"""Golub-Kahan bidiagonalization of a batch of operators.

From a unit vector v_1, k steps give orthonormal V and U and an upper bidiagonal B, alpha on its diagonal and beta
above, with  A V = U B  and  A' U = V B' + beta_k v_{k+1} e_k'.

Products may be in any precision; all else is in float64, and the bases are reorthogonalized in full. Nothing here waits
for a graphics processor, but for what `stop` reads; small matrices are decomposed on the CPU, where that is fast.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .operator import Operator

READ_FREELY = {"cpu"}
"""Where a look at a number costs nothing. Elsewhere all work that was given out before it would have to be waited for,
so that what only some samples need is computed for all."""


@dataclass(frozen=True)
class Bidiagonalization:
    """A V = U B and A' U = V B' + beta_k v_{k+1} e_k', for a batch of operators.

    Attributes:
        alpha: Diagonal of B.
        beta: What stands above the diagonal of B, and last the norm of the remainder, beta_k.
        left: U.
        right: V and v_{k+1}.
        apart: Of U' (A V) - (A' U)' V, which is zero where nothing is rounded, the squares of the 2 k - 1 entries that
            the k-th step adds, summed.
    """

    alpha: Float[Tensor, "batch k"]
    beta: Float[Tensor, "batch k"]
    left: Float[Tensor, "batch k rows"]
    right: Float[Tensor, "batch kk columns"]
    apart: Float[Tensor, "batch k"]

    @property
    def adjoint_gap(self) -> Float[Tensor, " batch"]:
        """|<A' u_1, v_1> - alpha_1| / alpha_1, which is zero if both products belong to one operator."""
        first = self.alpha[:, 0]
        return self.apart[:, 0].sqrt() / torch.where(first > 0, first, 1)

    def parts(self, taken: Int[Tensor, " batch"]) -> list[tuple[Int[Tensor, " some"], "Bidiagonalization"]]:
        """Samples and their first steps, by how many each is to have."""
        found = []
        for k in taken.unique().tolist():
            some = (taken == k).nonzero()[:, 0]
            which = slice(None) if len(some) == len(taken) else some.to(self.alpha.device)
            alpha, beta, left, apart = (z[which, :k] for z in (self.alpha, self.beta, self.left, self.apart))
            cut = Bidiagonalization(alpha, beta, left, self.right[which, : k + 1], apart)
            found.append((some, cut))
        return found


def wide(z: Tensor, A: Operator) -> Tensor:
    """z on the device of A, in the widest type that it has."""
    return z.to(A.device, torch.float32 if A.device.type == "mps" else torch.float64)


def golub_kahan(
    A: Operator,
    start: Float[Tensor, "batch columns"],
    steps: int,
    stop: Callable[[Tensor, Tensor, Tensor], bool] | None = None,
) -> Bidiagonalization:
    """Golub-Kahan bidiagonalization with full reorthogonalization.

    Where a sample's Krylov space is exhausted it goes on from a new vector, orthogonal to the old ones, so that
    `min(rows, columns)` steps find every singular value, multiple ones too.

    Args:
        A: The operators.
        start: First right vectors, of any length but zero.
        steps: How many, at most min(rows, columns).
        stop: Called with alpha, beta and apart after every step; true ends the run.
    """
    most = min(A.rows, A.columns)
    if not 1 <= steps <= most:
        raise ValueError(f"{steps} steps were asked for; a {A.rows} x {A.columns} operator allows 1 to {most}")
    first = unit(wide(start, A))
    left = first.new_zeros(A.batch, steps, A.rows)
    right = first.new_zeros(A.batch, steps + 1, A.columns)
    alpha, beta, apart = (first.new_zeros(A.batch, steps) for _ in range(3))
    scale = first.new_zeros(A.batch)
    right[:, 0] = first
    for j in range(steps):
        u = wide(A.mv(right[:, j].to(A.dtype)), A)
        left[:, j], alpha[:, j], along = next_vector(u, left[:, :j], scale)
        if j:
            apart[:, j] = difference(along, beta[:, j - 1])
        scale = torch.maximum(scale, alpha[:, j])
        v = wide(A.vm(left[:, j].to(A.dtype)), A)
        right[:, j + 1], beta[:, j], along = next_vector(v, right[:, : j + 1], scale)
        apart[:, j] += difference(along, alpha[:, j])
        scale = torch.maximum(scale, beta[:, j])
        if stop is not None and stop(*(z[:, : j + 1] for z in (alpha, beta, apart))):
            break
    k = j + 1
    return Bidiagonalization(alpha[:, :k], beta[:, :k], left[:, :k], right[:, : k + 1], apart[:, :k])


def difference(along: Tensor, last: Tensor) -> Tensor:
    """What a product has along the basis less what the transpose said of it, nothing but `last`: the square of it."""
    return along[:, :-1].square().sum(1) + (along[:, -1] - last).square()


def next_vector(z: Tensor, basis: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The unit vector of z's part orthogonal to the basis, that part's length, and what z had along the basis.

    Where that part is nothing but rounding, the length is zero and the vector any that is orthogonal to the basis, or
    zero if there is none.
    """
    size = torch.maximum(z.norm(dim=1), scale)
    z, along = orthogonalized(z, basis)
    length = z.norm(dim=1)
    lost = length <= 8 * torch.finfo(z.dtype).eps * size
    if z.device.type not in READ_FREELY or lost.any():
        fresh = torch.zeros_like(z)
        if basis.shape[1] < z.shape[1]:
            generator = torch.Generator(z.device).manual_seed(basis.shape[1])
            any_direction = torch.randn(1, z.shape[1], generator=generator, dtype=z.dtype, device=z.device)
            fresh = orthogonalized(fresh + unit(any_direction), basis)[0]
        z = torch.where(lost[:, None], fresh, z)
    return unit(z), torch.where(lost, 0, length), along


def unit(z: Tensor) -> Tensor:
    """z scaled to length one; zero stays zero."""
    length = z.norm(dim=1, keepdim=True)
    return z / torch.where(length > 0, length, 1)


def orthogonalized(z: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """z without its components in the basis, and these; two passes of Gram-Schmidt are as good as any number."""
    along = basis @ z[:, :, None]
    if basis.shape[1]:
        z = z - (along.mT @ basis)[:, 0]
        z = z - ((basis @ z[:, :, None]).mT @ basis)[:, 0]
    return z, along[:, :, 0]


def at_hand(*small: Tensor) -> Tensor:
    """Small arrays of one shape in float64 on the CPU, by a single read."""
    return torch.stack(small).cpu().double()


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
