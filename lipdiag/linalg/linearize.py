"""One linearization of a function, and many products with it.

At a point (x, t), f(x + dx, t + dt) = f(x, t) + J dx + f_t dt + ...; a Linearization computes J dx + f_t dt for any
(dx, dt), and J' u for any u, each at about the cost of f itself. Reverse products are vector-Jacobian products on a
graph that is built once and kept. Forward products come from the first method (see method.py) that works on f.

Everything is done when it is first asked for: the pass that records is also the first product.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ..breakdown import MethodError, of_the_device
from .forward_mode import one_tensor
from .method import DoubleBackward, FiniteDifferences, ForwardMode, Method, Recorded
from .operator import Operator
from .precision import full_precision

_BY_NAME: dict[str, type[Method]] = {m.name: m for m in (ForwardMode, DoubleBackward, FiniteDifferences)}
METHODS = tuple(_BY_NAME)


class ReverseError(RuntimeError):
    """A function of which reverse products cannot be had, for the reason that it says."""


class Linearization:
    """The value of a function and the products with its Jacobian at one point; made by `linearize`.

    Attributes:
        refusals: Why a method was passed over, by its name, or "recording" if that alone failed.
        dead: Those of "x" and "t" along which a product was found to be zero because nothing differentiable leads from
            there to the output: the function rounds, detaches or ignores it.
        forward_products: Batched products J dx + f_t dt computed so far.
        reverse_products: Batched products J' u computed so far.
    """

    def __init__(self, f: Callable[..., Tensor], x: Tensor, t: Tensor | None, methods: Sequence[type[Method]]):
        self.f = f
        self.inputs = (x.detach(),) if t is None else (x.detach(), t.detach())
        self.refusals: dict[str, str] = {}
        self.dead: set[str] = set()
        self.forward_products = 0
        self.reverse_products = 0
        self._methods = [method(f, self.inputs) for method in methods]
        self._settled = False
        self._output: Tensor | None = None
        self._graph: tuple[Tensor, Tensor] | None = None
        self._fused = True  # whether reverse mode may use kernels of attention that have no second derivative

    @property
    @full_precision()
    def output(self) -> Tensor:
        """f(x, t), detached; it costs nothing after a product."""
        if self._output is None:
            with torch.no_grad():
                self._output = one_tensor(self.f(*self.inputs))
        return self._output

    @property
    def method(self) -> str:
        """The method that forward products come from; found by a product that is not counted, if there was none."""
        if not self._settled:
            self._product([torch.zeros_like(z) for z in self.inputs])
        return self._methods[0].name

    @property
    def recorded(self) -> bool:
        """Whether forward products are replayed from a recording."""
        return self.method == Recorded.name and isinstance(self._methods[0], Recorded)

    def jvp(self, dx: Tensor | None = None, dt: Tensor | None = None) -> Tensor:
        """J dx + f_t dt as one product; what is None does not move, and is not paid for.

        Args:
            dx: Like x.
            dt: Like t.
        """
        tangents = [dx] if len(self.inputs) == 1 and dt is None else [dx, dt]
        if len(tangents) > len(self.inputs):
            raise ValueError("a direction dt was given to the linearization of a function of x alone")
        if all(v is None for v in tangents):
            raise ValueError("a product needs a direction; give dx, dt or both")
        for z, v in zip(self.inputs, tangents, strict=True):
            if v is not None and v.shape != z.shape:
                raise ValueError(f"a direction has shape {tuple(v.shape)}, and what it moves {tuple(z.shape)}")
        moving = [None if v is None else v.detach().to(z) for z, v in zip(self.inputs, tangents, strict=True)]
        product = self._product(moving)
        self.forward_products += 1
        if product is None:
            self.dead.update(name for name, v in zip("xt", tangents, strict=False) if v is not None)
            return torch.zeros_like(self.output)
        return product.detach()

    @full_precision()
    def _product(self, tangents: Sequence[Tensor | None]) -> Tensor | None:
        """The product by the first method that does not fail; those that do are dropped."""
        while True:
            method = self._methods[0]
            try:
                product, value = method(tangents)
                if product is None and isinstance(method, DoubleBackward) and self.refusals and len(self._methods) > 1:
                    raise ReverseError("Nothing that reverse mode differentiates leads from there to the output.")
            except Exception as error:
                # Finite differences only evaluate f: if they fail, f does, and its own error says why.
                if of_the_device(error) or isinstance(method, FiniteDifferences):
                    raise
                self.refusals[method.label] = f"{type(error).__name__}: {error}"
                if len(self._methods) == 1:
                    reasons = "; ".join(f"{label}: {reason}" for label, reason in self.refusals.items())
                    raise MethodError(f"No allowed method differentiates this function. {reasons}") from error
                del self._methods[0]
            else:
                self._settled = True
                if self._output is None and value is not None:
                    self._output = value.detach()
                return product

    @full_precision()
    def vjp(self, u: Tensor) -> Tensor:
        """J' u, like x; the first one also evaluates f, to keep its graph.

        Args:
            u: Like the output.

        Raises:
            ReverseError: If reverse mode fails on f.
        """
        try:
            if self._graph is None:
                self._graph = self._reverse_graph()
            x, y = self._graph
            fits, product = u.shape == y.shape, None
            if fits and y.requires_grad:
                product = torch.autograd.grad(y, x, u.detach().to(y), retain_graph=True, allow_unused=True)[0]
        except Exception as error:  # whatever f may raise where gradients are kept, and does not raise without
            if of_the_device(error):
                raise
            if not self._fused:
                raise ReverseError(f"{type(error).__name__}: {error}") from error
        else:
            if not fits:
                raise ValueError(f"a direction has shape {tuple(u.shape)}, and the output {tuple(y.shape)}")
            self.reverse_products += 1
            return torch.zeros_like(self.inputs[0]) if product is None else product
        self._fused, self._graph = False, None
        return self.vjp(u)

    def _reverse_graph(self) -> tuple[Tensor, Tensor]:
        kernels = nullcontext() if self._fused else sdpa_kernel(SDPBackend.MATH)
        with torch.enable_grad(), Frozen(), kernels:
            x = self.inputs[0].detach().requires_grad_()
            y = one_tensor(self.f(x, *self.inputs[1:]))
        if self._output is None:
            self._output = y.detach()
        return x, y

    @property
    def jacobian(self) -> Operator:
        """J over the flattened event, as an operator whose products are this linearization's."""
        if self._output is None:  # whose price the first reverse product would pay anyway
            with full_precision():
                self._graph = self._reverse_graph()
        x, y = self.inputs[0], self.output

        def mv(v):
            return self.jvp(v.reshape(x.shape)).reshape(len(x), -1)

        def vm(u):
            return self.vjp(u.reshape(y.shape)).reshape(len(x), -1)

        return Operator(mv, vm, y[0].numel(), x[0].numel(), len(x), y.dtype, y.device)


