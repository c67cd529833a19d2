"""Models that only their owner's code can build: a function of the user's own makes the predictor.

The function is code that the user names and trusts. The checkpoint beside it is still read as a stranger's: the
function gets plain dictionaries of tensors, never a file to unpickle.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ..diffusion.clock import CLOCKS, Clock
from ..diffusion.parameterization import PARAMETERIZATIONS, Parameterization
from ..diffusion.predictor import NetworkPredictor, Predictor
from ..diffusion.schedule import SCHEDULES, Schedule
from ..diffusion.spelling import parse
from ..errors import LipdiagError, UsageError
from ..files import read_json, shown
from ..formats import accelerate, edm, family
from ..formats.conditioning import read_inputs
from ..formats.networks import widened
from ..formats.usage import Usage, k_diffusion
from ..weights.container import open_container, plain_facts
from ..weights.refusal import refusing
from ..weights.tensors import SHAPES, read_tensors

NO_CONFIG = "A factory builds the network itself: leave --original-config out, which only k-diffusion's files need."

NAMES = ("schedule", "parameterization", "clock", "shape")
"""The conventions of a network that is no Predictor by itself."""


class Wrapped(nn.Module):
    """A plain callable as a network."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Made(NamedTuple):
    """What a factory made, and what a reader has to know of it."""

    predictor: Predictor
    notes: tuple[str, ...] = ()


def factory(spec: str, path: str | Path | None = None, **told: Any) -> Predictor:
    """The predictor that the user's function makes; see `make`."""
    return make(spec, path, **told).predictor


def make(
    spec: str,
    path: str | Path | None = None,
    *,
    schedule: str | Schedule | None = None,
    parameterization: str | Parameterization | None = None,
    clock: str | Clock | None = None,
    shape: tuple[int, ...] | None = None,
    weights: str = "ema",
    conditioning: str | Path | None = None,
    label: int | None = None,
    original_config: str | Path | None = None,
) -> Made:
    """The predictor that the user's function makes, with notes on what of its file was used.

    Args:
        spec: "package.module:function"; modules in the current folder are found too.
        path: A .pt or .safetensors file, or a folder of accelerate's, whose content is the function's one argument;
            without it there is none. Where the content is a network's weights, perhaps inside what a known training
            script wraps around them, the argument is the bare state dict: averaged weights by choice, wrappers'
            prefixes gone. A folder that `lipdiag convert` wrote needs the network's class instead of a function.
        schedule: Needed where the function returns a network, not a Predictor, and the file does not tell it; text or
            object.
        parameterization: Likewise.
        clock: Likewise.
        shape: Of one sample, likewise.
        weights: "ema" or "raw", where a file has both.
        conditioning: Further inputs of a network, a file of tensors by keyword.
        label: The class a converted EDM network is told.
        original_config: k-diffusion's JSON file, which says how its network is used, where the file does not hold it.

    Raises:
        UsageError: If the function cannot be found, fails, or makes nothing that can be measured.
        CheckpointError: If the file cannot be read.
    """
    converted = path is not None and edm.recognizes(Path(path))
    if label is not None and not converted:
        raise UsageError("a factory gives its network a class itself, or by --conditioning: leave --label out")
    if original_config is not None and (path is None or converted):
        raise UsageError(NO_CONFIG)
    in_file = None if path is None or converted else network_in(path, weights, original_config)
    content, usage, notes = in_file or ({}, Usage(), ())
    arguments = [] if path is None else [content]
    with current_folder_importable():
        function = find(spec)
        with blaming(spec):
            made = edm.build(function, Path(str(path)), label) if converted else function(*arguments)
    texts = ((schedule, SCHEDULES), (parameterization, PARAMETERIZATIONS), (clock, CLOCKS))
    parts = [parse(part, registry) if isinstance(part, str) else part for part, registry in texts]
    given: dict[str, Any] = {name: part for name, part in zip(NAMES, (*parts, shape), strict=True) if part is not None}
    if isinstance(made, Predictor):
        return Made(retold(made, given, spec), notes)
    if not callable(made):
        raise UsageError(
            f"the factory {spec} returned a {type(made).__name__}: return a Predictor, a module or a function"
        )
    told = {name: getattr(usage, name) for name in NAMES if getattr(usage, name) is not None}
    notes += usage.notes if set(told) - set(given) else ()
    lacking = " and ".join(f"--{name}" for name in NAMES if name not in told | given)
    if lacking:
        hint = "" if in_file is None else f", as in {usage.options}{' ' + usage.hint if usage.hint else ''}"
        kind = type(made).__name__
        raise UsageError(f"the factory {spec} returned a {kind}, not a Predictor: give {lacking} too{hint}")
    inputs = {} if conditioning is None else read_inputs(conditioning)
    predictor = NetworkPredictor(frozen(made), **(told | given), conditioning=inputs).eval()
    return Made(predictor, notes)


