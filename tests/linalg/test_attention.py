"""The tangent of attention in tiles, against torch.func.jvp through the kernel that writes the softmax out."""

import itertools

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from lipdiag.linalg import attention
from lipdiag.linalg.forward_mode import push_forward
from lipdiag.linalg.linearize import linearize
from lipdiag.linalg.replay import record
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


@pytest.mark.parametrize(("scores", "found"), [(2 * HEADS * QUERIES**2, 1), (2 * HEADS * QUERIES**2 - 1, 0)])
def test_few_scores_of_tokens_alike_take_few_operations(scores, found, device, monkeypatch):
    """Of transposed queries, keys and values, whose result is transposed as well; one score too many, and in tiles."""
    monkeypatch.setattr(attention, "TILE", {"cpu": scores, device.type: scores})
    taken = []
    small = attention.small_tangent
    monkeypatch.setattr(attention, "small_tangent", lambda *z: taken.append(1) or small(*z))
    primals, tangents = (
        [randn(2, QUERIES, HEADS, 5, seed=s + i).to(device).transpose(1, 2) for i in range(3)] for s in (1, 4)
    )
    f = functional.scaled_dot_product_attention
    assert_equal_to_jvp(lambda *z: f(*z, scale=0.3), primals, tangents)
    assert len(taken) == found


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


@pytest.mark.parametrize("moving", [m for m in itertools.product((True, False), repeat=3) if any(m)])
@pytest.mark.parametrize("mask", ["none", "bool", "float for each sample"])
@pytest.mark.parametrize("tile", [40, 10**6])
def test_probabilities_that_are_kept(moving, mask, tile, device, monkeypatch):
    """A recording, replayed along other tangents, with each of the three moving or not."""
    monkeypatch.setattr(attention, "TILE", {device.type: tile})
    m = None if MASKS[mask] is None else MASKS[mask].to(device)
    primals, tangents = inputs(device=device)

    def f(q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=m)

    tape = record(f, primals, [torch.randn_like(z) for z in primals])[2]
    assert kept(tape) == [2 * HEADS * QUERIES * KEYS]
    dy = tape(*[v if moves else None for v, moves in zip(tangents, moving, strict=True)])
    zeros = [v if moves else torch.zeros_like(v) for v, moves in zip(tangents, moving, strict=True)]
    with sdpa_kernel(SDPBackend.MATH):
        derivative = torch.func.jvp(f, tuple(primals), tuple(zeros))[1]
    torch.testing.assert_close(dy, derivative, rtol=1e-12, atol=1e-12)


def kept(tape):
    """How many probabilities each attention of a recording keeps."""
    steps = [step for step in tape.steps if step.function is torch.ops.lipdiag.attention_tangent.default]
    return [0 if len(step.args) == 10 else step.args[-1].numel() for step in steps]


@pytest.mark.parametrize(
    ("room", "found"), [(0, [0, 0]), (HEADS * 9, [0, 36 * 2]), (200, [196 * 2, 0]), (232, [392, 72])]
)
def test_probabilities_are_kept_as_long_as_there_is_room(room, found, device):
    """Of two layers for two samples, with 7 and with 3 tokens; the numbers are for each sample."""
    q = randn(2, HEADS, QUERIES, 5).to(device)

    def f(q):
        y = functional.scaled_dot_product_attention(q, q, q)[:, :, :3]
        return functional.scaled_dot_product_attention(y, y, y)

    here = linearize(f, q)
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.func.jvp(f, (q,), (2 * q + 1,))[1]
    with attention.keeping(room):
        torch.testing.assert_close(here.jvp(2 * q + 1), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(here.jvp(2 * q + 1), expected, rtol=1e-12, atol=1e-12)
    assert kept(here._methods[0].tape) == found


def test_no_tile_is_larger_than_asked_for(device, monkeypatch):
    """The largest tensor made between the inputs and the output has as many numbers as a tile, or as two inputs."""
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
        attention.attention_tangent(q, k, v, q, k, v, None, False, 1.0, v)
    assert largest <= 2 * q.numel()
