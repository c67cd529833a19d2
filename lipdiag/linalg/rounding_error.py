"""How far singular values may be off because products were rounded."""

from functools import cache

import torch
from torch import Tensor

from .bidiagonalization import Bidiagonalization, at_hand, bidiagonal, unit, wide
from .operator import Operator, Product

UNMEASURED = 8
"""Units in the last place of the largest value that products may be off by together, without its being seen."""

RISK = 0.01
"""How often errors that know nothing of the vectors they are seen along are taken for smaller than they are."""

SCALES = (1.1, 1.2, 1.3, 1.4, 1.6, 1.7, 1.9)
"""By which a vector of a single number is multiplied, that its products may be rounded in more than one way."""


class RoundingError:
    """What products differ by from those of the operator that is meant.

    With E and F the errors of the products A V and A' U, as they enter U B and V B' + beta v e', Golub-Kahan has
    bidiagonalized A + E V' + U F' (1 - V V') without any error, so that no singular value is off by more than |E| + |F|
    (Weyl). This is taken for sqrt(k) times the error of one product with each.

    Float32 products show theirs for nothing: U' (A V) and (A' U)' V would be equal, and in their difference,
    U' E - F' V, stand k^2 - k components of errors that are independent. Of an error that has nothing to do with them,
    each holds as much as its share of the dimension, so that all together tell its length. So they do of a small
    difference of large terms, whose rounding is that of the terms. Rounded products are compared with exact ones
    instead, on the random first vector and on the Ritz vectors of the largest singular value, and what the exact ones
    lose is seen in their difference.

    What changes both products alike is not seen: errors along A v itself, and the rounding of activations, by which the
    network is linearized elsewhere. The first are taken for `UNMEASURED` units in the last place, within two thirds of
    which networks of 20 layers were found. The second come of the same operations as what is seen: on networks of six
    kinds, with all but a thousandth of them cancelled too, the whole difference to the float64 Jacobian was at most 0.4
    of what is allowed here. A network that overflows in float32 is another function there, which no product tells.

    From these lengths `upper` is proven where they are small, as those of float32 and of 3xtf32 are, see
    certificate.py. TF32's are larger than what a random start has of one direction: there `upper` still needs that the
    rounding does not know where the leading singular vector lies, and is tested by coverage.

    Attributes:
        image: The exact A v_1, where products are rounded ones.
    """

    def __init__(self, A: Operator, exact: Operator, first: Tensor):
        self.A, self.exact = A, exact
        self.lost = torch.zeros(A.batch, dtype=torch.float64, device="cpu")
        single = min(A.rows, A.columns) == 1
        if exact is A and not single:
            return
        scales = (1.0, *SCALES) if single else (1.0,)
        self.right = [(c * first, self.product(exact.mv, c * first)) for c in scales]
        self.image = self.right[0][1]
        left = unit(self.image)
        self.left = [(c * left, self.product(exact.vm, c * left)) for c in scales]
        if single:
            self.lost = self.crossed()
        if exact is not A:
            self.forward = lengths(self.product(A.mv, first) - self.image)
            self.backward = lengths(self.product(A.vm, left) - self.left[0][1])

    def product(self, product: Product, z: Tensor) -> Tensor:
        """That of z in the precision of products."""
        return wide(product(z.to(self.A.dtype)), self.A)

    def crossed(self) -> Tensor:
        """What exact products lose, by U' (A V) and (A' U)' V of all that were made."""
        (V, AV), (U, AU) = ([torch.stack(z, 1) for z in zip(*side, strict=True)] for side in (self.right, self.left))
        apart = (U @ AV.mT - AU @ V.mT).square().sum((1, 2))
        return self.both(apart.cpu().double(), 2)

    def slack(self, apart: Tensor, top: Tensor, some: Tensor | slice = slice(None)) -> Tensor:
        """What singular values, of which `top` is the largest, of some operators may be off by after so many steps."""
        steps = apart.shape[1]
        if self.exact is self.A:
            seen = self.lost[some] + self.both(apart.sum(1), max(steps**2 - steps, 1))
        else:
            seen = self.forward[some] + self.backward[some] + self.lost[some]
        return steps**0.5 * (seen + self.unseen(top))

    def unseen(self, top: Tensor) -> Tensor:
        """What is allowed for errors that change both products alike."""
        return UNMEASURED * torch.finfo(self.exact.dtype).eps * top

    def both(self, squares: Tensor, count: int) -> Tensor:
        """Lengths of the errors of a product with A and of one with A', together.

        Args:
            squares: Of the entries of U' E - F' V, summed.
            count: Of those that are independent: not of the diagonal, where A u_i and A' u_i of a symmetric operator
                are rounded alike.
        """
        return (2 * max(self.A.rows, self.A.columns) * squares / least_square(count)) ** 0.5

    def look(self, parts: list[tuple[Tensor, Bidiagonalization]]) -> Tensor:
        """Measures along the leading Ritz vectors too; a true lower bound, |A v| of the right one less what it lost.

        Args:
            parts: The operators' numbers and their bidiagonalizations, of as many steps each as they are judged by.
        """
        leading = []
        for _, run in parts:
            k = run.alpha.shape[1]
            B = bidiagonal(*at_hand(run.alpha, run.beta).nan_to_num(0, 0, 0))
            P, values, Q = (z.to(run.alpha) for z in torch.linalg.svd(B))
            p, s, q = P[:, None, :, 0], values[:, :1], Q[:, :1]
            remainder = run.beta[:, -1:] * p[:, 0, -1:] * run.right[:, k]
            leading.append((s, (p @ run.left)[:, 0], (q @ run.right[:, :k])[:, 0], remainder))
        order = torch.cat([some for some, _ in parts]).argsort()
        s, u, v, remainder = (torch.cat(z)[order.to(z[0].device)] for z in zip(*leading, strict=True))
        Av, Au = self.product(self.exact.mv, v), self.product(self.exact.vm, u)
        self.forward = torch.maximum(self.forward, lengths(s * u - Av))
        self.backward = torch.maximum(self.backward, lengths(s * v + remainder - Au))
        self.right.append((v, Av))
        self.left.append((u, Au))
        self.lost = self.crossed()
        longest = lengths(Av) / lengths(v)
        return (longest - self.lost - self.unseen(longest)).clamp_min(0)


@cache
def least_square(count: int) -> float:
    """Below which the sum of so many squares of standard normal numbers lies with probability `RISK`."""
    from scipy.special import gammaincinv

    return 2 * float(gammaincinv(count / 2, RISK))


def lengths(z: Tensor) -> Tensor:
    """The norm of each vector, on the CPU."""
    return z.norm(dim=1).cpu().double()
