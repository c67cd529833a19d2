"""The networks that a file may name: a closed list of classes, none of which a file can add to."""

import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lipdiag.training.files import shown
from lipdiag.training.tensors import refuse


def diffusers_class(name: str) -> type[nn.Module]:
    """A network's class in diffusers, imported when it is first needed: that takes seconds."""
    import diffusers

    return getattr(diffusers, name)


# The only classes that the name in a file can lead to.
NETWORKS: dict[str, Callable[[], type[nn.Module]]] = {
    name: partial(diffusers_class, name)
    for name in (
        "UNet2DModel",
        "UNet2DConditionModel",
        "DiTTransformer2DModel",
        "SD3Transformer2DModel",
        "FluxTransformer2DModel",
    )
}
TIME_BY_KEYWORD = ("SD3Transformer2DModel", "FluxTransformer2DModel")  # their second argument is another one


class TimeByKeyword(nn.Module):
    """A network that takes its timestep by keyword only."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, timestep: Tensor, **conditioning: Any) -> Any:
        return self.network(x, timestep=timestep, **conditioning)


class Budget(TorchDispatchMode):
    """Ends the making of tensors that are many times what a file holds: its config may ask for a billion layers."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.tensors = 10_000 + 20 * len(state)
        self.numbers = 2**24 + 4 * sum(tensor.numel() for tensor in state.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], (list, tuple)) and all(type(size) is int for size in args[0]):
            self.numbers -= math.prod(args[0])
        self.tensors -= 1
        if self.numbers < 0 or self.tensors < 0:
            raise ValueError("the network is many times larger than the weights")
        return func(*args, **(kwargs or {}))


def create_network(
    name: str, config: Mapping[str, Any], path: str | Path, state: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """A network of a class on the list, in eval mode, with random weights.

    Args:
        name: The class.
        config: Its arguments.
        path: The file that says so, for errors.
        state: The weights it is made for; a network many times their size is refused while it is made.

    Raises:
        CheckpointError: If the class is not on the list, or does not take these arguments.
    """
    if name not in NETWORKS:
        refuse(path, f"names the network {shown(name)!r}, which is not among {', '.join(NETWORKS)}: use --factory")
    network_class = NETWORKS[name]()
    unknown = set(config) - set(inspect.signature(network_class.__init__).parameters)
    if unknown:
        refuse(path, f"gives its {name} the argument {shown(min(unknown))!r}, which this diffusers does not know")
    try:
        with nullcontext() if state is None else Budget(state):
            return network_class(**config).eval()
    except Exception as error:  # whatever a wrong argument leads the library to
        refuse(path, f"has a config from which no {name} can be built ({shown(error) or type(error).__name__})", error)
