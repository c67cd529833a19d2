"""The state of the model and of the processor while numbers are measured."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..diffusion.predictor import NetworkPredictor, Predictor, RawOutput, device_of
from ..errors import LipdiagError
from ..linalg.precision import full_precision, steady
from .plan import Plan


@contextmanager
def arithmetic(deterministic: bool = False) -> Iterator[None]:
    """Float32 in float32, and on request only kernels that give the same bits every time; undone afterwards.

    Graphics processors would otherwise round the factors of convolutions to 10 bits (TF32), whatever the caller told
    torch of that, choose kernels by a race that the fastest wins, and add in the order in which threads come; a
    caller's autocast would round them to 8 bits or 11. What went through torch.compile runs as it is written: compiled
    code has no forward mode, and would be compiled anew for every kind of product.

    Without `deterministic` the bits of a card repeat where its convolutions were all that could change them: the
    backward pass of fused attention adds in any order, and so do those of interpolation and other layers.

    Raises:
        RuntimeError: From an operation without a deterministic kernel, where `deterministic` was asked for.
    """
    before = torch.get_deterministic_debug_mode()
    if deterministic:
        torch.set_deterministic_debug_mode("error")  # `use_deterministic_algorithms` would import a compiler
    try:
        with ExitStack() as switched:
            switched.enter_context(full_precision())
            switched.enter_context(steady())
            for kind in ("cpu", "cuda"):
                switched.enter_context(torch.autocast(kind, enabled=False))
            if "torch._dynamo" in sys.modules:  # else nothing can be compiled, and the import takes a second
                switched.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        if deterministic:
            torch.set_deterministic_debug_mode(before)


class Autocast(TorchFunctionMode):
    """While entered, finds out whether the network that is called switches autocast on inside itself.

    Attributes:
        dtype: What it rounds to; None where it does not.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device.type
        self.dtype: torch.dtype | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if torch.is_autocast_enabled(self.device):
            self.dtype = torch.get_autocast_dtype(self.device)
        return func(*args, **(kwargs or {}))


CUTS: dict[Any, str] = {
    torch.Tensor.detach: "detach",
    torch.Tensor.data.__get__: ".data",  # type: ignore[attr-defined]
    torch.Tensor.numpy: "numpy",
    torch.Tensor.tolist: "tolist",
    torch.Tensor.item: "item",
    torch.Tensor.round: "round",
    torch.round: "round",
    torch.Tensor.half: "half",
    torch.Tensor.bfloat16: "bfloat16",
}
"""Calls through which a derivative is lost or rounded, by the words that a network's author knows them by."""


class Seen(TorchFunctionMode):
    """While entered, takes note of what is done that cuts a gradient or rounds.

    Attributes:
        names: What was seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if torch.is_inference_mode_enabled():
            self.names.add("torch.inference_mode")
        elif not torch.is_grad_enabled():
            self.names.add("torch.no_grad or an autograd.Function of its own")
        if func in CUTS:
            self.names.add(CUTS[func])
        return func(*args, **(kwargs or {}))


def compiled(predictor: Predictor) -> bool:
    """Whether a part of it went through torch.compile."""
    parts = predictor.modules()
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in parts)


def precisions(module: torch.nn.Module) -> set[torch.dtype]:
    """What the module's weights are rounded to; a complex one to that of its two parts."""
    return {
        weight.dtype.to_real() for weight in module.parameters() if weight.is_floating_point() or weight.is_complex()
    }


@contextmanager
def converted(module: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """The module's weights and buffers in another precision, in which they stay; afterwards they are as they were."""
    weights = [(weight, weight.data) for weight in module.parameters()]
    homes = [(part, name, z) for part in module.modules() for name, z in part._buffers.items()]

    def cast(z: torch.Tensor) -> torch.Tensor:
        return z.to(dtype.to_complex() if z.is_complex() else dtype) if z.is_floating_point() or z.is_complex() else z

    torch.nn.Module._apply(module, cast)  # a library's own `to` may keep parts back
    parts = list(module.modules())
    for part in parts:
        vars(part)["to"] = lambda *_, part=part, **__: part  # by which libraries narrow weights again after each call
    try:
        yield
    finally:
        for part in parts:
            del vars(part)["to"]
        for weight, data in weights:
            weight.data = data
        for part, name, z in homes:
            part._buffers[name] = z


@contextmanager
def differentiable(module: torch.nn.Module) -> Iterator[None]:
    """A caller's inference mode set aside, and copies in the place of tensors that were made in one; undone after.

    In inference mode every derivative is 0 without an error; what was made in it can never be differentiated through.
    """
    with torch.inference_mode(False):
        copies: dict[int, torch.Tensor] = {}
        homes = []
        for part in module.modules():
            every = [*part._parameters.items(), *part._buffers.items(), *vars(part).items()]
            homes += [(part, key, z) for key, z in every if isinstance(z, torch.Tensor) and z.is_inference()]
        for part, key, tensor in homes:
            if id(tensor) not in copies:  # what is shared stays shared
                copy, parameter = tensor.clone(), isinstance(tensor, torch.nn.Parameter)
                copies[id(tensor)] = torch.nn.Parameter(copy, tensor.requires_grad) if parameter else copy
            setattr(part, key, copies[id(tensor)])
        try:
            yield
        finally:
            for part, key, tensor in homes:
                setattr(part, key, tensor)


@contextmanager
def still(module: torch.nn.Module) -> Iterator[None]:
    """The module in eval mode and without gradients for its weights; both as they were afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, wanted in gradients:
            parameter.requires_grad_(wanted)


@contextmanager
def evaluating(predictor: Predictor, plan: Plan) -> Iterator[Predictor]:
    """The predictor in eval mode, without gradients for weights, its network in the plan's dtype; all undone after.

    A network of several precisions that casts what it is given stays as it is.
    """
    bare = predictor.predictor if isinstance(predictor, RawOutput) else predictor
    network = bare.network if isinstance(bare, NetworkPredictor) else None
    with still(predictor), ExitStack() as changed:
        kinds = precisions(network) if isinstance(network, torch.nn.Module) else set()
        stored = any(kind.itemsize == 1 for kind in kinds)  # a type that nothing computes in
        if len(kinds) > 1 and not stored and failure(predictor, plan.torch_dtype) is None:
            kinds = set()
        if isinstance(network, torch.nn.Module) and kinds - {plan.torch_dtype}:
            changed.enter_context(converted(network, plan.torch_dtype))
        yield predictor


def failure(predictor: Predictor, dtype: torch.dtype) -> Exception | None:
    """What a model raises that is asked of a few samples, and of one alone; None if it answers either.

    Raises:
        LipdiagError: Where it already says what is wrong.
    """
    home = device_of(predictor)
    first = None
    for samples in (few(predictor.shape), 1):  # some networks are written for one at a time
        x = torch.zeros(samples, *predictor.shape, dtype=dtype, device=home)
        try:
            with torch.no_grad():
                predictor(x, middle(predictor, samples).to(home))
        except LipdiagError:
            raise
        except Exception as error:  # a stranger's network may raise anything
            first = first or error
        else:
            return None
    return first


def few(shape: tuple[int, ...]) -> int:
    """Two samples or more: another number than any along an axis of theirs, lest what is not meant to fits."""
    return next(n for n in range(2, len(shape) + 3) if n not in shape)


def middle(predictor: Predictor, samples: int) -> torch.Tensor:
    """A time in the middle of the model's range, one that it was trained at, for each sample."""
    clock, t = predictor.clock.base, torch.full((samples,), 0.5, dtype=torch.float64, device="cpu")
    return clock.time(clock(t).ceil()) if clock.discrete else t