def retold(made: Predictor, given: dict[str, Any], spec: str) -> Predictor:
    """The factory's predictor, with the conventions that the user gives in the place of its own.

    Raises:
        UsageError: If some are given and it is no `NetworkPredictor`, whose conventions alone can be replaced.
    """
    if given and isinstance(made, NetworkPredictor):
        own = {name: getattr(made, name) for name in (*NAMES, "conditioning")}
        return NetworkPredictor(made.network, **(own | given)).eval()
    if given:
        kind = type(made).__name__
        raise UsageError(f"the factory {spec} made a {kind}, which has its own {' and '.join(given)}: leave them out")
    return made.eval()


def frozen(made: Callable[..., Any]) -> nn.Module:
    """The factory's module or function as a network without gradients in its weights."""
    network = made if isinstance(made, nn.Module) else Wrapped(made)
    for layer in network.modules():
        if isinstance(layer, nn.Linear):  # many networks embed their time in float32, whatever their weights are
            layer.register_forward_pre_hook(widened)
    return network.requires_grad_(False)


@contextmanager
def blaming(spec: str) -> Iterator[None]:
    """Say of what fails inside, which is the user's own code, that it is the factory's."""
    try:
        yield
    except LipdiagError:
        raise
    except Exception as error:
        raise UsageError(f"the factory {spec} failed with {type(error).__name__}: {shown(error)}") from error


def network_in(
    path: str | Path, weights: str, original_config: str | Path | None
) -> tuple[dict[str, Any], Usage, tuple[str, ...]]:
    """The bare state dict in a file, or all that the file holds where it is not known what that is.

    Returns:
        It, with what the file tells of its use and notes on what was taken.
    """
    folder = accelerate.recognizes(Path(path))
    content = accelerate.read(Path(path), weights) if folder else read_tensors(path)
    with refusing(path, SHAPES):
        contents = None if isinstance(content.get("config"), str) else open_container(content, weights, path)
        found = None if contents is None else family.recognized(contents)
    if original_config is not None:
        if contents is None or found is None or found.usage is not k_diffusion:
            raise UsageError(NO_CONFIG)
        contents.facts |= plain_facts(read_json(original_config), "model")
    if contents is None:
        return content, Usage(), ()
    both = len(contents.available) > 1
    taken = (f"{contents.weights} weights, of {' and '.join(contents.available)}",) if both else ()
    with refusing(path, SHAPES):
        return dict(contents.state), family.used(contents), (*contents.notes, *taken)


def find(spec: str) -> Callable[..., Any]:
    """The function that "package.module:function" names."""
    module, colon, name = spec.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise UsageError(f"the factory {shown(spec)!r} is not of the form package.module:function")
    try:
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except Exception as error:  # importing runs the user's own code
        raise UsageError(f"the factory {spec} cannot be imported ({type(error).__name__}: {shown(error)})") from error
    if not callable(function):
        raise UsageError(f"the factory {spec} is a {type(function).__name__}, not a function")
    return function


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Let modules in the current folder be imported, after all installed ones."""
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
