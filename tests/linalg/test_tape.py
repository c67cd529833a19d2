"""Recorded products against the pass that they were recorded from, and against reverse mode applied twice.

A tape can go wrong where memory is shared or written to, so most functions here share or write.
"""

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lipdiag.linalg.forward_mode import push_forward
from lipdiag.linalg.replay import Tape, record
from lipdiag.linalg.tape import Recorder, RecordingError
from tests.linalg.networks import NETWORKS, made, randn
from tests.linalg.reference import double_backward, relative

SHAPE = (2, 4, 6, 6)


def into_a_buffer(x):
    out = torch.zeros(2, 6, 6, 6, dtype=x.dtype, device=x.device)
    early = out[:, 1:3]
    out[:, :4] = x * 2
    out[:, 2:] += x.sin()
    return out * early.sum()


def overwritten_between_factors(x):
    h = x.sin()
    y = h * 2
    h.mul_(5)
    return y * 3 + h


def into_empty_memory(x):
    out = torch.empty_like(x)
    out.copy_(x.cos())
    return out.mul_(x)


def constant_overwritten_later(x):
    c = torch.full((6,), 2.0, dtype=x.dtype, device=x.device)
    y = x * c
    c.add_(1)
    return y * c


def value_overwritten_later(x):
    h = x.sin()
    y = h * x
    h.mul_(0.5)
    return y + functional.silu(h)


IN_PLACE = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True), nn.Hardtanh(inplace=True)).double()


def view_of_a_sum(x):
    y = x + 1
    a, b = y.chunk(2, dim=1)
    a.mul_(b.exp())
    return y * y.mT


def sum_then_views_used_twice(x):
    y = x + 1
    y = y.transpose(1, 2).flatten(2)
    return torch.cat([2 * y + y.flip(1), 3 * y], dim=1) / y.square().sum()


def transposed_operand_in_place(x):
    y = 2 * x[:, 0]
    y += y.mT.clone()
    return y * 3


def input_in_place(x):
    return x.mul_(2).sin_().add_(x)


class Buffered(torch.autograd.Function):
    """3 x (in the first row also + 2 x), whose jvp adds its tangent to memory of its own that it has views of."""

    @staticmethod
    def forward(x):
        y = 3 * x
        y[0] += 2 * x[0]
        return y

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, dx):
        out = torch.zeros(dx.shape, dtype=dx.dtype, device=dx.device)
        early = out.view(-1)[: dx[0].numel()]
        out += dx
        early.add_(dx[0].flatten())
        return out + out.view_as(dx) + dx

    @staticmethod
    def backward(ctx, gradient):
        gradient = 3 * gradient
        return torch.cat([gradient[:1] * 5 / 3, gradient[1:]])


