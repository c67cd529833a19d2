"""Linearizations: products of every method against each other, the chain of methods, and what products cost."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

from lipdiag.linalg.linearize import METHODS, linearize
from lipdiag.linalg.operator import dense, jacobian
from tests.linalg.networks import NETWORKS, made, randn
from tests.linalg.reference import double_backward, relative

# Relative error of a product in float64 by each method on networks, parts of which compute in float32.
TOLERANCES = {"forward mode": 1e-7, "double backward": 1e-7, "finite differences": 5e-3}


@pytest.mark.parametrize(("method", "record"), [*((m, True) for m in METHODS), ("forward mode", False)])
@pytest.mark.parametrize("name", NETWORKS)
def test_products_by_every_method_on_every_network(name, method, record, device):
    f, x, t = made(name, device=device)
    dx, dt = randn(*x.shape, seed=4).to(device), torch.linspace(1, 2, len(t), dtype=t.dtype, device=device)
    in_x, in_t = (double_backward(f, (x, t), tangents)[1] for tangents in ((dx, None), (None, dt)))
    line = linearize(f, x, t, methods=(method,), record=record)
    assert relative(line.jvp(dx), in_x) < TOLERANCES[method]
    assert relative(line.jvp(dt=dt), in_t) < TOLERANCES[method]
    assert relative(line.jvp(dx, dt), in_x + in_t) < TOLERANCES[method]
    assert relative(line.output, f(x, t)) < 1e-13
    assert line.method == method
    assert line.recorded == (record and method == "forward mode")
    assert line.refusals == {}
    assert line.dead == set()
    assert line.forward_products == 3


@pytest.mark.parametrize("name", ["UNet2DModel", "DiTTransformer2DModel", "layers"])
def test_reverse_products_equal_torch_func_vjp(name, device):
    f, x, t = made(name, device=device)
    line, pull_back = linearize(f, x, t), torch.func.vjp(lambda z: f(z, t), x)[1]
    for seed in (4, 5):
        u = randn(*line.output.shape, seed=seed).to(device)
        assert relative(line.vjp(u), pull_back(u)[0]) < 1e-13
    assert line.reverse_products == 2


@pytest.mark.parametrize("name", NETWORKS)
def test_the_two_products_are_adjoint(name, device):
    """<J v, u> = <v, J' u> for every sample."""
    f, x, t = made(name, device=device)
    A = linearize(f, x, t).jacobian
    v, u = randn(A.batch, A.columns, seed=4).to(device), randn(A.batch, A.rows, seed=5).to(device)
    torch.testing.assert_close((A.mv(v) * u).sum(1), (v * A.vm(u)).sum(1), rtol=1e-6, atol=1e-6)


def test_the_jacobian_equals_the_plain_one(device):
    f, x, t = made("layers", device=device)
    found, plain = linearize(f, x, t).jacobian, jacobian(lambda z: double_free(f, z, t), x)
    assert (found.rows, found.columns, found.batch, found.dtype) == (128, 128, 3, torch.float64)
    torch.testing.assert_close(dense(found), dense(plain), rtol=1e-12, atol=1e-12)


def double_free(f, x, t):
    """f by the kernels of attention that torch.func.jvp knows."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return f(x, t)


def test_a_function_of_x_alone(device):
    x, v = randn(2, 3).to(device), randn(2, 3, seed=2).to(device)
    line = linearize(lambda z: z.sin(), x)
    torch.testing.assert_close(line.jvp(v), v * x.cos())
    torch.testing.assert_close(line.vjp(v), v * x.cos())
    with pytest.raises(ValueError, match="function of x alone"):
        line.jvp(v, torch.ones(2))


@pytest.mark.parametrize("method", METHODS)
def test_one_number_a_sample(method, device):
    x = randn(2, 3).to(device)
    A = linearize(lambda z: z.square().sum(1), x, methods=(method,)).jacobian
    torch.testing.assert_close(dense(A), 2 * x[:, None])
    torch.testing.assert_close(dense(jacobian(lambda z: z.square().sum(1), x)), 2 * x[:, None])


def test_products_keep_the_precision_of_f_and_take_directions_in_any(device):
    """Of another type, and from the CPU."""
    line = linearize(lambda x, t: x * t.to(x.dtype)[:, None], randn(2, 3).float().to(device), randn(2).to(device))
    for product in (line.jvp(randn(2, 3)), line.jvp(dt=torch.ones(2)), line.vjp(randn(2, 3)), line.output):
        assert product.dtype == torch.float32
        assert product.device.type == device.type


@pytest.mark.parametrize(("method", "record"), [*((m, True) for m in METHODS), ("forward mode", False)])
def test_a_function_that_writes_to_its_inputs_does_not_write_to_ours(method, record, device):
    x, t, v = (z.to(device) for z in (randn(2, 3), randn(2, seed=2), randn(2, 3, seed=3)))
    line = linearize(lambda x, t: x.mul_(2) * t.add_(1)[:, None], x, t, (method,), record)
    for _ in range(2):
        torch.testing.assert_close(line.jvp(v, v[:, 0]), 2 * v * (1 + t)[:, None] + 2 * x * v[:, :1])
        torch.testing.assert_close(line.vjp(v), 2 * v * (1 + t)[:, None])
        torch.testing.assert_close(line.output, 2 * x * (1 + t)[:, None])
    assert (x.cpu() == randn(2, 3)).all()
    assert (t.cpu() == randn(2, seed=2)).all()


# The chain


class OldStyle(torch.autograd.Function):
    """x^3 as functions were written before setup_context; forward mode and torch.func refuse it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class WithoutJvp(torch.autograd.Function):
    """x^3 in the newer style, with a derivative for reverse mode only."""

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class OnceDifferentiable(OldStyle):
    """x^3 with a derivative that cannot be differentiated."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class Hidden(OldStyle):
    """x^3 + x with half of a derivative that autograd does not see, as in extensions."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3 + x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient.detach() + gradient


