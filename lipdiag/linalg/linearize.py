"""One linearization of a function, and many products with it.

At a point (x, t), f(x + dx, t + dt) = f(x, t) + J dx + f_t dt + ...; a Linearization computes J dx + f_t dt for any
(dx, dt) and J' u for any u, each about as dear as f itself. Reverse products are vector-Jacobian products on a graph
that is built once and kept. Forward products come from the first of these methods that works on f:

  forward mode        exact; recorded once and replayed (see tape.py), or one pass over dual numbers each
  double backward     exact; J' u is linear in u, so differentiating it backward once more in u gives J v
  finite differences  f alone is evaluated: central in x, extrapolated to step zero in t (Ridders)

Everything is done when it is first asked for, so that the pass that records is also the first product.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lipdiag.linalg.forward_mode import push_forward
from lipdiag.linalg.operator import Operator
from lipdiag.linalg.replay import Tape, record

METHODS = ("forward mode", "double backward", "finite differences")


class Linearization:
    """A function's value and its products with the Jacobian at one point; made by `linearize`.

    Attributes:
        refusals: Why a method was passed over, by its name; "recording" if only the recording failed.
        forward_products: Batched products J v computed so far.
        reverse_products: Batched products J' u computed so far.
    """

    def __init__(self, f, x, t, methods, record):
        self.f = f
        self.x = x.detach()
        self.t = None if t is None else t.detach()
        self.refusals: dict[str, str] = {}
        self.forward_products = 0
        self.reverse_products = 0
        self._methods = [_METHODS[name](self) for name in methods]
        if record and methods[0] == "forward mode":
            self._methods.insert(0, _Recorded(self))
        self._tried = False
        self._output: Tensor | None = None
        self._graph: tuple[Tensor, Tensor] | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """x, or x and t."""
        return (self.x,) if self.t is None else (self.x, self.t)

    @property
    def output(self) -> Tensor:
        """f(x, t), detached. It costs nothing after a product."""
        if self._output is None:
            with torch.no_grad():
                self._output = one_tensor(self.f(*self.inputs))
        return self._output

    @property
    def method(self) -> str:
        """The method that forward products come from; before the first product it is found by making one."""
        if not self._tried:
            self.jvp(torch.zeros_like(self.x))
        return self._methods[0].name

    @property
    def recorded(self) -> bool:
        """Whether forward products are replayed from a tape."""
        return self.method == "forward mode" and isinstance(self._methods[0], _Recorded)

    def jvp(self, dx: Tensor | None = None, dt: Tensor | None = None) -> Tensor:
        """J dx + f_t dt, as one product; what is None does not move, and costs nothing.

        Args:
            dx: Like x.
            dt: Like t.
        """
        if dx is None and dt is None:
            raise ValueError("A product needs a direction: give dx, dt or both.")
        if dt is not None and self.t is None:
            raise ValueError("A direction dt was given, but this function was linearized without t.")
        tangents = [dx] if self.t is None else [dx, dt]
        for z, v in zip(self.inputs, tangents, strict=True):
            if v is not None and v.shape != z.shape:
                raise ValueError(f"The direction has shape {tuple(v.shape)}, and its input {tuple(z.shape)}.")
        tangents = [None if v is None else v.detach().to(z) for z, v in zip(self.inputs, tangents, strict=True)]
        product = self._first_that_works(tangents)
        self.forward_products += 1
        return torch.zeros_like(self.output) if product is None else product.detach()

    def _first_that_works(self, tangents):
        while True:
            method = self._methods[0]
            try:
                product = method(tangents)
            except Exception as error:
                if out_of_memory(error) or method.last_resort:
                    raise
                self.refusals[method.label] = f"{type(error).__name__}: {error}".strip()
                if len(self._methods) == 1:
                    reasons = "; ".join(f"{k}: {v}" for k, v in self.refusals.items())
                    raise RuntimeError(f"No method that was allowed can differentiate the function ({reasons}).") from error
                self._methods.pop(0)
            else:
                self._tried = True
                return product

    def vjp(self, u: Tensor) -> Tensor:
        """J' u, like x. The first one also evaluates f once more, to keep its graph."""
        if self._graph is None:
            self._graph = self._reverse_graph()
        x, y = self._graph
        if u.shape != y.shape:
            raise ValueError(f"The direction has shape {tuple(u.shape)}, and the output {tuple(y.shape)}.")
        self.reverse_products += 1
        if not y.requires_grad:
            return torch.zeros_like(x)
        product = torch.autograd.grad(y, x, u.detach().to(y), retain_graph=True, allow_unused=True)[0]
        return torch.zeros_like(x) if product is None else product.detach()

    def _reverse_graph(self):
        with torch.enable_grad():
            x = self.x.clone().requires_grad_()
            y = one_tensor(self.f(x.view_as(x), *self.inputs[1:]))
        if self._output is None:
            self._output = y.detach()
        return x, y

    @property
    def jacobian(self) -> Operator:
        """J over the flattened event, as an operator whose products are this linearization's."""
        shape, y = self.x.shape, self.output

        def mv(v):
            return self.jvp(v.reshape(shape)).flatten(1)

        def vm(u):
            return self.vjp(u.reshape(y.shape)).flatten(1)

        return Operator(mv, vm, y[0].numel(), self.x[0].numel(), len(self.x), y.dtype, y.device)


