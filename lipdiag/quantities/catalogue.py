"""Every quantity by name. To add one: write the function and its entry beside it; all else picks it up from here."""

from collections.abc import Iterable

from . import (
    density,
    dimension,
    embedding,
    fokker_planck,
    modules,
    pairs,
    prediction,
    sensitivity,
    space,
    time,
    vectors,
)
from .point import Point
from .quantity import Quantity, Values, Work

QUANTITIES: dict[str, Quantity] = {
    name: quantity
    for part in (
        *(time, space, vectors, pairs, embedding, prediction, fokker_planck),
        *(sensitivity, dimension, density, modules),
    )
    for name, quantity in part.QUANTITIES.items()
}

OWNERS = {variable: name for name, quantity in QUANTITIES.items() for variable in quantity.variables}
"""Which quantity fills a variable, so that a plan may ask for either name."""


def needs(names: Iterable[str]) -> frozenset[str]:
    """What these quantities share."""
    return frozenset[str]().union(*(QUANTITIES[name].needs for name in names))


def recorded(names: Iterable[str]) -> bool:
    """Whether so many products follow that recording the linearization pays."""
    return bool(needs(names) & {"krylov", "probes", "many products"})


def passes(names: Iterable[str], work: Work) -> int:
    """The floor: passes through the network that a (draw, timestep) pair needs, in forward passes.

    Every Jacobian product repeats the multiplications of a forward pass, so it counts one; the linearization itself
    is one more.
    """
    shared = needs(names)
    products = 2 * work.krylov_steps * ("krylov" in shared) + work.probes * ("probes" in shared)
    return 1 + products + sum(QUANTITIES[name].passes(work) for name in names)


def measure_point(point: Point) -> Values:
    """Every variable of the quantities asked for, float64, one entry (or a list of ranks) per pair."""
    values: Values = {}
    for name in point.quantities:
        values |= QUANTITIES[name].measure(point)
    return {name: value.detach().double() for name, value in values.items()}
