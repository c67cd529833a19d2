"""Derivatives by torch's own reverse mode or by evaluation alone, which share no rule with what is tested."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def double_backward(f, inputs, tangents):
    """f(inputs) and its derivative along the tangents: J' u is linear in u, and its derivative in u along w is J w."""
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        inputs = [z.detach().clone().requires_grad_() for z in inputs]
        y = f(*(z.view_as(z) for z in inputs))
        u = torch.zeros_like(y, requires_grad=True)
        gradients = torch.autograd.grad(y, inputs, u, create_graph=True, allow_unused=True)
        moving = [(g, v) for g, v in zip(gradients, tangents, strict=True) if v is not None and g is not None]
        moving = [(g, v.to(g)) for g, v in moving if g.requires_grad]
        if not moving:
            return y.detach(), torch.zeros_like(y)
        g, v = zip(*moving, strict=True)
        return y.detach(), torch.autograd.grad(g, u, v)[0]


def central_difference(f, inputs, tangents, h):
    """The derivative along the tangents, with an error O(h^2)."""
    with torch.no_grad():
        ends = [f(*(z if v is None else z + s * h * v for z, v in zip(inputs, tangents, strict=True))) for s in (1, -1)]
        return (ends[0] - ends[1]) / (2 * h)


def relative(a, b):
    """|a - b| / |b|, over everything."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())