class Early(torch.autograd.Function):
    """The identity, whose jvp uses fresh memory before its tangent is copied there."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, dx):
        out = torch.ops.aten._new_zeros_with_same_feature_meta(dx, dx)
        early = out * 2
        return out.copy_(dx) + early

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clone()


FUNCTIONS = {
    "a jvp with memory of its own": lambda x: Buffered.apply(x.sin()),
    "in place on views": view_of_a_sum,
    "copies and their views": sum_then_views_used_twice,
    "a view of a copy, then the original": lambda x: (lambda y: (y + 1).mT * 3 + y.exp().mT)(x.sin()),
    "in place on the input": input_in_place,
    "in place on a transpose": transposed_operand_in_place,
    "written into a buffer": into_a_buffer,
    "written into empty memory": into_empty_memory,
    "a constant overwritten later": constant_overwritten_later,
    "a value overwritten later": value_overwritten_later,
    "a value overwritten between factors": overwritten_between_factors,
    "activations in place": IN_PLACE,
    "slices assigned": lambda x: (lambda y: (y.__setitem__((slice(None), 0), x[:, 1].exp()), y)[1])(x.sin()),
    "index_put": lambda x: x.sin().index_put((torch.tensor([0, 1]),), x.cos()[:2] * 3),
    "scatter and gather": lambda x: x.gather(1, torch.tensor([3, 1]).view(1, 2, 1, 1).expand(2, 2, 6, 6)).scatter_add(
        1, torch.zeros(2, 4, 6, 6, dtype=torch.long), x.square()
    ),
    "cat": lambda x: torch.cat([x, torch.ones_like(x), x.square()], dim=1),
    "stack and unbind": lambda x: torch.stack([a * b for a, b in zip(x.unbind(1), x.mT.unbind(1), strict=True)]).mT,
    "split": lambda x: torch.cat([p * i for i, p in enumerate(x.sin().split([1, 3], dim=1), 1)], dim=1),
    "interpolate, nearest": lambda x: functional.interpolate(x.square(), scale_factor=2.0, mode="nearest"),
    "interpolate, bilinear": lambda x: functional.interpolate(x, size=(9, 4), mode="bilinear", antialias=True),
    "pad": lambda x: functional.pad(x.square(), (1, 2, 0, 1)) + functional.pad(x, (2, 1, 1, 0), mode="reflect"),
    "pool": lambda x: functional.avg_pool2d(x, 2) + functional.max_pool2d(x.square(), 2),
    "pixel shuffle": lambda x: functional.pixel_shuffle(functional.pixel_unshuffle(x, 2).square(), 2),
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, x.sin()),
    "casts": lambda x: (x.float() * 2).to(x.dtype).square(),
    "fourier": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * torch.linspace(0, 1, 4, dtype=x.dtype)),
    "roll, cumsum, where": lambda x: torch.where(x > 0, x.roll(1, 2), x.cumsum(3) * x),
    "expand": lambda x: (x[:, :1].expand(2, 4, 6, 6) * x).contiguous() + x.mean(1, keepdim=True).expand_as(x),
    "channels last": lambda x: functional.conv2d(
        x.to(memory_format=torch.channels_last), torch.ones(4, 4, 3, 3, dtype=x.dtype)
    ).sigmoid(),
    "runs of factors": lambda x: ((((x * 2) / 3) * torch.ones(6, dtype=x.dtype)).neg() * x.detach().sin()) * 5 + x,
    "factors of other types": lambda x: (
        x * torch.tensor(0.3) * torch.tensor(0.7) / torch.tensor(3) / torch.arange(1, 7)
    ),
    "a sum with its own transpose": lambda x: (lambda y: y + y.mT)(x.sin()),
    "read by address": lambda x: torch.as_strided(x[0, 1:].sin() * 2, (2, 3), (3, 1), 4),
    "a jvp that reads what it copies to": lambda x: Early.apply(x.sin()),
    "a factor used twice": lambda x: (lambda y: y * 3 + y.mT)(x * 2),
    "attention": lambda x: functional.scaled_dot_product_attention(x, x.sin(), x.mT).transpose(1, 2).flatten(2) * 2,
    "attention to constants": lambda x: functional.scaled_dot_product_attention(x, torch.ones_like(x), x),
    "dropout not in training": lambda x: functional.dropout(x.square(), 0.5, training=False),
    "weight norm": lambda x: functional.linear(x, x[0, 0] / x[0, 0].norm(dim=1, keepdim=True)),
    "twice the same term": lambda x: (lambda y: y + y - 3 * (y - y))(x.sin()),
    "the input itself": lambda x: x,
    "a view of the input": lambda x: x.mT,
    "a constant times the input": lambda x: 2 * x,
    "input plus constant": lambda x: x + 1,
}


def on(device, f):
    """The function with what it makes, and its weights, on a device."""
    if isinstance(f, nn.Module):
        f.to(device)

    def placed(*inputs):
        with device:
            return f(*inputs)

    return placed


# Reverse mode does not know the derivative of these: they write to what it has kept.
REFUSED = "in place on views", "activations in place", "a constant overwritten later", "a value overwritten later"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_recorded_products_equal_passes(name, device):
    """At a tangent that the tape has not seen; tolerance: float64 rounding, where the function has no float32 part."""
    f, x, v, w = on(device, FUNCTIONS[name]), *(randn(*SHAPE, seed=seed).to(device) for seed in (3, 4, 5))
    tolerance = 1e-6 if name == "casts" else 1e-13
    y, dy, tape = record(f, (x,), (v,))
    expected = push_forward(f, (x.clone(),), (w.clone(),))
    torch.testing.assert_close(y, expected[0], rtol=1e-13, atol=1e-13)
    assert relative(dy, push_forward(f, (x.clone(),), (v.clone(),))[1]) < tolerance
    for _ in range(2):  # the second time, what the first has left behind would show
        assert relative(tape(w), expected[1]) < tolerance
    assert (tape(2 * w) == 2 * tape(w)).all()  # exactly linear: nothing of the recorded tangent is left in the tape
    for z, seed in ((x, 3), (v, 4), (w, 5)):
        assert (z.cpu() == randn(*SHAPE, seed=seed)).all()


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in REFUSED])
def test_recorded_products_equal_reverse_mode_applied_twice(name, device):
    f, x, v, w = on(device, FUNCTIONS[name]), *(randn(*SHAPE, seed=seed).to(device) for seed in (3, 4, 5))
    tape = record(f, (x,), (v,))[2]
    assert relative(tape(w), double_backward(lambda z: f(z.clone()), (x,), (w,))[1]) < (
        1e-6 if name == "casts" else 1e-12
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_jointly_in_x_and_t(name, device):
    """One tape for both inputs: alone, the one that does not move is left out; together, the products add."""
    f, x, t = made(name, device=device)
    dx, dt = randn(*x.shape, seed=4).to(device), torch.linspace(1, 2, len(t), dtype=t.dtype, device=device)
    tape = record(f, (x, t), (torch.zeros_like(x), torch.zeros_like(t)))[2]
    in_x, in_t = (double_backward(f, (x, t), tangents)[1] for tangents in ((dx, None), (None, dt)))
    assert relative(tape(dx, None), in_x) < 1e-13
    assert relative(tape(None, dt), in_t) < 1e-13
    assert relative(tape(dx, dt), in_x + in_t) < 1e-7  # float32 parts round the sum
    assert tape(None, None) is None


def test_what_does_not_move_is_not_paid_for(device):
    """Steps of the programs for x alone and for t alone, of a network with an embedding of t."""
    f, x, t = made("UNet2DModel", device=device)
    tape = record(f, (x, t), (torch.zeros_like(x), torch.zeros_like(t)))[2]
    linear = torch.ops.aten.mm.default
    names = {m: [line[0] for line in tape.program(m).code] for m in ((True, True), (True, False), (False, True))}
    assert linear in names[True, True]
    assert linear not in names[True, False]
    assert len(names[False, True]) < len(names[True, True])


def buffer_with_time(x, t):
    out = torch.zeros_like(x)
    out[:, 0] = t[:, None, None]
    out[:, 1:] = x[:, 1:]
    t = t[:, None, None, None]
    return out.square() + torch.cat([x[:, :2], t.expand(2, 2, 6, 6)], dim=1) - t


TWO_INPUTS = {
    "sums and differences": lambda x, t: (x + t[:, None, None, None]) * 2 - (t[:, None, None, None] - x).sin(),
    "a buffer for both": buffer_with_time,
    "scale and shift": lambda x, t: x.sin() * (1 + t.cos())[:, None, None, None] + t.exp()[:, None, None, None] + x,
    "a sum that is x, then changed": lambda x, t: (x + t[:, None, None, None]).mul_(3).add_(1),
    "attention to time": lambda x, t: functional.scaled_dot_product_attention(
        x, x * t[:, None, None, None], t[:, None, None, None].expand(2, 4, 6, 6)
    ),
    "a sum that outlives its term": lambda x, t: (lambda y: (lambda s: y * 3 + s.exp())(y + t[:, None, None, None]))(
        x.sin()
    ),
    "only t": lambda x, t: t.sin()[:, None] * torch.ones(2, 3, dtype=x.dtype),
    "only x": lambda x, t: x.sin(),
}


@pytest.mark.parametrize("name", TWO_INPUTS)
def test_two_inputs_each_alone_and_both(name, device):
    f, x, t = on(device, TWO_INPUTS[name]), randn(*SHAPE, seed=3).to(device), randn(2, seed=6).to(device)
    dx, dt = randn(*SHAPE, seed=4).to(device), randn(2, seed=7).to(device)
    tape = record(f, (x, t), (dx, dt))[2]
    for tangents in ((dx, None), (None, dt), (dx, dt)):
        expected, found = double_backward(f, (x, t), tangents)[1], tape(*tangents)
        if found is None:
            assert (expected == 0).all()
        else:
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert (tape(None, dt) is None) == (name == "only x")
    assert (tape(dx, None) is None) == (name == "only t")


def test_a_product_does_not_touch_the_direction_or_share_memory_with_it():
    for f in (lambda x: x, lambda x: x + 0, lambda x: x.mul_(2), lambda x: x.view(-1).view(2, 3)):
        x, v = randn(2, 3), randn(2, 3, seed=2)
        tape = record(f, (x,), (v,))[2]
        before = v.clone()
        tape(v).add_(1)
        assert (v == before).all()


def test_temporaries_are_freed_after_their_last_use(device):
    """A chain of n layers needs the memory of a few, not of n."""
    weights = [randn(4, 4, 3, 3, seed=i).to(device) for i in range(30)]

    def f(x):
        for w in weights:
            x = functional.silu(functional.conv2d(x, w, padding=1))
        return x

    x = randn(*SHAPE).to(device)
    tape = record(f, (x,), (x,))[2]

    alive, most = [], 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal alive, most
            out = func(*args, **(kwargs or {}))
            alive = [s for s in alive if not s.expired()] + [StorageWeakRef(out.untyped_storage())]
            most = max(most, len({s.cdata for s in alive}))
            return out

    with Watch():
        tape(x)
    assert most <= 3


def test_dead_code_is_dropped_and_runs_of_factors_are_one():
    def f(x):
        unused = torch.linalg.norm(functional.conv2d(x, torch.ones(4, 4, 3, 3, dtype=x.dtype)))
        assert unused >= 0
        return functional.silu(functional.group_norm(x, 2, torch.full((4,), 3.0, dtype=x.dtype)) * 2)

    x = randn(*SHAPE)
    tape = record(f, (x,), (x,))[2]
    names = [line[0] for line in tape.program((True,)).code]
    assert names == [torch.ops.aten.native_group_norm_backward.default, torch.ops.aten.mul_.Tensor]


def test_a_gate_is_one_factor():
    """The halves of GEGLU lie apart: the derivative of the gate, times the other half, is one product all the same."""
    x, v = randn(2, 3, 8, seed=1), randn(2, 3, 8, seed=2)

    def geglu(x):
        a, gate = (2 * x).chunk(2, dim=-1)
        return a * functional.gelu(gate)

    _, _, tape = record(geglu, (x,), (x,))
    names = [step.function for step in tape.steps]
    assert names.count(torch.ops.aten.mul.Tensor) == 3
    assert torch.ops.aten.gelu_backward.default not in names
    torch.testing.assert_close(tape(v), torch.func.jvp(geglu, (x,), (v,))[1], rtol=1e-12, atol=1e-12)


def test_a_product_lies_as_its_first_factor_does():
    x, v, factor = randn(2, 3, 8, seed=1), randn(2, 3, 8, seed=2), randn(2, 8, 3, seed=3)

    def f(x):
        return torch.as_strided(factor * x.mT, (48,), (1,))

    _, _, tape = record(f, (x,), (x,))
    torch.testing.assert_close(tape(v), torch.func.jvp(f, (x,), (v,))[1], rtol=1e-12, atol=1e-12)


def test_a_layout_that_is_given_to_a_tangent_is_one_step():
    """A convolution may give its value strides that its tangent does not have; the copy must not pin the memory."""
    x = randn(*SHAPE)
    f = FUNCTIONS["channels last"]
    tape = record(f, (x,), (x,))[2]
    assert not tape.fixed


class Affine(torch.autograd.Function):
    """A function whose jvp is wrong: a constant is added."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, dx):
        return dx + 1


class Item(Affine):
    @staticmethod
    def jvp(ctx, dx):
        return dx * dx.sum().item()


class Sparse(Affine):
    @staticmethod
    def jvp(ctx, dx):
        return dx.to_sparse().to_dense()


@pytest.mark.parametrize(
    ("function", "reason"), [(Affine, "not homogeneous"), (Item, "makes a float"), (Sparse, "layout")]
)
def test_what_cannot_be_replayed_is_refused(function, reason):
    with pytest.raises(RecordingError, match=reason):
        record(function.apply, (randn(2, 3),), (randn(2, 3),))


def test_memory_read_as_another_type_out_of_sight_is_refused():
    v = randn(2, 3)
    unseen = v.view(torch.int64)
    with Recorder([v]), pytest.raises(RecordingError, match=r"float64 is read as torch.int64"):
        unseen.clone()


def test_a_view_made_out_of_sight_is_followed():
    v = randn(2, 3)
    unseen = v.T[1:]
    recorder = Recorder([v])
    with recorder:
        out = unseen * 2
    tape = Tape(recorder, out)
    w = randn(2, 3, seed=2)
    assert (tape(w) == 2 * w.T[1:]).all()
