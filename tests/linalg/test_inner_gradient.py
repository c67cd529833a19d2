"""Functions that differentiate something themselves, as energies and guidance do, against their own differences."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from lipdiag.linalg.linearize import linearize
from tests.linalg.networks import randn
from tests.linalg.reference import central_difference, relative

W, U = randn(8, 2, 3, 3, seed=5), randn(8, 8, seed=6) / 3
ATTENTION = nn.MultiheadAttention(8, 2, batch_first=True).double().requires_grad_(False)


def tokens(h):
    return h.flatten(2).mT


# What becomes of the layer before the energy is taken, each with a rule of forward mode
LAYERS = {
    "convolution": lambda h: functional.silu(functional.conv2d(h, U[..., None, None].to(h))),
    "transposed convolution": lambda h: functional.conv_transpose2d(h, U[..., None, None].to(h)).tanh(),
    "group norm": lambda h: functional.group_norm(h, 2, U[0].to(h), U[1].to(h)).sin(),
    "group norm, strided": lambda h: functional.group_norm(h.transpose(2, 3), 4).sin(),
    "layer norm": lambda h: functional.layer_norm(tokens(h), (8,), U[0].to(h), U[1].to(h)).sin(),
    "linear": lambda h: functional.linear(tokens(h), U.to(h)).sin(),
    "softmax and products": lambda h: (tokens(h) @ h.flatten(2)).softmax(-1) @ tokens(h),
    "sums and quotients": lambda h: (h / (2 + h.square()) - 3) * h + 1,
    "fused attention": lambda h: functional.scaled_dot_product_attention(tokens(h), tokens(h) @ U.to(h), tokens(h)),
    "attention of torch": lambda h: ATTENTION(tokens(h), tokens(h), tokens(h), need_weights=False)[0],
}


def hidden(x, t):
    return functional.conv2d(x, W.to(x), padding=1) * (1 + t.cos())[:, None, None, None]


def energy(layer):
    def f(x, t):
        with torch.enable_grad():
            x = x.requires_grad_(True)
            value = layer(hidden(x, t)).square().sum() / 2
            return torch.autograd.grad(value, x, create_graph=True)[0]

    return f


def guided(layer):
    """Its own prediction beside the gradient of something else."""
    return lambda x, t: (
        functional.conv2d(hidden(x, t), W.transpose(0, 1).to(x), padding=1).sin() - 0.3 * energy(layer)(x, t)
    )


def functorch(layer):
    return lambda x, t: torch.func.grad(lambda z: layer(hidden(z, t)).square().sum() / 2)(x)


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("made", [energy, guided, functorch])
@pytest.mark.parametrize("name", LAYERS)
def test_products_are_those_of_differences_and_adjoint(name, made, record, device):
    """Differences of step 1e-6 are off by 1e-9 at most, as their convergence from 1e-3 on tells."""
    ATTENTION.to(device)
    f, x = made(LAYERS[name]), randn(2, 2, 4, 4, seed=3).to(device)
    t = torch.tensor([0.3, 0.7], dtype=torch.float64, device=device)
    dx, dt, u = randn(*x.shape, seed=4).to(device), torch.ones_like(t), randn(*x.shape, seed=7).to(device)
    line = linearize(f, x, t, record=record)
    assert relative(line.jvp(dx, dt), central_difference(f, (x, t), (dx, dt), 1e-6)) < 1e-7
    assert line.method == "forward mode"
    assert line.recorded == record
    torch.testing.assert_close((line.jvp(dx) * u).sum(), (dx * line.vjp(u)).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.real
def test_a_gradient_without_a_graph_of_its_own_is_told_by_differences_not_by_a_zero(device):
    """Forward mode knows no convolution's backward pass, and reverse mode finds nothing there to differentiate."""

    def f(x):
        with torch.enable_grad():
            x = x.requires_grad_(True)
            return torch.autograd.grad(functional.silu(hidden(x, x[:, 0, 0, 0])).square().sum(), x)[0]

    x, v = randn(2, 2, 4, 4, seed=3).to(device), randn(2, 2, 4, 4, seed=4).to(device)
    line = linearize(f, x)
    assert relative(line.jvp(v), central_difference(f, (x,), (v,), 1e-6)) < 1e-7
    assert line.method == "finite differences"
    assert line.dead == set()
