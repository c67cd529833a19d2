"""Where inside a network a small change grows, and where it dies: what every module makes of it, by one pass.

A pass over dual numbers carries the derivative along one direction through every operation. Hooks read, of what each
module is given and of what it returns, the value and its derivative. The direction is the timestep that the network is
told, after the clock, so that what a shared clock holds still does not hide the network; or a random direction in x.

Where a module is called several times, or given several tensors, norms are over all of their entries together.
"""

from collections.abc import Iterator, Set
from contextlib import ExitStack
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..diffusion.predictor import NetworkPredictor, Predictor, RawOutput
from ..errors import CheckpointError
from ..linalg.forward_mode import push_forward
from ..linalg.method import ForwardMode
from .point import Point
from .quantity import Quantity, Values, Variable

WHOLE = "whole network"
"""What the network itself is called among its modules."""

LEAVE_OUT = "leave --quantity modules and modules_x out"

_listed: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()


def network_of(predictor: Predictor) -> nn.Module:
    """The network in a predictor.

    Raises:
        CheckpointError: If it has none whose modules can be seen.
    """
    bare = predictor.predictor if isinstance(predictor, RawOutput) else predictor
    network = bare.network if isinstance(bare, NetworkPredictor) else None
    if not isinstance(network, nn.Module):
        raise CheckpointError(
            f"cannot measure what happens inside this model: it is a {type(network or bare).__name__} and no network "
            f"of modules; {LEAVE_OUT}"
        )
    return network


def verify_method(asked: Set[str], method: str) -> None:
    """Refuse what takes forward mode of a network that has none.

    Args:
        asked: Names of quantities.
        method: By which products with the network's derivative are computed.

    Raises:
        CheckpointError: If one of these quantities is among them.
    """
    if asked & QUANTITIES.keys() and method != ForwardMode.name:
        raise CheckpointError(
            f"cannot measure what happens inside this network: that takes forward mode, and it has {method} alone; "
            f"{LEAVE_OUT}"
        )


def named(network: nn.Module) -> dict[str, nn.Module]:
    """Every module by its name; names of compiled parts are those of what was compiled."""
    return {name.replace("_orig_mod.", "") or WHOLE: module for name, module in network.named_modules()}


@torch.no_grad()
def listed(predictor: Predictor) -> tuple[str, ...]:
    """Names of the modules that are called and return a tensor for each sample, in the order in which they begin.

    It takes a forward pass of a few samples, once for each network.

    Raises:
        CheckpointError: If the model has no modules.
    """
    network = network_of(predictor)
    if network not in _listed:
        few = next(n for n in range(2, len(predictor.shape) + 3) if n not in predictor.shape)
        weight = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
        x = torch.zeros(few, *predictor.shape, dtype=weight.dtype, device=weight.device)
        with Ears(named(network), few) as ears:
            predictor(x, torch.full((few,), 0.5, dtype=torch.float64, device=x.device))
        _listed[network] = tuple(name for name, sides in ears.heard.items() if sides["output"])
    return _listed[network]


