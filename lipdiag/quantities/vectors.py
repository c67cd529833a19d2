"""Leading singular vectors of d eps / d x: the directions in which a sample's prediction is most sensitive.

With A V = U B from Golub-Kahan and B = P S Q', the right vectors are V Q and the left ones U P. Each pair is off by an
angle of about residual / gap, the gap being the distance to the next singular value.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..linalg.bidiagonalization import at_hand, bidiagonal, golub_kahan, ritz
from ..linalg.rounding_error import RoundingError
from .point import Point
from .quantity import MANY_PRODUCTS, RANKS, SPECTRAL, Quantity, Variable

CLOSE = 1e-3
"""Krylov steps stop where every residual is below this share of the largest value."""


@torch.no_grad()
def vectors(point: Point) -> dict[str, Tensor]:
    A = point.jacobian
    count = point.accuracy.kept(A.columns)

    def close(alpha: Tensor, beta: Tensor, apart: Tensor) -> bool:
        if alpha.shape[1] <= count:
            return False
        alpha, beta = at_hand(alpha, beta)
        values, residuals = ritz(alpha, beta, A.rows)
        return bool((residuals[:, :count] <= CLOSE * values[:, :1]).all())

    run = golub_kahan(A, point.start, min(point.accuracy.krylov_steps, A.rows, A.columns), close)
    k = run.alpha.shape[1]
    alpha, beta, apart = at_hand(run.alpha, run.beta, run.apart)
    values, residuals = ritz(alpha, beta, A.rows)
    slack = RoundingError(A, A, point.start).slack(apart, values[:, 0])[:, None]
    lower = (values - slack).clamp_min(0)
    P, _, Q = (z.to(run.alpha) for z in torch.linalg.svd(bidiagonal(alpha, beta)))
    right = Q[:, :count] @ run.right[:, :k]
    left = P.mT[:, :count] @ run.left
    sign = signs(right)
    return {
        "vector_singular_values": lower[:, :count],
        "vector_residuals": (residuals + slack + values - lower)[:, :count],
        "right_singular_vectors": right * sign,
        "left_singular_vectors": left * sign,
    }


def signs(vectors: Float[Tensor, "batch rank entry"]) -> Float[Tensor, "batch rank 1"]:
    """What makes the largest entry of each positive: a singular vector's sign is arbitrary."""
    largest = vectors.abs().argmax(-1, keepdim=True)
    return torch.where(vectors.gather(-1, largest) < 0, -1.0, 1.0).to(vectors)


QUANTITIES = {
    "vectors": Quantity(
        vectors,
        {
            "vector_singular_values": Variable("singular values of the vectors, lower bounds", "1", SPECTRAL, RANKS),
            "vector_residuals": Variable("distance to a true singular value, at most", "1", SPECTRAL, RANKS),
            "right_singular_vectors": Variable("directions in x", "1", "unit length", ("rank", "entry")),
            "left_singular_vectors": Variable("directions in eps", "1", "unit length", ("rank", "entry")),
        },
        lambda work: 2 * work.krylov_steps,
        MANY_PRODUCTS,
    )
}
