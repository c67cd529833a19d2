"""The tangent of attention in tiles, against torch.func.jvp through the kernel that writes the softmax out."""

import itertools

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from lipdiag.linalg import attention
from lipdiag.linalg.forward_mode import push_forward
from tests.linalg.networks import randn

HEADS, QUERIES, KEYS = 4, 7, 9
MASKS = {
    "none": None,
    "bool": randn(QUERIES, KEYS, seed=7) > -0.5,
    "float": randn(QUERIES, KEYS, seed=8),
    "float for each sample": randn(2, 1, QUERIES, KEYS, seed=9),
    "bool for each head": randn(HEADS, QUERIES, KEYS, seed=9) > -1,
}


def inputs(leading=(2,), heads=HEADS, keys=KEYS, device="cpu"):
    shapes = ((HEADS, QUERIES, 5), (heads, keys, 5), (heads, keys, 6))
    return [[randn(*leading, *shape, seed=10 * k + i).to(device) for i, shape in enumerate(shapes)] for k in (1, 2)]


def assert_equal_to_jvp(f, primals, tangents):
    """Tolerance: float64 rounding."""
    y, dy = push_forward(f, primals, tangents)
    zeros = [torch.zeros_like(z) if v is None else v for z, v in zip(primals, tangents, strict=True)]
    with sdpa_kernel(SDPBackend.MATH):
        value, derivative = torch.func.jvp(f, tuple(primals), tuple(zeros))
    torch.testing.assert_close(y, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dy, derivative, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("moving", [m for m in itertools.product((True, False), repeat=3) if any(m)])
@pytest.mark.parametrize("tile", [1, 40, 200, 10**6])
def test_any_of_the_three_may_move_in_tiles_of_any_size(moving, tile, device, monkeypatch):
    """Tiles of part of a row's queries, of one head, of a few heads, and of all."""
    monkeypatch.setattr(attention, "TILE", {device.type: tile})
    primals, tangents = inputs(device=device)
    tangents = [v if m else None for v, m in zip(tangents, moving, strict=True)]
    assert_equal_to_jvp(functional.scaled_dot_product_attention, primals, tangents)


@pytest.mark.parametrize("tile", [20, 150, 10**6])
@pytest.mark.parametrize("mask", MASKS)
def test_masks(mask, tile, device, monkeypatch):
    monkeypatch.setattr(attention, "TILE", {device.type: tile})
    m = None if MASKS[mask] is None else MASKS[mask].to(device)
    primals, tangents = inputs(device=device)
    assert_equal_to_jvp(lambda *z: functional.scaled_dot_product_attention(*z, attn_mask=m), primals, tangents)


@pytest.mark.parametrize("tile", [20, 10**6])
def test_causal_masks(tile, device, monkeypatch):
    monkeypatch.setattr(attention, "TILE", {device.type: tile})
    primals, tangents = inputs(keys=QUERIES, device=device)
    assert_equal_to_jvp(lambda *z: functional.scaled_dot_product_attention(*z, is_causal=True), primals, tangents)


def test_grouped_heads_and_a_scale_of_ones_own(device):
    primals, tangents = inputs(heads=2, device=device)
    f = functional.scaled_dot_product_attention
    assert_equal_to_jvp(lambda *z: f(*z, scale=0.3, enable_gqa=True), primals, tangents)


def test_keywords(device):
    primals, tangents = inputs(leading=(2, 3), device=device)
    f = functional.scaled_dot_product_attention
    assert_equal_to_jvp(lambda q, k, v: f(value=v, key=k, query=q, attn_mask=None, dropout_p=0.0), primals, tangents)


def test_no_leading_axes_at_all(device):
    primals, tangents = ([z[0, 0] for z in zs] for zs in inputs(device=device))
    assert_equal_to_jvp(functional.scaled_dot_product_attention, primals, tangents)


def test_one_key_for_all_heads(device):
    (q, k, v), tangents = inputs(device=device)
    k, tangents[1] = k[:, :1], tangents[1][:, :1]
    f = functional.scaled_dot_product_attention
    assert_equal_to_jvp(lambda q, k, v: f(q, k.expand(2, 4, 9, 5), v), (q, k, v), tangents)


def test_a_mask_that_moves(device):
    (q, k, v), tangents = inputs(device=device)
    f = functional.scaled_dot_product_attention
    assert_equal_to_jvp(lambda q, k, v: f(q, k, v, attn_mask=q.mean() * v.sum(-1)[:, :, None]), (q, k, v), tangents)


def test_a_query_that_sees_no_key_gives_zero(device):
    primals, tangents = inputs(device=device)
    mask = torch.ones(QUERIES, KEYS, dtype=torch.bool, device=device)
    mask[2] = False
    y, dy = push_forward(lambda *z: functional.scaled_dot_product_attention(*z, attn_mask=mask), primals, tangents)
    assert y.isfinite().all()
    assert dy.isfinite().all()
    assert (dy[:, :, 2] == 0).all()
    assert (dy[:, :, 1] != 0).all()


def test_no_tile_is_larger_than_asked_for(device, monkeypatch):
    """The largest tensor made between the inputs and the output has as many numbers as a tile, or as an input."""
    monkeypatch.setattr(attention, "TILE", {device.type: 64})
    q, k, v = (randn(1, 2, 50, 3, seed=s).to(device) for s in range(3))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.untyped_storage().nbytes() // out.element_size())
            return out

    with Watch():
        attention.attention_tangent(q, k, v, q, k, v, None, False, 1.0, q.stride())
    assert largest <= q.numel()
