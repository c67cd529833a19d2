"""Forward-mode differentiation of networks as they come.

A dual number carries a value and a tangent, f(x + s v) = f(x) + s J v + O(s^2); one pass over duals gives J v. Torch's
own rules fail on fused attention and on group norms of strided inputs, and spend three convolutions where two do. While
`forward_mode()` is active a few operations follow better rules, wherever they are called; nothing is patched:

  linear maps    d(W x) = W dx, if W itself carries no tangent
  norms          y = (x - m) r:  dy = r (dx - mean(dx) - y mean(y dx)), a symmetric map and therefore also the one that
                 the fused backward kernel computes
  softmax        dp = p (ds - sum(p ds)), symmetric as well
  attention      o = p v, p = softmax(s), s = c q k':  ds = c (dq k' + q dk'),  do = dp v + p dv

They work on values and tangents apart. Where the function differentiates something itself, the graph of that must carry
tangents as well, and torch's own rules apply.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .attention import scaled_dot_product_attention
from .dual import unpacked, with_tangent
from .precision import full_precision

Rule = Callable[..., Any]
aten = torch.ops.aten


def linear_in_input(function: Callable[..., Tensor]) -> Rule:
    """The rule of y = W x + b, for linear layers and convolutions.

    Torch's rule adds W(dx) and dW(x) even where dW is zero, and computes both.
    """

    def rule(input, weight, bias=None, *args, **kwargs):
        x, dx = unpacked(input)
        if dx is None or unpacked(weight)[1] is not None or unpacked(bias)[1] is not None:
            return function(input, weight, bias, *args, **kwargs)
        return with_tangent(function(x, weight, bias, *args, **kwargs), function(dx, weight, None, *args, **kwargs))

    return rule


def bilinear(function: Callable[..., Tensor]) -> Rule:
    """The rule of y = a b where one factor alone carries a tangent."""

    def rule(input, other, **kwargs):
        (a, da), (b, db) = unpacked(input), unpacked(other)
        if (da is None) == (db is None) or kwargs:
            return function(input, other, **kwargs)
        return with_tangent(function(a, b), function(a, db) if da is None else function(da, b))

    return rule


def additive(function: Callable[..., Tensor], sign: int) -> Rule:
    """The rule of y = a + b and y = a - b where one term alone carries a tangent."""

    def rule(input, other, **kwargs):
        (a, da), (b, db) = unpacked(input), unpacked(other)
        if (da is None) == (db is None) or kwargs:
            return function(input, other, **kwargs)
        y = function(a, b)
        dy: Any = da if db is None else db * sign
        # A copy, lest a later write into y's tangent is one into its term's.
        return with_tangent(y, dy.expand(y.shape).clone())

    return rule


def quotient(function: Callable[..., Tensor]) -> Rule:
    """The rule of y = a / b where b carries no tangent."""

    def rule(input, other, **kwargs):
        a, da = unpacked(input)
        if da is None or unpacked(other)[1] is not None or kwargs:
            return function(input, other, **kwargs)
        return with_tangent(function(a, other), function(da, other))

    return rule


def softmax(function: Callable[..., Tensor]) -> Rule:
    """The rule of softmax by its fused kernel; the Jacobian is symmetric."""

    def rule(input, *args, **kwargs):
        s, ds = unpacked(input)
        dim = kwargs.get("dim", args[0] if args else None)
        if ds is not None and dim is not None:
            p = function(s, *args, **kwargs)
            if p.dtype == s.dtype:
                return with_tangent(p, torch._softmax_backward_data(ds, p, dim, p.dtype))
        return function(input, *args, **kwargs)

    return rule


def affine(y: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    """y w + b with the parameters along the given axes."""
    if weight is not None:
        y = y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    """Group norm by the fused kernels; x is made contiguous, as torch's own rule requires without saying so."""
    x, dx = unpacked(input)
    if dx is None:
        return functional.group_norm(input, num_groups, weight, bias, eps)
    x = x.contiguous()
    batch, channels = x.shape[:2]
    sizes = batch, channels, x.shape[2:].numel(), num_groups
    constant = unpacked(weight)[1] is None and unpacked(bias)[1] is None
    parameters = (weight, bias) if constant else (None, None)
    y, mean, rstd = aten.native_group_norm(x, *parameters, *sizes, eps)
    dy = aten.native_group_norm_backward(dx.contiguous(), x, mean, rstd, None, *sizes, [True, False, False])[0]
    shape = (channels,) + (1,) * (x.ndim - 2)
    if constant:
        return with_tangent(y, affine(dy, weight, None, shape))
    return affine(with_tangent(y, dy), weight, bias, shape)


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    """Layer norm by the fused kernels."""
    x, dx = unpacked(input)
    shape = list(normalized_shape)
    if dx is None:
        return functional.layer_norm(input, shape, weight, bias, eps)
    x = x.contiguous()
    constant = unpacked(weight)[1] is None and unpacked(bias)[1] is None
    parameters = (weight, bias) if constant else (None, None)
    y, mean, rstd = aten.native_layer_norm(x, shape, *parameters, eps)
    dy = aten.native_layer_norm_backward(dx.contiguous(), x, shape, mean, rstd, None, None, [True, False, False])[0]
    if constant:
        return with_tangent(y, affine(dy, weight, None, shape))
    return affine(with_tangent(y, dy), weight, bias, shape)


