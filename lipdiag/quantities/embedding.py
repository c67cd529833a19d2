"""How fast a network's own encoding of the timestep moves: what all later layers are told about time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .point import Point
from .quantity import Quantity, Variable
from .time import other_time

HOMES = (
    "time_embedding",
    "time_embed",
    "timestep_embedder",
    "time_embedder",
    "t_embedder",
    "time_mlp",
    "time_text_embed",
    "map_layer1",
)
"""What libraries call the module whose output every block is conditioned on, in the order of preference."""


def find(network: nn.Module) -> nn.Module:
    """The module that encodes the timestep.

    Raises:
        CheckpointError: If no module has one of the known names.
    """
    by_name: dict[str, nn.Module] = {}
    for path, module in network.named_modules():
        by_name.setdefault(path.rpartition(".")[2], module)
    for name in HOMES:
        if name in by_name:
            return by_name[name]
    raise CheckpointError(
        f"cannot measure the embedding of time: this model has no module called {', '.join(HOMES)}; "
        "leave --quantity embedding out, or name the module so"
    )


@contextmanager
def listening(module: nn.Module) -> Iterator[list[Tensor]]:
    """Outputs of a module, in the order of its calls."""
    heard: list[Tensor] = []

    def hear(_: nn.Module, __: tuple, output: object) -> None:
        heard.append(output[0] if isinstance(output, tuple) else output)  # type: ignore[arg-type]

    handle = module.register_forward_hook(hear)
    try:
        yield heard
    finally:
        handle.remove()


@torch.no_grad()
def embedding(point: Point) -> dict[str, Tensor]:
    """Norm of the encoding, and of its change to the second timestep of the quotient K, per timestep."""
    clock = point.predictor.clock
    other = other_time(clock, point.timestep, point.accuracy.step)
    with listening(find(point.predictor)) as heard:
        point.predictor(point.x, point.t)
        calls = len(heard)
        point.predictor(point.x, clock.base.time(other))
    here, there = heard[0], heard[calls]
    if len(here) != len(point.x):
        raise CheckpointError(
            f"cannot measure the embedding of time: it has shape {tuple(here.shape)} for {len(point.x)} samples; "
            "leave --quantity embedding out"
        )
    here, there = (e.flatten(1).double() for e in (here, there))
    return {
        "embedding_difference": (there - here).norm(dim=1) / (other - point.timestep).abs(),
        "embedding_norm": here.norm(dim=1),
    }


L2_EMBEDDING = "Euclidean, over all entries of the embedding"
QUANTITIES = {
    "embedding": Quantity(
        embedding,
        {
            "embedding_difference": Variable("change of the embedding of time", "1/timestep", L2_EMBEDDING),
            "embedding_norm": Variable("size of the embedding of time", "1", L2_EMBEDDING),
        },
        lambda work: 2,
    )
}
