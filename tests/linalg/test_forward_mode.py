"""Forward mode on single operations and on whole networks, against reverse mode applied twice and differences."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lipdiag.linalg.forward_mode import forward_mode, push_forward
from tests.linalg.networks import NETWORKS, made, randn
from tests.linalg.reference import central_difference, double_backward, relative

W, b = randn(6, 4, 3, 3), randn(6, seed=2)
IMAGE = (2, 4, 6, 6)

# name -> a function of an image, each with something that a rule might get wrong
OPERATIONS = {
    "conv2d": lambda x: functional.conv2d(x, W.to(x), b.to(x), stride=2, padding=1),
    "conv2d, same": lambda x: functional.conv2d(x, W.to(x), b.to(x), padding="same", dilation=2),
    "conv2d, groups": lambda x: functional.conv2d(x, W[:, :2].to(x), groups=2),
    "conv2d, keywords": lambda x: functional.conv2d(input=x, weight=W.to(x), bias=None, padding=(1, 0)),
    "conv1d": lambda x: functional.conv1d(x.flatten(2), W[..., 0].to(x), b.to(x)),
    "conv3d": lambda x: functional.conv3d(x[..., None], W[..., None].to(x), b.to(x), padding=(1, 1, 0)),
    "conv_transpose1d": lambda x: functional.conv_transpose1d(x.flatten(2), W[:4, :, 0].to(x), b[:4].to(x), stride=2),
    "conv_transpose2d": lambda x: functional.conv_transpose2d(x, W[:4].to(x), b[:4].to(x), stride=2, output_padding=1),
    "conv_transpose3d": lambda x: functional.conv_transpose3d(x[..., None], W[:4, ..., None].to(x)),
    "conv2d, weights from x": lambda x: functional.conv2d(x, W.to(x) * x.mean(), b.to(x) * x.sum()),
    "circular padding": lambda x: functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode="circular"), W.to(x)),
    "linear": lambda x: functional.linear(x, W[0, 0:1, 0].repeat(1, 2).to(x), b[:1].to(x)),
    "linear of a transpose": lambda x: functional.linear(x.flatten(2).mT, W[:, :, 0, 0].to(x), b.to(x)),
    "group_norm": lambda x: functional.group_norm(x, 2, b[:4].to(x), b[2:].to(x), eps=1e-3),
    "group_norm, no parameters": lambda x: functional.group_norm(x, 2),
    "group_norm, strided": lambda x: functional.group_norm(x.transpose(2, 3), 2, b[:4].to(x)),
    "group_norm, vectors": lambda x: functional.group_norm(x.flatten(1), 6),
    "group_norm, channels last": lambda x: functional.group_norm(x.to(memory_format=torch.channels_last), 2),
    "group_norm, weight from x": lambda x: functional.group_norm(x, 2, x.mean((0, 2, 3)), b[:4].to(x)),
    "layer_norm": lambda x: functional.layer_norm(x, (6,), b.to(x), b.to(x)),
    "layer_norm, two axes": lambda x: functional.layer_norm(x.mT, (6, 6), eps=1e-2),
    "layer_norm, bias from x": lambda x: functional.layer_norm(x, (6,), b.to(x), x.sum((0, 1, 2))),
    "rms_norm": lambda x: functional.rms_norm(x, (6,), b.to(x)),
    "batch_norm": lambda x: functional.batch_norm(x, b[:4].to(x), b[:4].square().to(x), b[:4].to(x), eps=0.1),
    "instance_norm": lambda x: functional.instance_norm(x),
    "softmax": lambda x: x.softmax(1),
    "softmax, by keyword": lambda x: functional.softmax(x, dim=-1) + torch.softmax(x, dim=-2),
    "softmax, wider": lambda x: torch.softmax(x, -1, dtype=torch.float64).to(x),
    "matmul": lambda x: (x @ W[0, 0:1].to(x).repeat(1, 2, 2)) + W[0, 0:1].to(x).repeat(1, 2, 2) @ x,
    "matmul of two": lambda x: x @ x.mT,
    "bmm": lambda x: torch.bmm(x[:, 0], x[:, 1]) + torch.bmm(x[:, 0], W[:2, 0].to(x).repeat(1, 2, 2)),
    "einsum": lambda x: torch.einsum("bchw,dcij->bdhw", x, W.to(x)) * torch.einsum("bchw,bchw->", x, x),
    "sums": lambda x: (1 + x - b[:4, None, None].to(x)) + (b.to(x) - x) + torch.sub(x, 2) + (3 - x) + x.add(x, alpha=2),
    "sums with a factor": lambda x: torch.add(b.to(x), x, alpha=3) + x.sub(b.to(x), alpha=2) + torch.sub(2, x, alpha=5),
    "sum that broadcasts": lambda x: x[:, :1] + W[:4, 0, 0, 0, None, None].to(x),
    "sum of one in place later": lambda x: (lambda y: (y.mul_(3), x * y)[1])(x + 1),
    "products": lambda x: 2 * x * b.to(x) * x / 3 / b.to(x) / (2 + x.square()),
    "quotient": lambda x: torch.div(x, b.to(x)) + 1 / (1 + x.square()),
    "rounded quotient": lambda x: x * torch.div(x, 0.3, rounding_mode="floor"),
    "casts": lambda x: (x.float().double() * x.to(torch.float64)).to(x),
    "mixed precision": lambda x: (
        x * torch.ones(6, dtype=torch.float64, device=x.device) + torch.tensor(2.0, dtype=torch.float64)
    ),
    "sum with wider numbers": lambda x: x + torch.ones(6, dtype=torch.float64, device=x.device),
    "activations": lambda x: functional.silu(x) + functional.gelu(x) + functional.mish(x) * x.tanh() * x.sigmoid(),
    "checkpoint": lambda x: checkpoint(lambda z: z.sin() * W.to(z).sum(), x, use_reentrant=False),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_reverse_mode_applied_twice(name, device):
    f, x = OPERATIONS[name], randn(*IMAGE, seed=3).to(device)
    v = randn(*IMAGE, seed=4).to(device)
    y, dy = push_forward(f, (x,), (v,))
    value, derivative = double_backward(f, (x,), (v,))
    torch.testing.assert_close(y, value, rtol=1e-12, atol=1e-12)
    tolerance = 1e-6 if name == "casts" else 1e-12
    assert relative(dy, derivative) < tolerance


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_in_float32_keep_its_precision(name, device):
    f, x = OPERATIONS[name], randn(*IMAGE, seed=3).to(device)
    v = randn(*IMAGE, seed=4).to(device)
    y, dy = push_forward(f, (x.float(),), (v.float(),))
    assert dy.dtype == y.dtype
    assert relative(dy, double_backward(f, (x,), (v,))[1]) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_equal_reverse_mode_applied_twice(name, device):
    f, x, t = made(name, device=device)
    dx, dt = randn(*x.shape, seed=4).to(device), torch.ones_like(t)
    for tangents in ((dx, None), (None, dt)):
        y, dy = push_forward(f, (x, t), tangents)
        value, derivative = double_backward(f, (x, t), tangents)
        assert relative(y, value) < 1e-13
        assert relative(dy, derivative) < 1e-13


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_equal_differences(name, device):
    """Some compute parts in float32 whatever they are given, so that no step of a difference is better than 1e-4."""
    f, x, t = made(name, device=device)
    dx, dt = randn(*x.shape, seed=4).to(device), torch.ones_like(t)
    assert relative(push_forward(f, (x, t), (dx, None))[1], central_difference(f, (x, t), (dx, None), 1e-4)) < 1e-3
    assert relative(push_forward(f, (x, t), (None, dt))[1], central_difference(f, (x, t), (None, dt), 1e-2)) < 2e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_float32_keep_its_precision(name, device):
    f, x, t = made(name, device=device)
    tangents = randn(*x.shape, seed=4).to(device), torch.ones_like(t)
    exact = push_forward(f, (x, t), tangents)[1]
    f = made(name, torch.float32, device)[0]
    dy = push_forward(f, (x.float(), t), (tangents[0].float(), tangents[1]))[1]
    assert dy.dtype == torch.float32
    assert relative(dy, exact) < 1e-5


def test_torch_func_jvp_follows_the_rules_too(device):
    """torch.func.jvp alone fails on this network, for its attention and for its group norms."""
    f, x, t = made("UNet2DModel with attention", device=device)
    v = randn(*x.shape, seed=4).to(device)
    with torch.no_grad(), forward_mode():
        dy = torch.func.jvp(lambda z: f(z, t), (x,), (v,))[1]
    assert relative(dy, double_backward(f, (x, t), (v, None))[1]) < 1e-13


def test_a_function_that_ignores_its_input_has_no_derivative(device):
    x = randn(2, 3).to(device)
    for f in (lambda z: torch.ones(2, 3), lambda z: z.round().detach(), lambda z: z.long().double()):
        assert push_forward(f, (x,), (x,))[1] is None


def test_each_linear_map_runs_once_for_the_value_and_once_for_the_tangent():
    """Torch's own rule makes it three: it multiplies x with a weight tangent of zeros."""
    counts = dict.fromkeys(("convolution", "mm", "bmm"), 0)

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func._overloadpacket.__name__
            counts[name] = counts.get(name, 0) + 1
            return func(*args, **(kwargs or {}))

    conv, linear = nn.Conv2d(4, 4, 3).double(), nn.Linear(4, 4, bias=False).double()
    x = randn(*IMAGE)
    with Count():
        push_forward(lambda z: linear(conv(z)), (x,), (x,))
    assert counts["convolution"] == 2
    assert counts["mm"] == 2


def test_outside_of_the_context_nothing_is_changed():
    x = randn(2, 4, 6, 6)
    with forward_mode():
        pass
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError):
        functional.scaled_dot_product_attention(*[torch.autograd.forward_ad.make_dual(x, x)] * 3)


def test_more_than_one_tensor_is_refused():
    with pytest.raises(TypeError, match="one tensor and returned a tuple"):
        push_forward(lambda z: (z, z), (randn(2),), (randn(2),))