class Ears:
    """While entered, hears what modules are given and what they return, as norms of each sample.

    Args:
        modules: By name.
        batch: Samples; a tensor without one entry for each is no sample's and is not heard.

    Attributes:
        heard: Name -> `input` and `output` -> for each tensor the norms of its value and of its derivative (None where
            it has none), in the order in which the modules began.
    """

    def __init__(self, modules: dict[str, nn.Module], batch: int):
        self.names = {module: name for name, module in modules.items()}
        self.batch = batch
        self.heard: dict[str, dict[str, list[tuple[Tensor, Tensor | None]]]] = {}
        self.hooks = ExitStack()
        # What a module returns is mostly what the next one is given; that it was not written to, its version tells.
        self.known: dict[int, tuple[ReferenceType[Tensor], int, tuple[Tensor, Tensor | None]]] = {}

    def __enter__(self) -> "Ears":
        for module in self.names:
            for handle in (
                module.register_forward_pre_hook(self.before, with_kwargs=True),
                module.register_forward_hook(self.after),
            ):
                self.hooks.callback(handle.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.close()

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        sides = self.heard.setdefault(self.names[module], {"input": [], "output": []})
        sides["input"] += self.sizes((args, kwargs))

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        self.heard[self.names[module]]["output"] += self.sizes(output)

    def sizes(self, value: Any) -> list[tuple[Tensor, Tensor | None]]:
        norms = []
        with torch._C.DisableTorchFunction():  # whose rules need not look at what is only looked at
            for z in tensors(value):
                if not (z.is_floating_point() and z.ndim and z.shape[0] == self.batch):
                    continue
                known = self.known.get(id(z))  # which may be another's that is gone
                if known is None or known[0]() is not z or known[1] != z._version:
                    y, dy = forward_ad.unpack_dual(z)
                    self.known[id(z)] = known = ref(z), z._version, (size(y), None if dy is None else size(dy))
                norms.append(known[2])
        return norms


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in what a module is called with, or returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


def size(z: Tensor) -> Tensor:
    """The norm of each sample."""
    return torch.linalg.vector_norm(z, dim=tuple(range(1, z.ndim))) if z.ndim > 1 else z.abs()


def along(point: Point, dx: Tensor | None = None, dt: Tensor | None = None) -> Values:
    """The norms of inputs and outputs of all modules and of their derivatives along a direction, (batch, module)."""
    predictor, told = point.predictor, point.predictor.clock(point.t).detach()
    every = named(network_of(predictor))
    with Ears({name: every[name] for name in point.modules}, len(point.x)) as ears:
        push_forward(lambda x, told: predictor.conditioned(x.clone(), point.t, told), (point.x, told), (dx, dt))

    def together(side: str, part: int) -> Tensor:
        squares = torch.zeros(len(point.modules), len(point.x), dtype=torch.float64, device=point.x.device)
        for row, name in zip(squares, point.modules, strict=True):
            for pair in ears.heard.get(name, {side: []})[side]:
                if (norms := pair[part]) is not None:
                    row += norms.double().square()  # one by one: a card's index_add would add in any order
        return squares.sqrt().T

    sides = "output", "input"
    return {f"{side}_derivative": together(side, 1) for side in sides} | {
        f"{side}_norm": together(side, 0) for side in sides
    }


def modules(point: Point) -> Values:
    speeds = along(point, dt=torch.ones_like(point.timestep))
    return {f"module_{name}": value for name, value in speeds.items()}


def modules_x(point: Point) -> Values:
    speeds = along(point, dx=point.perturbation.reshape(point.x.shape).to(point.x.dtype))
    return {f"module_{side}_derivative_x": speeds[f"{side}_derivative"] for side in ("output", "input")}


def variable(what: str, units: str, side: str) -> Variable:
    norm = f"Euclidean, over all entries of a sample that a module {side}"
    return Variable(f"{what}, of each module along `module`", units, norm, ("module",))


RETURNS, GIVEN = "returns", "is given"
IN_TIME, IN_X = "with the timestep that the network is told", "per change of x in a random direction"
QUANTITIES = {
    "modules": Quantity(
        modules,
        {
            "module_output_derivative": variable(f"change of the output {IN_TIME}", "1/timestep", RETURNS),
            "module_input_derivative": variable(f"change of the input {IN_TIME}", "1/timestep", GIVEN),
            "module_output_norm": variable("size of the output", "1", RETURNS),
            "module_input_norm": variable("size of the input", "1", GIVEN),
        },
        lambda work: 1,
    ),
    "modules_x": Quantity(
        modules_x,
        {
            "module_output_derivative_x": variable(f"change of the output {IN_X}", "1", RETURNS),
            "module_input_derivative_x": variable(f"change of the input {IN_X}", "1", GIVEN),
        },
        lambda work: 1,
    ),
}
