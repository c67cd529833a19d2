"""Pictures in the range that a model takes them in, where that is another than [-1, 1]."""

import hashlib
import math

from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError
from .dataset import Data

USUAL = (-1.0, 1.0)


class Derived(Data):
    """Samples made of pictures, one of each, with what goes with these."""

    def __init__(self, pictures: Data, name: str, shape: tuple[int, ...]):
        self.pictures, self.name, self.shape = pictures, name, shape
        self.labels, self.numbered, self.conditions = pictures.labels, pictures.numbered, pictures.conditions

    def __len__(self) -> int:
        return len(self.pictures)

    def check(self) -> None:
        self.pictures.check()


class Ranged(Derived):
    """Pictures of 8 bits whose black is `low` and whose white is `high`."""

    eight_bit = True

    def __init__(self, pictures: Data, low: float, high: float):
        super().__init__(pictures, f"{pictures.name} in [{low:g}, {high:g}]", pictures.shape)
        self.low, self.high, self.stored = low, high, pictures.stored

    def __getitem__(self, index: int) -> Float[Tensor, "*event"]:
        return self.low + (self.pictures[index] + 1) * ((self.high - self.low) / 2)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.pictures.fingerprint} {self.low!r} {self.high!r}".encode()).hexdigest()


def ranged(data: Data, bounds: tuple[float, float]) -> Data:
    """Pictures with their black and white at these bounds.

    Raises:
        UsageError: If the bounds are none, or the data are floats, which are taken as they are.
    """
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"the range {low:g},{high:g} is none: give black and white, such as 0,1")
    if (low, high) == USUAL:
        return data
    if not data.eight_bit:
        raise UsageError(
            f"a range is for pictures of 8 bits, and {data.name} holds floats, which are taken as they are"
        )
    return Ranged(data, low, high)
