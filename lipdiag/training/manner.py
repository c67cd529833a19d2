"""How the steps of a recipe are computed on a device: what it is good for, and how far its bits repeat."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from .. import distributed
from ..errors import UsageError
from ..linalg.precision import steady
from ..progress import say
from .recipe import Recipe


@dataclass(frozen=True)
class Manner:
    """What a recipe leaves to the device.

    Attributes:
        precision: Of the network's layers, "float32" or "bfloat16".
        compile: Whether the network is compiled from the first step on; None where its pace decides.
        patience: Seconds that the device goes on before anybody looks at the numbers of its steps; 0 to look at each.
    """

    precision: str
    compile: bool | None
    patience: float


def manner(recipe: Recipe, device: torch.device) -> Manner:
    """How a recipe is trained on a device; of what it asks for and the device lacks, a sentence says so.

    On a processor everything that is not asked for stays off, so that its results keep their bits.

    Raises:
        UsageError: If the recipe wants both a penalty and a compiled network.
    """
    if recipe.compile and recipe.penalty:
        raise UsageError("the penalty takes derivatives that a compiled network does not give: leave compile at false")
    card = device.type == "cuda"
    compiled = recipe.compile if recipe.compile is not None else None if card and not recipe.penalty else False
    precision = recipe.precision
    if precision != "float32" and card and not computes_in_bfloat16(device):
        tell(f"{device} does not compute in bfloat16: the network computes in float32")
        precision = "float32"
    if precision == "auto":
        precision = "bfloat16" if card else "float32"
    return Manner(precision, compiled, 1.0 if card else 0.0)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a card has bfloat16 of its own, rather than by way of float32."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def tell(sentence: str) -> None:
    """Say something that is to be known, in the one process that speaks."""
    if distributed.leads():
        say(f"lipdiag: {sentence}")


def repeatable(device: torch.device) -> AbstractContextManager[None]:
    """The convolutions of a card `steady`; of a processor nothing is changed."""
    return steady() if device.type == "cuda" else nullcontext()
