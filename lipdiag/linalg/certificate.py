"""Upper bounds for what Krylov methods approach from below, at no further product.

After k steps of Golub-Kahan, v_{k+1} = p(A'A) v_1 and u_k = q(AA') A v_1 are unit vectors, with polynomials that alpha
and beta determine. Along the leading right singular vector y, of the largest singular value s, these say

  |<v_1, y>| max(|p(s^2)|, s |q(s^2)|) <= 1.

If v_1 is uniform on the sphere, |<v_1, y>| >= delta with a known probability, and s is then at most the root of
max(|p|, s |q|) = 1 / delta beyond the largest singular value of B, where both grow. No gap is assumed. A start that is
not uniform, such as random signs, voids the bound. For Lanczos likewise, with v_{k+1} = p(A) v_1. All this is of small
arrays, in float64 on the CPU. It holds after each step, so that a run may end by what it finds.

Rounding. Let A V = U B - E and A' U = V B' + beta_k v_{k+1} e_k' - F, in which E and F are whatever products lost, and
x, y the leading vectors of A itself, which is not asked to be what was bidiagonalized. Then the numbers w = (<v_1, y>,
<u_1, x>, <v_2, y>, ..., <u_k, x>) obey

  (s - T) w = beta_k <v_{k+1}, y> e + eta,    |eta|^2 = |E' x|^2 + |F' y|^2,

with e the last unit vector and T of zero diagonal with alpha_1, beta_1, alpha_2, ..., alpha_k beside it. Beyond its
largest eigenvalue, that of B, all entries of (s - T)^-1 are positive and fall as s grows. Of the first row, r, the last
entry times beta_k is 1 / |p|, so that

  |<v_1, y>| <= 1 / max(|p|, s |q|) + |r| |eta|,

the first term after whichever step. As y is one of A alone, v_1 knows nothing of it, whatever products lose because of
v_1: the root at which the right side falls to delta is a bound, of which nothing is assumed but the lengths of errors.

It costs little where |eta| is small next to delta s. Products that lose more could hide y altogether, so that no proof
is to be had: rounding that knew y would only have to round <v_1, y> to zero.

Hochstenbach, Probabilistic upper bounds for the matrix two-norm, 2013. https://doi.org/10.1007/s10915-013-9716-x
van Dorsselaer, Hochstenbach & van der Vorst, Computing probabilistic bounds for extreme eigenvalues of symmetric
matrices with the Lanczos method, 2000. https://doi.org/10.1137/S0895479899352956
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .bidiagonalization import bidiagonal

EPS = torch.finfo(torch.float64).eps

PROVABLE = 0.2
"""The largest error of products, relative to delta s, for which the proof is asked for: the bound is then some 1 % of s
wider than without any error."""


@cache
def least_overlap(dimension: int, risk: float) -> float:
    """delta with P(|<v, y>| < delta) = risk, for v uniform on the unit sphere and y any unit vector."""
    from scipy.special import betaincinv

    return float(betaincinv(0.5, (dimension - 1) / 2, risk)) ** 0.5 if dimension > 1 else 1.0


def upper_bound(
    alpha: Tensor, beta: Tensor, top: Tensor, rows: int, columns: int, confidence: float, error: Tensor | float = 0.0
) -> Tensor:
    """The bound of the largest singular value, after as many steps of Golub-Kahan as alpha and beta have columns.

    It is proven where the error is at most `PROVABLE` of what could hide the leading vector. Beyond, it takes the start
    for independent of the rounding, as the bidiagonalized operator then differs from A by the error at most (Weyl).

    Args:
        alpha: Diagonal of B.
        beta: What stands above it, and last the norm of the remainder.
        top: The largest singular value of B.
        rows: Of the operator.
        columns: Of the operator.
        confidence: Probability that the bound holds, over the start.
        error: |E| + |F| at most, of what all products lost.
    """
    error = torch.as_tensor(error, dtype=top.dtype, device=top.device).expand_as(top)
    if alpha.shape[1] == min(rows, columns):
        return top + error
    delta = least_overlap(columns, 1 - confidence)
    scale = torch.where(top > 0, top, 1)
    proven = torch.where(error <= PROVABLE * delta * top, error / scale, 0)[:, None]
    # A breakdown is where one of these is zero: the polynomials then explode, and the bound closes on the value.
    alpha, beta = ((z / scale[:, None]).clamp_min(EPS) for z in (alpha, beta))
    # Eigenvectors of T are right and left singular vectors of B, interleaved, and its eigenvalues both signs of theirs.
    values, right = torch.linalg.svd(bidiagonal(alpha.nan_to_num(0, 0, 0), beta.nan_to_num(0, 0, 0)))[1:]
    weights = right[:, :, 0].square() / 2

    def growth(s):
        # alpha_j q_j = p_{j-1} - beta_{j-1} q_{j-1}  and  beta_j p_j = s^2 q_j - alpha_j p_{j-1}, from p_0 = 1, q_0 = 0
        p, q, log = torch.ones_like(s), torch.zeros_like(s), torch.zeros_like(s)
        most, reach = log, torch.zeros_like(s)
        for j in range(alpha.shape[1]):
            each = values[:, j : j + 1]
            reach = reach + weights[:, j : j + 1] * ((s - each) ** -2 + (s + each) ** -2)  # |r|^2
            q = (p - (beta[:, j - 1 : j] if j else 0) * q) / alpha[:, j : j + 1]
            p = (s * s * q - alpha[:, j : j + 1] * p) / beta[:, j : j + 1]
            factor = torch.maximum(p.abs(), (s * q).abs())
            p, q, log = p / factor, q / factor, log + factor.log()
            most = torch.maximum(most, log)  # each step's bound holds, and after a breakdown only those before it
        return -((-most).exp() + torch.where(proven > 0, proven * reach.sqrt(), 0)).log()

    excess = excess_at(growth, torch.ones_like(scale), -math.log(delta))
    return top * (1 + excess) + torch.where(proven[:, 0] > 0, 0, error)


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
    fraction = torch.linspace(0, 1, 64, dtype=base.dtype, device="cpu")
    for _ in range(4):
        grid = low + (high - low) * fraction
        above = growth(base[:, None] + 10**grid) >= goal
        first = torch.where(above.any(1), above.int().argmax(1), len(fraction) - 1)[:, None]
        low, high = grid.gather(1, (first - 1).clamp_min(0)), grid.gather(1, first)
    return 10 ** high[:, 0]
