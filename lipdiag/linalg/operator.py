"""A batch of linear maps known only by their products.

An operator stands for `batch` matrices A_i of shape (rows, columns), one a sample. `mv` applies each to its own vector,
A_i v_i, and `vm` applies the transposes, A_i' u_i. The Jacobian of a function whose samples do not see each other is
block diagonal over the batch, so that ONE batched jvp gives all products J_i v_i and one batched vjp all J_i' u_i:
neither vmap nor a loop over samples is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from .precision import full_precision

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Operator:
    """A batch of linear maps, each known by its products.

    Attributes:
        mv: (batch, columns) -> (batch, rows), the products A v.
        vm: (batch, rows) -> (batch, columns), the products A' u.
        rows: Length of A v.
        columns: Length of v.
        batch: How many maps.
        dtype: Precision of the products.
        device: Where the products are computed.
    """

    mv: Product
    vm: Product
    rows: int
    columns: int
    batch: int
    dtype: torch.dtype
    device: torch.device


def transpose(A: Operator) -> Operator:
    """A', at no cost."""
    return replace(A, mv=A.vm, vm=A.mv, rows=A.columns, columns=A.rows)


def symmetric_part(A: Operator) -> Operator:
    """(A + A') / 2, each product of which costs one with A and one with A'."""
    if A.rows != A.columns:
        raise ValueError(f"only a square operator has a symmetric part, and this one is {A.rows} x {A.columns}")

    def product(v):
        return (A.mv(v) + A.vm(v)) / 2

    return replace(A, mv=product, vm=product)


def dense(A: Operator) -> Float[Tensor, "batch rows columns"]:
    """The matrices themselves, by one product for each of the fewer of rows and columns."""
    if A.rows < A.columns:
        return dense(transpose(A)).mT
    v = torch.zeros(A.batch, A.columns, dtype=A.dtype, device=A.device)
    images = []
    for column in range(A.columns):
        v[:, column] = 1
        images.append(A.mv(v.clone()))
        v[:, column] = 0
    return torch.stack(images, dim=-1)


def jacobian(f: Callable[[Tensor], Tensor], x: Float[Tensor, "batch *event"]) -> Operator:
    """The Jacobian of f at x over the flattened event, by `torch.func.jvp` and `torch.func.vjp`.

    The plain path: slower than `linearize(f, x).jacobian`, which it is there to check, and without its fall-backs.

    Args:
        f: Maps (batch, *event) to (batch, *shape); samples must not see each other.
        x: The points, one a sample.
    """
    x = x.detach()
    with full_precision():
        y, pull_back = torch.func.vjp(f, x)[:2]

    @full_precision()
    def mv(v):
        return torch.func.jvp(f, (x,), (v.reshape(x.shape),))[1].reshape(len(x), -1)

    @full_precision()
    def vm(u):
        return pull_back(u.reshape(y.shape))[0].reshape(len(x), -1)

    return Operator(mv, vm, y[0].numel(), x[0].numel(), len(x), y.dtype, x.device)
