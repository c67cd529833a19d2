"""Models that only their owner's code can build: a function of the user's own makes the predictor.

The function is code that the user names and trusts. The checkpoint beside it is still read as a stranger's: the
function gets plain dictionaries of tensors, never a file to unpickle.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ..diffusion.convention import PARTS, Convention
from ..diffusion.predictor import NetworkPredictor, Predictor
from ..errors import LipdiagError, UsageError
from ..files import read_json, shown
from ..formats import accelerate, edm, family, lerobot, physicsnemo
from ..formats.conditioning import read_inputs
from ..formats.networks import TimeFirst, widened
from ..formats.usage import Usage, k_diffusion
from ..timestep import comes_first
from ..weights.container import open_container
from ..weights.facts import plain_facts
from ..weights.refusal import refusing
from ..weights.tensors import SHAPES, read_tensors
from .reading import Reading

TURNED = "the network is called as (t, x), as the names of its parameters tell"
NO_CONFIG = "A factory builds the network itself: leave --original-config out, which only k-diffusion's files need."

ASKED = "--schedule ... --parameterization ... --clock ..."

NAMES = (*PARTS, "shape")
"""The conventions of a network that is no Predictor by itself."""


class Wrapped(nn.Module):
    """A plain callable as a network."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class InFile(NamedTuple):
    """What a file holds: the weights, what it tells of their use, notes on what was taken, the network's arguments."""

    content: dict[str, Any]
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = {}


def factory(spec: str, path: str | Path | None = None, **words: Any) -> Predictor:
    """The predictor that the user's function makes, with the words of a `Reading`; see `make`."""
    return make(Reading.of(factory=spec, **words), path)


def make(reading: Reading, path: str | Path | None = None) -> Predictor:
    """The predictor that the user's function makes; its notes tell what of its file was used.

    Args:
        reading: What the user tells. Its factory is "package.module:function"; modules in the current folder are found
            too. Convention and shape are needed where the function returns a network, not a Predictor, and the file
            does not tell them. A label is the class that a converted EDM network is told, and the original config
            k-diffusion's JSON file, which says how its network is used, where the file does not hold it.
        path: A .pt or .safetensors file, or a folder of accelerate's, whose content is the function's one argument;
            without it there is none. Where the content is a network's weights, perhaps inside what a known training
            script wraps around them, the argument is the bare state dict: averaged weights by choice, wrappers'
            prefixes gone. A function with a parameter `hyper_parameters` gets what the trainer kept under that name,
            and a class, such as a LightningModule, is made with it and loaded. A folder that `lipdiag convert` wrote
            needs the network's class instead of a function.

    Raises:
        UsageError: If the function cannot be found, fails, or makes nothing that can be measured.
        CheckpointError: If the file cannot be read.
    """
    spec = str(reading.factory)
    converted = path is not None and edm.recognizes(Path(path))
    if reading.label is not None and not converted:
        raise UsageError("a factory gives its network a class itself, or by --conditioning: leave --label out")
    if reading.prompt is not None:
        raise UsageError("a factory gives its network a text itself, or by --conditioning: leave --prompt out")
    if reading.original_config is not None and (path is None or converted):
        raise UsageError(NO_CONFIG)
    in_file = None if path is None or converted else network_in(path, reading)
    _, usage, notes, _ = in_file or InFile({})
    with current_folder_importable():
        function = find(spec)
        with blaming(spec):
            made = edm.build(function, Path(str(path)), reading.label) if converted else called(function, in_file)
    given = parts(reading.convention, reading.shape)
    if isinstance(made, Predictor):
        predictor = replaced(made, given, spec)
        predictor.notes = tuple(dict.fromkeys((*notes, *predictor.notes)))
        return predictor
    if not callable(made):
        raise UsageError(
            f"the factory {spec} returned a {type(made).__name__}: return a Predictor, a module or a function"
        )
    from_file = parts(usage.convention, usage.shape)
    lacking = " and ".join(f"--{name}" for name in NAMES if name not in from_file | given)
    if lacking:
        hint = "" if in_file is None else f", as in {usage.options}{' ' + usage.hint if usage.hint else ''}"
        kind = type(made).__name__
        raise UsageError(f"the factory {spec} returned a {kind}, not a Predictor: give {lacking} too{hint}")
    inputs = read_inputs(reading.conditioning)
    network, turned = frozen(made), comes_first(made)
    network = TimeFirst(network) if turned else network
    predictor = NetworkPredictor(network, **(from_file | given), conditioning=inputs).eval()
    predictor.notes = (*notes, *(usage.notes if set(from_file) - set(given) else ()), *([TURNED] if turned else []))
    return predictor


