"""How many products a method needs to reach an error, told from one Krylov space.

k steps of Golub-Kahan from v give A V = U B, v = V e_1. Power iteration and restarted Lanczos (ARPACK) from v never
leave the Krylov space of v until they have taken k steps, and on B from e_1 they do there exactly what they do on A.
Later they see the Ritz values of B in place of the spectrum, of which the leading ones have converged by then. So the
products of the slowest methods are counted without making them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

from lipdiag.linalg.bidiagonalization import bidiagonal, golub_kahan, ritz
from lipdiag.linalg.certificate import upper_bound
from lipdiag.linalg.operator import Operator

ERROR = 5e-4
"""Median relative error of the largest singular value at which methods are compared."""

CONVERGED = 2e-3
"""Certified width at which the reference stops; its error is about the square of that."""

MOST_ITERATIONS = 10_000
TOLERANCES = (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 0.0)


@dataclass(frozen=True)
class Count:
    """What a method needs on a batch of operators.

    Attributes:
        products: With A and with A', together, a sample; a mean where samples differ.
        error: Median relative error that it then has.
        setting: How the method was told to stop.
    """

    products: float
    error: float
    setting: str


@dataclass(frozen=True)
class Spectrum:
    """Bidiagonal matrices B whose largest singular values have converged.

    Attributes:
        alpha: Diagonal.
        beta: Above it, and last the remainder.
        width: Largest upper bound / value - 1 over the batch.
    """

    alpha: Float[Tensor, "batch k"]
    beta: Float[Tensor, "batch k"]
    width: float

    @cached_property
    def matrices(self) -> Float[Tensor, "batch k k"]:
        return bidiagonal(self.alpha, self.beta)

    @cached_property
    def largest(self) -> Float[Tensor, " batch"]:
        return torch.linalg.svdvals(self.matrices)[:, 0]

    def error(self, values: Float[Tensor, " batch"]) -> float:
        """Median relative error of estimates."""
        return float((values / self.largest - 1).abs().quantile(0.5))


def spectrum(A: Operator, start: Float[Tensor, "batch n"], steps: int) -> Spectrum:
    """The reference: Golub-Kahan until the largest value is certified to `CONVERGED`, or `steps` are taken."""
    steps = min(steps, A.rows, A.columns)
    width = float("inf")

    def stop(alpha, beta, apart):
        nonlocal width
        top = ritz(alpha, beta, A.rows)[0][:, 0]
        width = float((upper_bound(alpha, beta, top, A.rows, A.columns, 0.99) / top - 1).max())
        return width <= CONVERGED

    run = golub_kahan(A, start, steps, stop)
    return Spectrum(run.alpha, run.beta, width)


def krylov(reference: Spectrum) -> Count:
    """Golub-Kahan-Lanczos, one product with A and one with A' a step."""
    for k in range(1, reference.alpha.shape[1] + 1):
        reached = reference.error(torch.linalg.svdvals(reference.matrices[:, :k, :k])[:, 0])
        if reached <= ERROR:
            break
    return Count(2 * k, reached, f"{k} steps")


def power(reference: Spectrum) -> Count:
    """Power iteration with A'A, the estimate |A v|; one product with A and one with A' an iteration."""
    B = reference.matrices
    v = torch.zeros_like(B[:, 0])
    v[:, 0] = 1
    iterations, reached = 0, 1.0
    while reached > ERROR and iterations < MOST_ITERATIONS:
        u = (B @ v[:, :, None])[:, :, 0]
        reached = reference.error(u.norm(dim=1))
        iterations += 1
        v = (B.mT @ u[:, :, None])[:, :, 0]
        v = v / v.norm(dim=1, keepdim=True)
    return Count(2 * iterations, reached, f"{iterations} iterations")


def arpack(reference: Spectrum) -> Count:
    """scipy.sparse.linalg.svds by ARPACK at the loosest tolerance that reaches the error."""
    for tolerance in TOLERANCES:
        values, products = zip(*(largest_by_svds(B, tolerance) for B in reference.matrices.numpy()), strict=True)
        reached = reference.error(torch.tensor(values))
        if reached <= ERROR:
            break
    return Count(float(np.mean(products)), reached, f"tol={tolerance:g}")


def largest_by_svds(B: np.ndarray, tolerance: float) -> tuple[float, int]:
    """The largest singular value by svds from e_1, and how many products it took."""
    made = 0

    def multiplied(matrix):
        def product(v):
            nonlocal made
            made += 1 if v.ndim == 1 else v.shape[1]
            return matrix @ v

        return product

    forward, reverse = multiplied(B), multiplied(B.T)
    operator = LinearOperator(B.shape, forward, reverse, matmat=forward, rmatmat=reverse, dtype=B.dtype)
    v0 = np.zeros(len(B))
    v0[0] = 1
    value = svds(operator, k=1, tol=tolerance, v0=v0, return_singular_vectors=False)[0]
    return float(value), made
