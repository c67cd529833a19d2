"""Products with the Jacobian on tensor cores: faster than float32, and less exact by an error that is measured.

A graphics processor multiplies matrices several times faster where it may round each factor to the 10 bits of TF32. The
linear map itself stays that of the point where it was linearized in full float32; its products A v and A' u alone are
rounded. Three such products of a factor's high and low part, a b = ah bh + ah bl + al bh, lose 2^-22 instead of 2^-11.
Of a weight in half precision, which has no more than 10 bits, the low part is zero, and two products do.

Where a processor has no tensor cores, the same roundings are made by hand: slower, and there to test what they do.

NVIDIA, TF32 tensor cores, 2020. Markidis et al., NVIDIA tensor core programmability, performance & precision, 2018.
https://arxiv.org/abs/1803.04014
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .attention import attention_tangent
from .half_precision import HalfPrecision, widened
from .operator import Operator
from .precision import tensor_cores

aten = torch.ops.aten
PRODUCTS = ("ieee", "tf32", "3xtf32")

# Which two arguments are multiplied. A convolution's backward pass multiplies the gradient with the weights.
FACTORS = {
    aten.mm: (0, 1),
    aten.bmm: (0, 1),
    aten.mv: (0, 1),
    aten.addmm: (1, 2),
    aten.addmm_: (1, 2),
    aten.addmv: (1, 2),
    aten.baddbmm: (1, 2),
    aten.baddbmm_: (1, 2),
    aten.convolution: (0, 1),
    aten.convolution_backward: (0, 2),
}
SUMMED = {aten.addmm, aten.addmm_, aten.addmv, aten.baddbmm, aten.baddbmm_}


def rounded(z: Tensor) -> Tensor:
    """Float32 to the nearest of 10 bits behind the leading one, ties to even; TF32 has the exponents of float32."""
    bits = z.contiguous().view(torch.int32)
    even = (bits >> 13) & 1
    near = ((bits + 0xFFF + even) & ~0x1FFF).view(torch.float32)
    return torch.where(z.isfinite(), near, z)


class Rounded(TorchDispatchMode):
    """While entered, factors of float32 products are rounded, once or as a high and a low part.

    Args:
        parts: 1 for TF32, 2 for three products of its parts.
        by_hand: Whether to round here; else a processor does where it multiplies, and only parts are made here.
    """

    def __init__(self, parts: int, by_hand: bool):
        super().__init__()
        self.parts, self.by_hand = parts, by_hand

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.lipdiag.attention_tangent.default:
            with self:
                return attention_tangent(*args, **kwargs)
        packet = func.overloadpacket
        weights_too = packet is aten.convolution_backward and any(args[-1][1:])
        if packet not in FACTORS or args[FACTORS[packet][0]].dtype != torch.float32 or weights_too:
            return func(*args, **kwargs)
        first, second = FACTORS[packet]

        def product(a, b, args=args, kwargs=kwargs):
            changed = list(args)
            changed[first], changed[second] = a, b
            return func(*changed, **kwargs)

        (a, a_low), (b, b_low) = (self.split(args[i]) for i in (first, second))
        cross = [pair for pair in ((a, b_low), (a_low, b)) if pair[0] is not None and pair[1] is not None]
        return corrected(packet, product, args, kwargs, (a, b), cross)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """The high part of a factor and, if it has one that counts, the low part."""
        if isinstance(z, HalfPrecision):
            return widened(z), None
        high = rounded(z)
        if self.parts == 1:
            return high, None
        return high, rounded(z - high) if self.by_hand else z - high


def corrected(packet, product: Callable, args: tuple, kwargs: dict, high: tuple, cross: list[tuple]):
    """The product of the high parts, and those of a high and a low one added to it."""
    total = product(*high)
    for a, b in cross:
        if packet in SUMMED:  # beta self + alpha a b, of which self is there already
            total = product(a, b, (total, *args[1:]), {**kwargs, "beta": 1})
        elif packet is aten.convolution:
            total = total + product(a, b, (*args[:2], None, *args[3:]))
        elif packet is aten.convolution_backward:
            total = (total[0] + product(a, b)[0], *total[1:])
        elif "out" in kwargs:
            total = total.add_(product(a, b, kwargs={**kwargs, "out": torch.empty_like(total)}))
        else:
            total = total + product(a, b)
    return total


def with_products(A: Operator, kind: str) -> Operator:
    """The operator with its products computed as `kind` says; what A was linearized at is not touched.

    Args:
        A: Products in float32.
        kind: "ieee" for float32 as it is, "tf32", or "3xtf32".

    Raises:
        ValueError: For another kind, or where the products are not float32.
    """
    if kind not in PRODUCTS:
        raise ValueError(f"there are no products {kind!r}; known are {', '.join(PRODUCTS)}")
    if kind == "ieee":
        return A
    if A.dtype != torch.float32:
        raise ValueError(f"{kind} products are products of float32, and this operator's are of {A.dtype}; use ieee")
    by_hand = A.device.type != "cuda"

    def fast(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def rounded_product(v: Tensor) -> Tensor:
            with ExitStack() as stack:
                if not by_hand:
                    stack.enter_context(tensor_cores())
                if by_hand or kind == "3xtf32":
                    stack.enter_context(Rounded(2 if kind == "3xtf32" else 1, by_hand))
                return product(v)

        return rounded_product

    return replace(A, mv=fast(A.mv), vm=fast(A.vm))
