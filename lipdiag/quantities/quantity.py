"""What a measurement is: a function of a `Point`, the variables it fills, and its price.

Time derivatives are per timestep, the model's own unit of time. Norms are Euclidean over all entries of a sample.
A largest value over draws is a lower bound of a Lipschitz constant, never the constant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from .point import Point

Pairs = Float[Tensor, " batch"]
Values = dict[str, Tensor]

KRYLOV = frozenset({"krylov"})
PROBES = KRYLOV | {"probes"}
MANY_PRODUCTS = frozenset({"many products"})
L2 = "Euclidean, over all entries of a sample"
SPECTRAL = "operator norm, Euclidean to Euclidean"
RANKS = ("rank",)


class Work(NamedTuple):
    """What a price depends on: Krylov steps taken, probes, timesteps of the whole plan, and numbers in a sample."""

    krylov_steps: int
    probes: int
    times: int
    numbers: int = 1


class Variable(NamedTuple):
    """How a dataset variable is described.

    Attributes:
        long_name: What it is.
        units: Its unit.
        norm: In which norm.
        dimensions: After time and draw.
        facts: Further attributes, from (predictor's clock, accuracy, first timestep).
    """

    long_name: str
    units: str
    norm: str
    dimensions: tuple[str, ...] = ()
    facts: Callable[..., dict[str, Any]] = lambda clock, accuracy, timestep: {}


@dataclass(frozen=True)
class Quantity:
    """A measurement: the function, the variables it fills (the first is its headline), and its price.

    Attributes:
        measure: The function.
        variables: Name -> description; one number per (draw, timestep) pair, or a list of ranks.
        passes: Passes through the network, in forward passes, that it adds to what it `needs`.
        needs: What it shares with others: `krylov` (2 passes a step), `ranks` (more than one singular value from these
            steps), `probes` (one pass a probe); `many products` says that recording the linearization pays.
        of_noise: Whether it means something only where the output is a prediction of the noise.
    """

    measure: Callable[[Point], Values]
    variables: dict[str, Variable]
    passes: Callable[[Work], int] = lambda work: 0
    needs: frozenset[str] = frozenset()
    of_noise: bool = False

    @property
    def headline(self) -> str:
        return next(iter(self.variables))


def norms(z: Float[Tensor, "batch *event"]) -> Pairs:
    """Euclidean norm of each sample, float64."""
    return z.flatten(1).double().norm(dim=1)


def dot(a: Float[Tensor, "batch *event"], b: Float[Tensor, "batch *event"]) -> Pairs:
    return (a.flatten(1).double() * b.flatten(1).double()).sum(1)
