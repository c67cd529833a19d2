"""Upper bounds for what Krylov methods approach from below, at no further product.

After k steps of Golub-Kahan, v_{k+1} = p(A'A) v_1 and u_k = q(AA') A v_1 are unit vectors, with polynomials that alpha
and beta determine. Along the leading right singular vector y, of the largest singular value s, these say

  |<v_1, y>| max(|p(s^2)|, s |q(s^2)|) <= 1.

If v_1 is uniform on the sphere, |<v_1, y>| >= delta with a known probability, and s is then at most the root of
max(|p|, s |q|) = 1 / delta beyond the largest singular value of B, where both grow. No gap is assumed. A start that is
not uniform, such as random signs, voids the bound. For Lanczos likewise, with v_{k+1} = p(A) v_1. All this is of small
arrays, in float64 on the CPU.

Hochstenbach, Probabilistic upper bounds for the matrix two-norm, 2013. https://doi.org/10.1007/s10915-013-9716-x
van Dorsselaer, Hochstenbach & van der Vorst, Computing probabilistic bounds for extreme eigenvalues of symmetric
matrices with the Lanczos method, 2000. https://doi.org/10.1137/S0895479899352956
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps


@cache
def least_overlap(dimension: int, risk: float) -> float:
    """delta with P(|<v, y>| < delta) = risk, for v uniform on the unit sphere and y any unit vector."""
    from scipy.special import betaincinv

    return float(betaincinv(0.5, (dimension - 1) / 2, risk)) ** 0.5 if dimension > 1 else 1.0


def upper_bound(alpha: Tensor, beta: Tensor, top: Tensor, rows: int, columns: int, confidence: float) -> Tensor:
    """The bound of the largest singular value, after as many steps of Golub-Kahan as alpha and beta have columns.

    Args:
        alpha: Diagonal of B.
        beta: What stands above it, and last the norm of the remainder.
        top: The largest singular value of B.
        rows: Of the operator.
        columns: Of the operator.
        confidence: Probability that the bound holds, over the start.
    """
    if alpha.shape[1] == min(rows, columns):
        return top
    scale = torch.where(top > 0, top, 1)
    # A breakdown is where one of these is zero: the polynomials then explode, and the bound closes on the value.
    alpha, beta = ((z / scale[:, None]).clamp_min(EPS) for z in (alpha, beta))

    def growth(s):
        # alpha_j q_j = p_{j-1} - beta_{j-1} q_{j-1}  and  beta_j p_j = s^2 q_j - alpha_j p_{j-1}, from p_0 = 1, q_0 = 0
        p, q, log = torch.ones_like(s), torch.zeros_like(s), torch.zeros_like(s)
        most = log
        for j in range(alpha.shape[1]):
            q = (p - (beta[:, j - 1 : j] if j else 0) * q) / alpha[:, j : j + 1]
            p = (s * s * q - alpha[:, j : j + 1] * p) / beta[:, j : j + 1]
            factor = torch.maximum(p.abs(), (s * q).abs())
            p, q, log = p / factor, q / factor, log + factor.log()
            most = torch.maximum(most, log)  # each step's bound holds, and after a breakdown only those before it
        return most

    excess = excess_at(growth, torch.ones_like(scale), -math.log(least_overlap(columns, 1 - confidence)))
    return top * (1 + excess)


def eigenvalue_bound(alpha: Tensor, beta: Tensor, top: Tensor, n: int, confidence: float) -> Tensor:
    """The bound of the largest eigenvalue, after as many steps of Lanczos as alpha and beta have columns.

    Args:
        alpha: Diagonal of T.
        beta: What stands beside it, and last the norm of the remainder.
        top: The largest eigenvalue of T.
        n: Dimension of the operator.
        confidence: Probability that the bound holds, over the start.
    """
    if alpha.shape[1] == n:
        return top
    size = (alpha.abs() + beta).amax(1)
    scale = torch.where(size > 0, size, 1)
    base = top / scale
    alpha, beta = alpha / scale[:, None], (beta / scale[:, None]).clamp_min(EPS)

    def growth(s):
        # beta_j p_j = (s - alpha_j) p_{j-1} - beta_{j-1} p_{j-2}, from p_0 = 1
        p, old, log = torch.ones_like(s), torch.zeros_like(s), torch.zeros_like(s)
        most = log
        for j in range(alpha.shape[1]):
            p, old = ((s - alpha[:, j : j + 1]) * p - (beta[:, j - 1 : j] if j else 0) * old) / beta[:, j : j + 1], p
            factor = torch.maximum(p.abs(), old.abs())
            p, old, log = p / factor, old / factor, log + factor.log()
            most = torch.maximum(most, log + p.abs().log())
        return most

    excess = excess_at(growth, base, -math.log(least_overlap(n, 1 - confidence)))
    return torch.where(size > 0, top + excess * scale, top)


def excess_at(growth: Callable[[Tensor], Tensor], base: Tensor, goal: float) -> Tensor:
    """How far beyond `base` growth reaches `goal`, rounded up; growth increases there.

    The logarithm of the distance is sought on a grid, which is refined until it resolves a few parts in a million.
    """
    low, high = torch.full_like(base, -16.0)[:, None], torch.full_like(base, 4.0)[:, None]
    fraction = torch.linspace(0, 1, 64, dtype=base.dtype)
    for _ in range(4):
        grid = low + (high - low) * fraction
        above = growth(base[:, None] + 10**grid) >= goal
        first = torch.where(above.any(1), above.int().argmax(1), len(fraction) - 1)[:, None]
        low, high = grid.gather(1, (first - 1).clamp_min(0)), grid.gather(1, first)
    return 10 ** high[:, 0]