def unfused(function: Callable[..., Any]) -> Rule:
    """The rule of a function in Python that calls attention, which then runs with these rules suspended."""

    def rule(*args, **kwargs):
        with sdpa_kernel(SDPBackend.MATH):
            return function(*args, **kwargs)

    return rule


RULES: dict[Callable[..., Any], Rule] = {
    **{f: linear_in_input(f) for f in (torch.conv1d, torch.conv2d, torch.conv3d, functional.linear)},
    **{
        f: linear_in_input(f)
        for f in (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
    },
    **{f: bilinear(f) for f in (torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm)},
    **{f: bilinear(f) for f in (torch.mul, torch.multiply, Tensor.mul, Tensor.multiply)},
    **{f: additive(f, 1) for f in (torch.add, Tensor.add)},
    **{f: additive(f, -1) for f in (torch.sub, torch.subtract, Tensor.sub, Tensor.subtract)},
    **{f: quotient(f) for f in (torch.div, torch.true_divide, Tensor.div, Tensor.true_divide)},
    **{f: softmax(f) for f in (torch.softmax, Tensor.softmax, functional.softmax)},
    **dict.fromkeys((functional.group_norm, torch.group_norm), group_norm),
    **dict.fromkeys((functional.layer_norm, torch.layer_norm), layer_norm),
    functional.scaled_dot_product_attention: scaled_dot_product_attention,
    functional.multi_head_attention_forward: unfused(functional.multi_head_attention_forward),
}


def group_norm_in_a_graph(input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    """Group norm as a layer norm of its groups; torch's own rule adds a constant to the tangent, of no effect."""
    groups = input.reshape(len(input), num_groups, -1)
    y = functional.layer_norm(groups, groups.shape[2:], eps=eps).view(input.shape)
    return affine(y, weight, bias, (-1, *[1] * (input.ndim - 2)))


def layer_norm_in_a_graph(input, *args, **kwargs):
    """Layer norm of a contiguous input, as torch's own rule requires without saying so."""
    return functional.layer_norm(input.contiguous(), *args, **kwargs)


IN_A_GRAPH: dict[Callable[..., Any], Rule] = {
    **dict.fromkeys((functional.group_norm, torch.group_norm), group_norm_in_a_graph),
    functional.layer_norm: layer_norm_in_a_graph,
    functional.scaled_dot_product_attention: unfused(functional.scaled_dot_product_attention),
    functional.multi_head_attention_forward: unfused(functional.multi_head_attention_forward),
}
"""What becomes of a rule where its result is part of a graph for reverse mode; the others give way to torch's own."""


class ForwardMode(TorchFunctionMode):
    """The rules above, for as long as it is entered."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        rule = RULES.get(func)  # rarely: most of what is called are questions about geometry
        if rule is not None and torch.is_grad_enabled() and in_a_graph((*args, *kwargs.values())):
            rule = IN_A_GRAPH.get(func)
        return (rule or func)(*args, **kwargs)


def in_a_graph(arguments: Sequence) -> bool:
    """Whether one of them is part of a graph for reverse mode."""
    return any(isinstance(a, Tensor) and a.requires_grad for a in arguments)


def forward_mode() -> ForwardMode:
    """A context in which forward mode works on real networks, and at two thirds of its cost."""
    return ForwardMode()


@full_precision()
def push_forward(
    f: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    """f(primals) and the derivative of f along the tangents, by one forward-mode pass.

    A tangent of None is zero and costs nothing. The derivative is None where f does not depend on what has a tangent.
    """
    with torch.no_grad(), forward_ad.dual_level(), forward_mode():
        duals = [p if v is None else forward_ad.make_dual(p, v) for p, v in zip(primals, tangents, strict=True)]
        y, dy = forward_ad.unpack_dual(one_tensor(f(*duals)))
    return y, dy


def one_tensor(y) -> Tensor:
    """What a function returned, if that is one tensor."""
    if not isinstance(y, Tensor):
        raise TypeError(f"The function must return one tensor and returned a {type(y).__name__}.")
    return y