def linearize(
    f: Callable[..., Tensor],
    x: Float[Tensor, "batch *event"],
    t: Float[Tensor, " batch"] | None = None,
    methods: Sequence[str] = METHODS,
    record: bool = True,
) -> Linearization:
    """The linearization of f at (x, t).

    Args:
        f: f(x, t), or f(x) if t is None; deterministic, with samples along the first axis that do not see each other.
        x: The points.
        t: Their times; f casts them to the precision that it computes in.
        methods: What forward products may come from, in the order of trying.
        record: Whether to record forward mode: worth it from the second forward product on, for the memory of what the
            pass multiplies tangents with. Without it a product costs about 2.1 evaluations of f and nothing is kept.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise ValueError(f"the methods are {', '.join(METHODS)}, and {list(methods)} were asked for")
    chain = [_BY_NAME[name] for name in methods]
    if record and ForwardMode in chain:
        chain.insert(chain.index(ForwardMode), Recorded)

    def on_copies(*inputs):
        return f(*(z.clone() for z in inputs))  # which f may write to

    return Linearization(on_copies, x, t, chain)


class Frozen(TorchFunctionMode):
    """Parameters do not require gradients here, so that a graph keeps nothing for them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args = tuple(a.detach() if isinstance(a, nn.Parameter) else a for a in args)
        return func(*args, **(kwargs or {}))
