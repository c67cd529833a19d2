"""The networks that a file may name: a closed list of classes, none of which a file can add to."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lipdiag.training.files import shown
from lipdiag.training.tensors import refuse


def diffusers_class(name: str) -> type[nn.Module]:
    """A network's class in diffusers, imported when it is first needed: that takes seconds."""
    import diffusers

    return getattr(diffusers, name)


TIME_BY_KEYWORD = (  # their second argument is another one
    "PixArtTransformer2DModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
    "SanaTransformer2DModel",
    "AuraFlowTransformer2DModel",
)
# The only classes that the name in a file can lead to.
NETWORKS: dict[str, Callable[[], type[nn.Module]]] = {
    name: partial(diffusers_class, name)
    for name in (
        "UNet2DModel",
        "UNet2DConditionModel",
        "DiTTransformer2DModel",
        "Lumina2Transformer2DModel",
        *TIME_BY_KEYWORD,
    )
}


class TimeByKeyword(nn.Module):
    """A network that takes its timestep by keyword only."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, timestep: Tensor, **conditioning: Any) -> Any:
        return self.network(x, timestep=timestep, **conditioning)


def create_network(name: str, config: Mapping[str, Any], path: str | Path) -> nn.Module:
    """A network of a class on the list, in eval mode, with random weights.

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
        return network_class(**config).eval()
    except Exception as error:  # whatever a wrong argument leads the library to
        refuse(path, f"has a config from which no {name} can be built ({shown(error) or type(error).__name__})", error)