def parts(convention: Convention, shape: tuple[int, ...] | None) -> dict[str, Any]:
    """What is told of how a network is used, as arguments of `NetworkPredictor`."""
    return convention.parts | ({} if shape is None else {"shape": shape})


def replaced(made: Predictor, given: dict[str, Any], spec: str) -> Predictor:
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


def called(function: Any, in_file: InFile | None) -> Any:
    """What the user's function makes of a file, or of nothing."""
    if in_file is None:
        return function()
    if isinstance(function, type) and issubclass(function, nn.Module):
        return made_and_loaded(function, in_file)
    wanted: Mapping[str, Any] = {}
    with suppress(TypeError, ValueError):  # a function that tells no signature
        wanted = inspect.signature(function).parameters
    told = {"hyper_parameters": in_file.arguments} if "hyper_parameters" in wanted else {}
    return function(in_file.content, **told)


def made_and_loaded(module_class: Callable[..., Any], in_file: InFile) -> nn.Module:
    """A module made with the arguments in a file that its class takes, or the part of it that the weights are of.

    Raises:
        UsageError: If neither it nor a part of it has the names of the weights.
    """
    parameters = inspect.signature(module_class).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments = {name: value for name, value in in_file.arguments.items() if anything or name in parameters}
    module = module_class(**arguments)
    part = next((part for part in (module, *module.children()) if set(part.state_dict()) == set(in_file.content)), None)
    if part is None:
        name = getattr(module_class, "__name__", "class")
        raise UsageError(
            f"neither {name} nor a part of it has the {len(in_file.content)} names in the file, such as "
            f"{shown(min(in_file.content, key=len, default=''))!r}: "
            "give a function that gets them and returns a network"
        )
    part.load_state_dict(in_file.content)
    return part


def network_in(path: str | Path, reading: Reading) -> InFile:
    """The bare state dict in a file, or all that the file holds where it is not known what that is."""
    for form in (lerobot, physicsnemo):
        if form.recognizes(Path(path)):
            checkpoint = form.read(Path(path))
            used = Usage(
                checkpoint.convention, checkpoint.shape, "" if len(checkpoint.convention.parts) == len(PARTS) else ASKED
            )
            return InFile(dict(checkpoint.state), used, checkpoint.notes, checkpoint.network_config)
    folder = accelerate.recognizes(Path(path))
    content = accelerate.read(Path(path), reading.weights) if folder else read_tensors(path)
    with refusing(path, SHAPES):
        contents = None if isinstance(content.get("config"), str) else open_container(content, reading.weights, path)
        kind = None if contents is None else family.recognized(contents)
    if reading.original_config is not None:
        if contents is None or kind is None or kind.usage is not k_diffusion:
            raise UsageError(NO_CONFIG)
        contents.facts |= plain_facts(read_json(reading.original_config), "model")
    if contents is None:
        return InFile(content)
    both = len(contents.available) > 1
    taken = (f"{contents.weights} weights, of {' and '.join(contents.available)}",) if both else ()
    with refusing(path, SHAPES):
        return InFile(dict(contents.state), family.used(contents), (*contents.notes, *taken), contents.arguments)


def find(spec: str, what: str = "the factory") -> Callable[..., Any]:
    """The function that "package.module:function" names, which is called `what` in refusals."""
    module, colon, name = spec.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise UsageError(f"{what} {shown(spec)!r} is not of the form package.module:function")
    try:
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except Exception as error:  # importing runs the user's own code
        raise UsageError(f"{what} {spec} cannot be imported ({type(error).__name__}: {shown(error)})") from error
    if not callable(function):
        raise UsageError(f"{what} {spec} is a {type(function).__name__}, not a function")
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
