"""Singular values and extreme eigenvalues by Krylov methods, with bounds.

The singular values of B, of a Golub-Kahan bidiagonalization, never exceed those of A, and each is within beta_k |last
entry of its left vector| of one of A's.

Lanczos: for a symmetric A, k steps give orthonormal V and a tridiagonal T with  A V = V T + beta_k v_{k+1} e_k'.  The
eigenvalues of T lie between the extreme ones of A.

Products may be in any precision; all else is in float64, and the bases are reorthogonalized in full. Upper bounds are
those of certificate.py.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .bidiagonalization import at_hand, bidiagonal, golub_kahan, next_vector, ritz, unit, wide
from .certificate import eigenvalue_bound, upper_bound
from .operator import Operator
from .rounding_error import RoundingError


class SingularValues(NamedTuple):
    """Leading singular values with evidence of their error.

    Attributes:
        values: Descending; none exceeds the true one of its rank, as they are lowered by what products may have lost.
        residuals: Within this distance of each value lies some true singular value.
        upper: A bound of the largest one that holds with the confidence asked for.
        steps: Krylov steps taken.
        taken: Those after which each sample was judged.
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
    taken: Int[Tensor, " batch"]
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
    exact: Operator | None = None,
    together: Int[Tensor, " batch"] | None = None,
) -> SingularValues:
    """Leading singular values of A, each with a bound on its error.

    Cost: `steps` products with A and as many with A'; memory for steps * (rows + columns) numbers per sample. With
    `exact`, one more product with A and with A', and two with each of the exact ones.

    Args:
        A: The operators; their products must be deterministic.
        start: First right vectors; uniform on the sphere, else `upper` is void.
        steps: Largest Krylov depth; min(rows, columns) is always enough and never exceeded.
        count: How many values.
        width: Stop as soon as upper / value - 1 is at most this for every sample; where rounding alone makes it wider,
            as soon as it would be without.
        confidence: Of `upper`, for each sample on its own.
        minimum: Do not stop before this many steps, nor before there are `count` values.
        exact: The operators themselves, where the products of A are rounded ones; what these lose is then measured (see
            `RoundingError`), and the first value is that of an exact product.
        together: A number for each sample: those that share one are judged after the step at which all of them were
            narrow enough, whatever else is in the batch. By default all share one.

    References:
        Golub & Kahan, Calculating the singular values and pseudo-inverse of a matrix, 1965. https://doi.org/10.1137/0702016
    """
    steps = min(steps, A.rows, A.columns)
    if not 1 <= count <= steps:
        raise ValueError(f"{count} values were asked for; {steps} steps allow 1 to {steps}")
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must lie between 0 and 1, not {confidence}")

    rounding = RoundingError(A, A if exact is None else exact, unit(wide(start, A)))
    stop = Stopping(A, rounding, groups(A, together), steps, width, confidence, max(minimum, count))
    run = golub_kahan(A, start, steps, stop)
    k = run.alpha.shape[1]
    taken = stop.taken.clamp(max=k)
    parts = run.parts(taken)
    order = torch.cat([some for some, _ in parts]).argsort()
    longest = None if exact is None else rounding.look(parts)[:, None]
    found = []
    for some, part in parts:
        alpha, beta, apart = at_hand(part.alpha, part.beta, part.apart)
        values, residuals = ritz(alpha, beta, A.rows)
        slack = rounding.slack(apart, values[:, 0], some)
        upper = upper_bound(alpha, beta, values[:, 0], A.rows, A.columns, confidence, slack)
        found.append((values[:, :count], residuals[:, :count], upper, slack[:, None]))
    near, residuals, upper, slack = (torch.cat(z)[order] for z in zip(*found, strict=True))
    values, image = (near - slack).clamp_min(0), run.alpha[:, :1] * run.left[:, 0]
    if longest is not None:
        values, image = torch.cat([longest, values[:, 1:]], 1), rounding.image
        upper = torch.maximum(upper, (longest + slack)[:, 0])
    residuals = residuals + slack + (near - values).abs()
    values, residuals, upper = (z.to(run.alpha) for z in (values, residuals, upper))
    return SingularValues(
        values, residuals, upper, k, taken, 2 * k, run.adjoint_gap, run.alpha[:, 0], run.right[:, 0], image
    )


