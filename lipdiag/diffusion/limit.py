"""What a sampler knows of the data's range: the x0 it predicts on the way is kept inside.

Early in the sampling x0 = (x - sigma eps) / alpha divides a network's error by a tiny alpha. Models of pictures are
therefore sampled with each predicted x0 held in the range of pictures; without it a network that is not trained to the
end draws samples far outside of its own data.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError
from .continuous import along

Limit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Clip:
    """Every entry in [-largest, largest]."""

    largest: float = 1.0

    def __post_init__(self):
        if not 0 < self.largest < math.inf:
            raise UsageError(
                f"got clip({self.largest}); the largest entry is positive, usually 1, so give such a number"
            )

    def __call__(self, x0: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        return x0.clamp(-self.largest, self.largest)


@dataclass(frozen=True)
class Dynamic:
    """A sample whose entries leave [-1, 1] cut at a quantile of their magnitudes, `largest` at most, and scaled back.

    References:
        Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding, 2022.
        https://arxiv.org/abs/2205.11487
    """

    ratio: float = 0.995
    largest: float = 1.0

    def __post_init__(self):
        if not (0 < self.ratio <= 1 and 1 <= self.largest < math.inf):
            raise UsageError(
                f"got dynamic({self.ratio}, {self.largest}); the ratio lies in (0, 1] and the largest entry is at "
                "least 1, usually 0.995 and 1, so give such numbers"
            )

    def __call__(self, x0: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        cut = x0.flatten(1).abs().float().quantile(self.ratio, dim=1).clamp(1, self.largest).to(x0.dtype)
        cut = along(cut, x0)
        return x0.clamp(-cut, cut) / cut


LIMITS: dict[str, Any] = {"clip": Clip, "dynamic": Dynamic}