def linearize(
    f: Callable[..., Tensor],
    x: Float[Tensor, "batch *event"],
    t: Float[Tensor, " batch"] | None = None,
    methods: Sequence[str] = METHODS,
    record: bool = True,
) -> Linearization:
    """The linearization of f at (x, t).

    Args:
        f: f(x, t), or f(x) if t is None, with samples along the first axis that do not see each other; deterministic.
        x: The points.
        t: Their times; f casts them to the precision it computes in.
        methods: What forward products may come from, in the order of trying.
        record: Record forward mode on a tape: worth it from the second forward product on, for the memory of one pass.
            Without it each forward product costs about 2.1 evaluations, and nothing is kept.
    """
    unknown = [m for m in methods if m not in METHODS]
    if unknown or not methods:
        raise ValueError(f"Methods {list(methods)} were asked for; choose among {', '.join(METHODS)}.")
    return Linearization(f, x, t, tuple(methods), record)


def one_tensor(y) -> Tensor:
    """y, if it is what a function to be linearized must return."""
    if not isinstance(y, Tensor):
        raise TypeError(f"The function must return one tensor and returned a {type(y).__name__}.")
    return y


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, which another method would not mend."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


class _Method:
    """A way to forward products: called with the tangents, gives the product, or None where it is zero."""

    last_resort = False

    def __init__(self, owner: Linearization):
        self.owner = owner

    @property
    def label(self) -> str:
        return self.name


class _Recorded(_Method):
    name = "forward mode"
    label = "recording"

    def __init__(self, owner):
        super().__init__(owner)
        self.tape: Tape | None = None

    def __call__(self, tangents):
        if self.tape is not None:
            return self.tape(*tangents)
        seeds = [torch.zeros_like(z) if v is None else v for z, v in zip(self.owner.inputs, tangents, strict=True)]
        y, dy, self.tape = record(self.owner.f, self.owner.inputs, seeds)
        self.owner._output = y.detach()
        # The input that does not move went through the pass as a numerical zero, and zero times infinity is not zero.
        return dy if dy is None or dy.isfinite().all() else self.tape(*tangents)


class _Forward(_Method):
    name = "forward mode"

    def __call__(self, tangents):
        y, dy = push_forward(self.owner.f, self.owner.inputs, tangents)
        self.owner._output = y.detach()
        return dy


class _DoubleBackward(_Method):
    name = "double backward"

    def __init__(self, owner):
        super().__init__(owner)
        self.graph = None

    def build(self):
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            inputs = [z.clone().requires_grad_() for z in self.owner.inputs]
            y = one_tensor(self.owner.f(*(z.view_as(z) for z in inputs)))
            self.owner._output = y.detach()
            u = torch.zeros_like(y, requires_grad=True)
            if not y.requires_grad:
                return u, [None for _ in inputs]
            return u, torch.autograd.grad(y, inputs, u, create_graph=True, allow_unused=True)

    def __call__(self, tangents):
        if self.graph is None:
            self.graph = self.build()
        u, gradients = self.graph
        pairs = [
            (g, v) for g, v in zip(gradients, tangents, strict=True) if v is not None and g is not None and g.requires_grad
        ]
        if not pairs:
            return None
        g, v = zip(*pairs, strict=True)
        return torch.autograd.grad(g, u, v, retain_graph=True, allow_unused=True)[0]


class _FiniteDifferences(_Method):
    name = "finite differences"
    last_resort = True

    @torch.no_grad()
    def __call__(self, tangents):
        product = None
        x, dx = self.owner.x, tangents[0]
        if dx is not None:
            product = self.in_space(x, dx)
        if len(tangents) == 2 and tangents[1] is not None:
            in_time = self.in_time(self.owner.t, tangents[1])
            product = in_time if product is None else product + in_time
        return product

    def at(self, x=None, t=None):
        inputs = [self.owner.x if x is None else x]
        if self.owner.t is not None:
            inputs.append(self.owner.t if t is None else t)
        return one_tensor(self.owner.f(*inputs))

    def in_space(self, x, dx):
        # Rounding grows as eps / h and truncation as h^2: the best h is near eps^(1/3) of the size of x, and a fifth
        # of that was measured to be best on trained networks.
        def norm(z):
            return z.flatten(1).norm(dim=1).clamp_min(torch.finfo(z.dtype).tiny).view(-1, *[1] * (z.ndim - 1))

        h = 0.2 * torch.finfo(x.dtype).eps ** (1 / 3) * norm(x)
        v = dx / norm(dx)
        return (self.at(x + h * v) - self.at(x - h * v)) / (2 * h) * norm(dx)

    def in_time(self, t, dt, shrink=3.0, levels=7):
        """Richardson's extrapolation over a ladder of steps; each sample takes the entry with the least error estimate.

        Ridders, Accurate computation of F'(x) and F'(x) F''(x), 1982. https://doi.org/10.1016/S0141-1195(82)80057-0
        """
        def column(z):
            return z.view(-1, *[1] * (self.owner.output.ndim - 1))

        h = 0.1 * t.abs().clamp_min(1e-3)
        row: list[Tensor] = []
        for _ in range(levels):
            quotient = (self.at(t=t + h) - self.at(t=t - h)) / column(2 * h)
            new = [quotient]
            for order, old in enumerate(row, 1):
                factor = shrink ** (2 * order)
                new.append((factor * new[-1] - old) / (factor - 1))
            errors = [
                torch.maximum(size(new[j] - new[j - 1]), size(new[j] - row[j - 1])) for j in range(1, len(new))
            ]
            for j, error in enumerate(errors, 1):
                if j == 1 and len(row) == 1:
                    best, least = new[1], error
                else:
                    better = error < least
                    best = torch.where(column(better), new[j], best)
                    least = torch.where(better, error, least)
            row, h = new, h / shrink
        return best * column(dt).to(best.dtype)


def size(z: Tensor) -> Tensor:
    """The norm of each sample."""
    return z.flatten(1).norm(dim=1)


_METHODS = {c.name: c for c in (_Forward, _DoubleBackward, _FiniteDifferences)}