class Stopping:
    """Ends a run once all intervals are narrow; samples that belong together are judged after one step.

    Attributes:
        taken: Steps after which each sample is judged.
    """

    def __init__(self, A, rounding, group, steps, width, confidence, minimum):
        self.A, self.rounding = A, rounding
        self.width, self.confidence, self.minimum = width, confidence, minimum
        self.taken = torch.full((A.batch,), steps, device="cpu")
        self._members = {number: (group == number).nonzero()[:, 0] for number in group.unique().tolist()}
        self._widest = {number: some[:1] for number, some in self._members.items()}

    def __call__(self, alpha: Tensor, beta: Tensor, apart: Tensor) -> bool:
        if self.width is None or alpha.shape[1] < self.minimum:
            return False
        steps, most = at_hand(alpha, beta, apart), 1 + self.width
        # first the one of each group that was widest a step ago, and mostly is too wide still
        ratios = self._ratio(steps, torch.cat(list(self._widest.values()))).tolist()
        for number in [number for number, r in zip(self._widest, ratios, strict=True) if not r > most]:
            members = self._members[number]
            ratio = self._ratio(steps, members)
            too_wide = ratio > most  # a sample that is not a number does not hold up the others
            if too_wide.any():
                self._widest[number] = members[torch.where(too_wide, ratio, 0).argmax()][None]
            else:
                self.taken[members] = alpha.shape[1]
                del self._widest[number]
        return not self._widest

    def _ratio(self, steps: Tensor, some: Tensor) -> Tensor:
        """The upper bound of some samples over the value; without rounding, where that alone is too wide."""
        alpha, beta, apart = steps[:, some]
        top = ritz(alpha, beta, self.A.rows)[0][:, 0]
        slack = self.rounding.slack(apart, top, some)
        slack = torch.where(2 * slack > self.width * top, 0, slack)
        return upper_bound(alpha, beta, top, self.A.rows, self.A.columns, self.confidence, slack) / (top - slack)


def groups(A: Operator, together: Tensor | None) -> Tensor:
    """Which samples belong together, on the CPU; all where nothing is said."""
    return torch.zeros(A.batch, dtype=torch.long, device="cpu") if together is None else together.cpu()


class ExtremeEigenvalues(NamedTuple):
    """The smallest and the largest eigenvalue of symmetric operators, with evidence of their error.

    Products are taken for exact: their rounding may move each of these.

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
    together: Int[Tensor, " batch"] | None = None,
) -> ExtremeEigenvalues:
    """Extreme eigenvalues of symmetric operators by Lanczos with full reorthogonalization.

    Args:
        A: The operators; only `mv` is used.
        start: First vectors; uniform on the sphere, else `lower` and `upper` are void.
        steps: Largest Krylov depth; the dimension is always enough and never exceeded.
        width: Stop as soon as both bounds are within this fraction of the largest modulus for every sample.
        confidence: Of each bound, for each sample on its own.
        minimum: Do not stop before this many steps.
        together: A number for each sample, see `singular_values`.

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
    group, going = groups(A, together), torch.ones(A.batch, dtype=torch.bool, device="cpu")
    judged: ExtremeEigenvalues | None = None
    for j in range(steps):
        z = wide(A.mv(basis[:, j].to(A.dtype)), A)
        alpha[:, j] = (z * basis[:, j]).sum(1)
        scale = torch.maximum(scale, z.norm(dim=1))
        basis[:, j + 1], beta[:, j], _ = next_vector(z, basis[:, : j + 1], scale)
        k = j + 1
        if k == steps or (width is not None and k >= minimum):
            both = at_hand(alpha[:, :k], beta[:, :k])
            found = extremes(both[0], both[1], n, confidence)
            modulus = torch.maximum(found.smallest.abs(), found.largest.abs())
            gap = torch.maximum(found.upper - found.largest, found.smallest - found.lower)
            pairs = zip(found[:-1], (judged or found)[:-1], strict=True)
            judged = ExtremeEigenvalues._make([*(torch.where(going, new, old) for new, old in pairs), k])
            going = going & torch.isin(group, group[gap > width * modulus]) if width is not None else going
            if not going.any():
                break
    assert judged is not None  # by the last step at the latest
    return ExtremeEigenvalues._make([*(z.to(first) for z in judged[:-1]), k])


def extremes(alpha: Tensor, beta: Tensor, n: int, confidence: float) -> ExtremeEigenvalues:
    """What k steps of Lanczos say, of alpha and beta on the CPU."""
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
