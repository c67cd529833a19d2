"""The state of the model and of the processor while numbers are measured."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..diffusion.predictor import NetworkPredictor, Predictor, RawOutput
from .plan import Plan


@contextmanager
def arithmetic(deterministic: bool = False) -> Iterator[None]:
    """Float32 in float32, and on request only kernels that give the same bits every time; undone afterwards.

    Graphics processors would otherwise round the factors of convolutions to 10 bits (TF32), and choose kernels by
    a race that the fastest wins; a caller's autocast would round them to 8 bits or 11. What went through torch.compile
    runs as it is written: compiled code has no forward mode, and would be compiled anew for every kind of product.

    Raises:
        RuntimeError: From an operation without a deterministic kernel, where `deterministic` was asked for.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    cudnn.allow_tf32 = matmul.allow_tf32 = cudnn.benchmark = False
    if deterministic:
        torch.use_deterministic_algorithms(True)
    try:
        with ExitStack() as switched:
            for kind in ("cpu", "cuda"):
                switched.enter_context(torch.autocast(kind, enabled=False))
            if "torch._dynamo" in sys.modules:  # else nothing can be compiled, and the import takes a second
                switched.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before[:3]
        torch.use_deterministic_algorithms(before[3])


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
def evaluating(predictor: Predictor, plan: Plan) -> Iterator[Predictor]:
    """The predictor in eval mode, without gradients for weights, its network in the plan's dtype; all undone after."""
    bare = predictor.predictor if isinstance(predictor, RawOutput) else predictor
    network = bare.network if isinstance(bare, NetworkPredictor) else None
    modes = [(module, module.training) for module in predictor.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in predictor.parameters()]
    dtypes = {p.dtype for p in network.parameters()} if isinstance(network, torch.nn.Module) else set()
    before = dtypes.pop() if len(dtypes) == 1 else None
    saved = None
    if isinstance(network, torch.nn.Module) and before is not None and before != plan.torch_dtype:
        saved = {name: value.clone() for name, value in network.state_dict().items()}
        torch.nn.Module.to(network, plan.torch_dtype)  # a library's own `to` may keep parts back
    predictor.eval().requires_grad_(False)
    try:
        yield predictor
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, wanted in gradients:
            parameter.requires_grad_(wanted)
        if saved is not None and isinstance(network, torch.nn.Module):
            torch.nn.Module.to(network, before)
            network.load_state_dict(saved)