class Unreplayable(torch.autograd.Function):
    """x^3 with a derivative that reads a number off its tangent."""

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def jvp(ctx, dx):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * dx if dx.sum().item() else torch.zeros_like(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


@pytest.mark.parametrize(
    ("function", "method", "refused", "reason"),
    [
        (OldStyle, "double backward", ["recording", "forward mode"], "forward mode AD"),
        (WithoutJvp, "double backward", ["recording", "forward mode"], "jvp"),
        (
            OnceDifferentiable,
            "finite differences",
            ["recording", "forward mode", "double backward"],
            "not have been used in the graph",
        ),
        (Hidden, "finite differences", ["recording", "forward mode", "double backward"], "<J v, u> is not <v, J' u>"),
        (Unreplayable, "forward mode", ["recording"], "makes a float of a tangent"),
    ],
)
def test_the_next_method_takes_over_and_the_reason_is_kept(function, method, refused, reason, device):
    x, t = randn(2, 3).to(device), randn(2, seed=2).to(device)
    line = linearize(lambda x, t: function.apply(x * t[:, None]), x, t)
    dx, dt = randn(2, 3, seed=3).to(device), randn(2, seed=4).to(device)
    factor = 3 * (x * t[:, None]) ** 2 + (1 if function is Hidden else 0)
    tolerance = 1e-7 if method == "finite differences" else 1e-13
    for _ in range(2):
        assert relative(line.jvp(dx, dt), factor * (dx * t[:, None] + x * dt[:, None])) < tolerance
        assert relative(line.jvp(dt=dt), factor * (x * dt[:, None])) < tolerance
    assert relative(line.vjp(dx), factor * t[:, None] * dx) < 1e-13
    assert line.method == method
    assert list(line.refusals) == refused
    assert reason in line.refusals[refused[-1]]


def test_the_method_is_known_before_any_product_and_is_not_counted():
    line = linearize(lambda x: OldStyle.apply(x), randn(2, 3))
    assert line.method == "double backward"
    assert line.forward_products == 0


def test_methods_that_are_not_allowed_are_not_tried():
    line = linearize(lambda x: OldStyle.apply(x), randn(2, 3), methods=("forward mode", "finite differences"))
    assert line.method == "finite differences"
    line = linearize(lambda x: OldStyle.apply(x), randn(2, 3), methods=("forward mode",))
    with pytest.raises(RuntimeError, match=r"No allowed method .* recording: .*; forward mode: "):
        line.jvp(randn(2, 3))


@pytest.mark.parametrize("methods", [(), ("power iteration",)])
def test_unknown_methods_are_named(methods):
    with pytest.raises(ValueError, match="forward mode, double backward, finite differences"):
        linearize(lambda x: x, randn(2, 3), methods=methods)


def test_an_error_of_the_function_itself_is_its_own():
    def f(x):
        raise KeyError("no such label")

    with pytest.raises(KeyError, match="no such label"):
        linearize(f, randn(2, 3)).jvp(randn(2, 3))


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:132] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_interrupts_and_lack_of_memory_are_not_taken_for_a_failing_method(error):
    def f(x):
        raise error

    line = linearize(f, randn(2, 3))
    with pytest.raises(type(error)):
        line.jvp(randn(2, 3))
    assert line.refusals == {}


def test_two_outputs_are_refused():
    line = linearize(lambda x: (x, x), randn(2, 3))
    with pytest.raises(TypeError, match="one tensor and returned a tuple"):
        line.jvp(randn(2, 3))


def test_directions_of_other_shapes_are_refused():
    line = linearize(lambda x, t: x, randn(2, 3), randn(2))
    with pytest.raises(ValueError, match=r"shape \(2, 4\), and what it moves \(2, 3\)"):
        line.jvp(randn(2, 4))
    with pytest.raises(ValueError, match=r"shape \(3,\), and the output \(2, 3\)"):
        line.vjp(randn(3))
    with pytest.raises(ValueError, match="needs a direction"):
        line.jvp()


# Inputs that lead nowhere


