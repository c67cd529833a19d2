"""The state of the model and of the processor while numbers are measured."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..diffusion.predictor import NetworkPredictor, Predictor
from .plan import Plan


@contextmanager
def arithmetic(deterministic: bool = False) -> Iterator[None]:
    """Float32 in float32, and on request only kernels that give the same bits every time; undone afterwards.

    Graphics processors would otherwise round the factors of convolutions to 10 bits (TF32), and choose kernels by
    a race that the fastest wins.

    Raises:
        RuntimeError: From an operation without a deterministic kernel, where `deterministic` was asked for.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    cudnn.allow_tf32 = matmul.allow_tf32 = cudnn.benchmark = False
    if deterministic:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before[:3]
        torch.use_deterministic_algorithms(before[3])


@contextmanager
def evaluating(predictor: Predictor, plan: Plan) -> Iterator[Predictor]:
    """The predictor in eval mode, without gradients for weights, its network in the plan's dtype; all undone after."""
    network = predictor.network if isinstance(predictor, NetworkPredictor) else None
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
