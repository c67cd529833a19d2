"""Ways to forward products J dx + f_t dt of a function f, each made of (f, inputs) and called with tangents.

  forward mode        exact, over dual numbers; recorded once and replayed, or one pass a product
  double backward     exact; J' u is linear in u, so differentiating it backward once more, in u, gives J v
  finite differences  f alone is evaluated: central differences in x, extrapolated to step zero in t

Each call gives what it knows of f's value, and the product; a product of None is zero, because no input that moves
reaches the output. A tangent of None does not move.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .forward_mode import one_tensor, push_forward
from .replay import Tape, record

Tangents = Sequence[Tensor | None]


class Product(NamedTuple):
    """A product and, where it came along, the value of f."""

    product: Tensor | None
    value: Tensor | None = None


class Method:
    """A way to forward products."""

    name: ClassVar[str]
    label: ClassVar[str]  # what a refusal is filed under

    def __init__(self, f: Callable[..., Tensor], inputs: Sequence[Tensor]):
        self.f = f
        self.inputs = tuple(inputs)

    def __call__(self, tangents: Tangents) -> Product:
        raise NotImplementedError


class Recorded(Method):
    """Forward mode, recorded by the first product."""

    name = "forward mode"
    label = "recording"
    tape: Tape | None = None

    def __call__(self, tangents):
        if self.tape is not None:
            return Product(self.tape(*tangents))
        seeds = [torch.zeros_like(z) if v is None else v for z, v in zip(self.inputs, tangents, strict=True)]
        y, dy, self.tape = record(self.f, self.inputs, seeds)
        if any(v is None for v in tangents):
            # What does not move went through this pass as a numerical zero, and zero times infinity is not zero.
            moving = tuple(v is not None for v in tangents)
            if self.tape.program(moving) is None or dy is None or not dy.isfinite().all():
                dy = self.tape(*tangents)
        return Product(dy, y)


class ForwardMode(Method):
    """Forward mode, one pass a product."""

    name = label = "forward mode"

    def __call__(self, tangents):
        y, dy = push_forward(self.f, self.inputs, tangents)
        return Product(dy, y)


class DoubleBackward(Method):
    """The derivative in u of J' u, on a graph that is built by the first product and kept.

    Where a derivative was itself computed out of autograd's sight this is silently wrong, so that the first product in
    each set of inputs is compared with a reverse product: <J v, u> = <v, J' u>.
    """

    name = label = "double backward"
    graph: tuple[Tensor, Tensor, Sequence[Tensor], Sequence[Tensor | None]] | None = None

    def __init__(self, f, inputs):
        super().__init__(f, inputs)
        self.verified: set[tuple[bool, ...]] = set()

    def __call__(self, tangents):
        if self.graph is None:
            self.graph = self.build()
        u, y, _, gradients = self.graph
        moving = [(g, v) for g, v in zip(gradients, tangents, strict=True) if v is not None and g is not None]
        if not moving:
            return Product(None, y)
        g, v = zip(*moving, strict=True)
        product = torch.autograd.grad(g, u, v, retain_graph=True)[0]
        self.verify(product, tangents)
        return Product(product, y)

    def build(self):
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            inputs = [z.detach().requires_grad_() for z in self.inputs]
            y = one_tensor(self.f(*inputs))
            u = torch.zeros_like(y, requires_grad=True)
            gradients: Sequence[Tensor | None] = [None for _ in inputs]
            if y.requires_grad:
                gradients = torch.autograd.grad(y, inputs, u, create_graph=True, allow_unused=True)
        return u, y, inputs, gradients

    def verify(self, product: Tensor, tangents: Tangents) -> None:
        moving = tuple(v is not None for v in tangents)
        if moving in self.verified or self.graph is None:
            return
        _, y, inputs, _ = self.graph
        u = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu").to(y)
        pulled = torch.autograd.grad(y, inputs, u, retain_graph=True, allow_unused=True)
        left = inner(product, u)
        right = torch.zeros_like(left)
        for g, v in zip(pulled, tangents, strict=True):
            if g is not None and v is not None:
                right += inner(g, v)
        rounding = 100 * torch.finfo(y.dtype).eps * (size(product) * size(u)).double()
        if ((left - right).abs() > 1e-3 * torch.maximum(left.abs(), right.abs()) + rounding).any():
            raise RuntimeError(
                "Backward derivatives of this function are not differentiable: <J v, u> is not <v, J' u>."
            )
        self.verified.add(moving)


class FiniteDifferences(Method):
    """Differences of f's values: two evaluations for dx, fourteen for dt, errors of 1e-4 in float32."""

    name = label = "finite differences"

    @torch.no_grad()
    def __call__(self, tangents):
        dx, dt = tangents if len(tangents) == 2 else (tangents[0], None)
        in_space = None if dx is None else self.in_space(dx)
        in_time = None if dt is None else self.in_time(dt)
        if in_space is None or in_time is None:
            return Product(in_time if in_space is None else in_space)
        return Product(in_space + in_time)

    def in_space(self, dx: Tensor) -> Tensor:
        """The central difference along dx.

        Truncation grows as h^2 and rounding as eps / h, so that the best h is near eps^(1/3) on the scale of x; a fifth
        of that was the best on trained networks.
        """
        x, *rest = self.inputs
        root = x[0].numel() ** 0.5
        length = along(size(x).clamp_min(0.01 * root), x)
        h = 0.2 * torch.finfo(x.dtype).eps ** (1 / 3) * length
        norm = along(size(dx).clamp_min(torch.finfo(x.dtype).tiny), x)
        plus, minus = (one_tensor(self.f(x + s * h * (dx / norm), *rest)) for s in (1, -1))
        slope = (size(dx) / (2 * h.flatten())).to(plus.dtype)
        return (plus - minus) * along(slope, plus)

    def in_time(self, dt: Tensor, levels: int = 7, shrink: float = 3.0) -> Tensor:
        """Richardson's extrapolation of central differences; each sample takes the entry with the least error estimate.

        Ridders, Accurate computation of F'(x) and F'(x) F''(x), 1982. https://doi.org/10.1016/S0141-1195(82)80057-0
        """
        x, t = self.inputs
        h = 0.1 * t.abs().clamp_min(1e-3)
        row: list[Tensor] = []
        best = least = torch.empty(0)
        for _ in range(levels):
            plus, minus = one_tensor(self.f(x, t + h)), one_tensor(self.f(x, t - h))
            new = [(plus - minus) / along((2 * h).to(plus.dtype), plus)]
            for order, old in enumerate(row, start=1):
                power = shrink ** (2 * order)
                new.append((power * new[-1] - old) / (power - 1))
                error = torch.maximum(size(new[-1] - new[-2]), size(new[-1] - old))
                better = error < least if len(least) else torch.ones_like(error, dtype=torch.bool)
                best = torch.where(along(better, new[-1]), new[-1], best if len(best) else new[-1])
                least = torch.where(better, error, least if len(least) else error)
            row, h = new, h / shrink
        return best * along(dt.to(best.dtype), best)


def size(z: Tensor) -> Tensor:
    """The norm of each sample."""
    return z.reshape(len(z), -1).norm(dim=1)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, in float64."""
    return (a * b).reshape(len(a), -1).sum(1).double()


def along(a: Tensor, z: Tensor) -> Tensor:
    """One number a sample, shaped to broadcast over z."""
    return a.view(-1, *[1] * (z.ndim - 1))