class Table(nn.Module):
    """A network with a table of embeddings: it sees whole timesteps only."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 3).double()

    def forward(self, x, t):
        return x.sin() * self.table(t.long())


@pytest.mark.parametrize("methods", [METHODS, ("double backward",)])
@pytest.mark.parametrize("record", [True, False])
def test_an_input_that_is_rounded_has_a_zero_derivative_and_is_named(methods, record):
    x, t = randn(2, 3), torch.tensor([3.0, 7.0], dtype=torch.float64)
    line = linearize(Table(), x, t, methods=methods, record=record)
    assert (line.jvp(dt=torch.ones_like(t)) == 0).all()
    assert line.dead == {"t"}
    assert (line.jvp(x) != 0).any()
    assert line.dead == {"t"}


@pytest.mark.parametrize("methods", [METHODS, ("double backward",)])
def test_a_constant_has_zero_products_of_both_kinds(methods):
    line = linearize(lambda x: torch.ones(2, 5, dtype=x.dtype), randn(2, 3), methods=methods)
    assert (line.jvp(randn(2, 3)) == torch.zeros(2, 5)).all()
    assert (line.vjp(randn(2, 5)) == torch.zeros(2, 3)).all()
    assert line.dead == {"x"}


def test_a_zero_of_time_does_not_meet_an_infinite_slope(device):
    """At t = 0 the slope of sqrt(t) is infinite; along x alone that must not show, in the recording pass either."""
    x, t = randn(2, 3).to(device), torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    line = linearize(lambda x, t: x.sin() + t.sqrt()[:, None], x, t)
    for _ in range(2):
        torch.testing.assert_close(line.jvp(x), x * x.cos())


# Cost


class Counted:
    """A network that counts how often it is evaluated."""

    def __init__(self, f):
        self.f, self.calls = f, 0

    def __call__(self, *inputs):
        self.calls += 1
        return self.f(*inputs)


def test_one_pass_records_and_one_more_serves_every_reverse_product():
    f, x, t = made("UNet2DModel")
    f = Counted(f)
    line = linearize(f, x, t)
    assert f.calls == 0
    for _ in range(3):
        line.jvp(x)
        line.jvp(dt=t)
    assert f.calls == 1
    assert line.output.shape == x.shape
    assert f.calls == 1
    for _ in range(3):
        line.vjp(x)
    assert f.calls == 2


def test_a_jacobian_evaluates_twice_however_many_products_follow():
    f, x, t = made("UNet2DModel")
    f = Counted(f)
    A = linearize(f, x, t).jacobian
    for _ in range(3):
        A.vm(A.mv(x.flatten(1)))
    assert f.calls == 2


def test_without_a_recording_each_product_is_one_pass():
    f, x, t = made("UNet2DModel")
    f = Counted(f)
    line = linearize(f, x, t, record=False)
    line.jvp(x)
    line.jvp(dt=t)
    assert f.calls == 2
    assert not line.recorded


def test_a_graph_keeps_nothing_for_parameters():
    """Gradients of weights would need the inputs of every layer."""
    kept = []
    x = randn(2, 4)
    f = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    line = linearize(f, x)
    with torch.autograd.graph.saved_tensors_hooks(lambda z: kept.append(z.shape) or z, lambda z: z):
        line.vjp(x)
    assert x.shape not in kept
    assert all(p.requires_grad and p.grad is None for p in f.parameters())


def test_everything_is_freed_with_the_linearization(device):
    """Without the garbage collector: a linearization is large, and a study makes many."""
    f, x, t = made("UNet2DModel", device=device)
    line = linearize(f, x, t)
    line.jvp(x)
    line.vjp(x)
    dead = weakref.ref(line), weakref.ref(line._methods[0].tape), weakref.ref(line._graph[1])
    gc.disable()
    try:
        del line
        assert [r() for r in dead] == [None, None, None]
    finally:
        gc.enable()


# Finite differences


def test_finite_differences_find_their_own_step_in_time(device):
    """exp(-t / s) over five decades of s, at t = s: the step must follow the function, which is not told."""
    scale, ones = torch.logspace(-2, 3, 6, dtype=torch.float64, device=device), torch.ones(6, device=device).double()
    line = linearize(lambda x, t: x * (-t / scale).exp()[:, None], ones[:, None], scale, ("finite differences",))
    exact = -(1 / scale / torch.e)[:, None]
    assert ((line.jvp(dt=ones) - exact).abs() / exact.abs()).max() < 1e-9


def test_finite_differences_in_float32_lose_half_of_its_digits(device):
    x, v = randn(20, 50).float().to(device), randn(20, 50, seed=2).float().to(device)
    line = linearize(functional.silu, x, methods=("finite differences",))
    exact = linearize(functional.silu, x.double()).jvp(v.double())
    assert relative(line.jvp(v), exact) < 3e-4


def test_finite_differences_at_the_origin_and_along_nothing():
    x = torch.zeros(2, 3, dtype=torch.float64)
    line = linearize(lambda z: z.sin(), x, methods=("finite differences",))
    torch.testing.assert_close(line.jvp(torch.ones_like(x)), torch.ones_like(x), rtol=1e-6, atol=0)
    assert (line.jvp(x) == 0).all()
