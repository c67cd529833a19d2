"""How far singular values may be off because products were rounded."""

import torch
from torch import Tensor

from .bidiagonalization import Bidiagonalization, at_hand, bidiagonal, unit, wide
from .operator import Operator

UNMEASURED = 8


class RoundingError:
    """What products differ by from those of the operator that is meant, measured on a few vectors.

    With E and F the errors of the products A V and A' U, as they enter U B and V B' + beta v e', Golub-Kahan has
    bidiagonalized A + E V' + U F' (1 - V V') without any error, so that no singular value is off by more than |E| + |F|
    (Weyl). This is taken for sqrt(k) times the largest error of one product that was found: on the random first vector
    and on the Ritz vectors of the largest singular value. From it `upper` is proven where it is small, as that of
    float32 and of 3xtf32 is, see certificate.py. TF32's is larger than what a random start has of one direction: there
    `upper` still needs that the rounding does not know where the leading singular vector lies, and is tested by
    coverage.

    What nothing measures, the rounding of the exact products themselves, is taken for `UNMEASURED` units in their last
    place: networks of 20 layers were found within two thirds of it.

    Attributes:
        image: The exact A v_1.
        forward: Length of the largest error of a product with A found so far, for each operator; on the CPU.
        backward: Likewise with A'.
    """

    def __init__(self, A: Operator, exact: Operator, first: Tensor):
        self.exact = exact
        self.forward = self.backward = torch.zeros(A.batch, dtype=torch.float64)
        if exact is A:
            return
        self.image = wide(exact.mv(first.to(A.dtype)), A)
        u = unit(self.image).to(A.dtype)
        self.forward = lengths(wide(A.mv(first.to(A.dtype)), A) - self.image)
        self.backward = lengths(wide(A.vm(u), A) - wide(exact.vm(u), A))

    def slack(self, steps: int | Tensor, top: Tensor, some: Tensor | slice = slice(None)) -> Tensor:
        """What singular values, of which `top` is the largest, of some operators may be off by after so many steps."""
        unmeasured = UNMEASURED * torch.finfo(self.exact.dtype).eps * top
        return steps**0.5 * (self.forward[some] + self.backward[some] + unmeasured)

    def look(self, parts: list[tuple[Tensor, Bidiagonalization]]) -> Tensor:
        """Measures along the leading Ritz vectors too; |A v| of the right one, which is a true lower bound.

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
        Av, Au = (
            wide(product(z.to(self.exact.dtype)), self.exact) for product, z in ((self.exact.mv, v), (self.exact.vm, u))
        )
        self.forward = torch.maximum(self.forward, lengths(s * u - Av))
        self.backward = torch.maximum(self.backward, lengths(s * v + remainder - Au))
        return lengths(Av) / lengths(v)


def lengths(z: Tensor) -> Tensor:
    """The norm of each vector, on the CPU."""
    return z.norm(dim=1).cpu().double()
