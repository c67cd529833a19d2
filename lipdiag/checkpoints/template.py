"""A factory for a file whose network lipdiag does not have: a Python file to be completed, and the command it is for.

What the file tells is filled in: the tensors, the arguments that its trainer kept, how the network is used. Texts of
the file stand in it as comments on one line and as literals, so that nothing of them can run.
"""

import shlex
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UsageError
from ..files import atomic_write, shown
from ..hub import spelled
from ..printing import aligned
from ..text import printable
from .factory import InFile, network_in
from .hub import located
from .reading import SILENT, Reading

MOST_LINES = 40
MODULE = '''\
# The network of {path}, for lipdiag.
#
# The file holds {count} tensors, {numbers} numbers:
#
{tensors}
#
# {todo}
#
#     {command}

from my_project.model import MyNetwork  # the class of your network

# {source}
ARGUMENTS = {arguments}


def build(state):
    """The network with the weights of the file, which lipdiag calls as network(x, t)."""
    network = MyNetwork(**ARGUMENTS)
    network.load_state_dict(state)
    return network
'''


def write_factory(path: str | Path, out: str | Path, reading: Reading = SILENT) -> str:
    """Write a Python file with a function that makes the network of a checkpoint, to be completed.

    Args:
        path: The checkpoint, a file of weights of any kind or a folder of accelerate's.
        out: The file to write, NAME.py.
        reading: What the user tells; of it the weights are used, and whether to download.

    Returns:
        The command that measures the checkpoint by it.

    Raises:
        UsageError: If `out` is no name of a module, or exists.
        CheckpointError: If the checkpoint cannot be read.
        StorageError: If the file cannot be written.
    """
    place = Path(out)
    if place.suffix != ".py" or not place.stem.isidentifier():
        raise UsageError(f"{shown(out)} is no name of a Python module: give one such as my_network.py")
    if place.exists():
        raise UsageError(f"{shown(out)} exists: give another name, or remove it")
    home = located(path, reading.download)
    in_file = network_in(home, Reading(weights=reading.weights))
    command = " ".join(
        filter(None, (search(place), "lipdiag measure", shlex.quote(spelled(home)), options(in_file, place)))
    )
    atomic_write(place, template(spelled(home), in_file, command).encode())
    return command


def search(place: Path) -> str:
    """Where Python looks for the module, if not in the current folder."""
    return "" if place.parent == Path() else f"PYTHONPATH={shlex.quote(str(place.parent))}"


def options(in_file: InFile, place: Path) -> str:
    """The factory and the conventions that the file does not tell, as options."""
    told = in_file.usage.options.replace("--shape C,H,W", f"--shape {size(in_file)}")
    return " ".join(filter(None, (f"--factory {place.stem}:build", told)))


def size(in_file: InFile) -> str:
    """The shape of a sample, to be completed, as the first convolution tells it."""
    kernels = [tensor for tensor in in_file.content.values() if isinstance(tensor, Tensor) and tensor.ndim in (3, 4, 5)]
    if not kernels:
        return "C,H,W"
    sides = {3: "L", 4: "H,W", 5: "D,H,W"}[kernels[0].ndim]
    return f"{kernels[0].shape[1]},{sides}"


def template(path: str, in_file: InFile, command: str) -> str:
    """The text of the module."""
    tensors = {str(name): value for name, value in in_file.content.items() if isinstance(value, Tensor)}
    todo = "Put in your network's class and arguments, and run, all gaps filled (lipdiag help conventions):"
    source = "as the trainer kept them; drop what is not the network's" if in_file.arguments else "of your network"
    return MODULE.format(
        path=shown(path),
        count=len(tensors),
        numbers=f"{sum(tensor.numel() for tensor in tensors.values()):,}",
        tensors="\n".join(f"#     {line}" for line in listed(tensors)),
        todo=todo + (f" ({printable(in_file.usage.hint)})" if in_file.usage.hint else ""),
        command=printable(command),
        source="Its arguments, " + source + ".",
        arguments=literal(dict(in_file.arguments)),
    )


def listed(tensors: dict[str, Tensor]) -> list[str]:
    """The tensors with their shapes; where they are many, how many there are under each part of the network."""
    if len(tensors) <= MOST_LINES:
        return aligned([(shown(name), str(tuple(tensor.shape))) for name, tensor in tensors.items()])
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        parts.setdefault(".".join(name.split(".")[:2]) + "." * (name.count(".") > 1), []).append(tensor)
    rows = [
        (
            shown(part),
            str(tuple(held[0].shape)) if len(held) == 1 else f"{len(held)} tensors, from {tuple(held[0].shape)}",
        )
        for part, held in parts.items()
    ]
    more = [(f"and {len(rows) - MOST_LINES} more parts", "")] if len(rows) > MOST_LINES else []
    return aligned(rows[:MOST_LINES] + more)


def literal(value: Any, indent: str = "") -> str:
    """A plain value as Python spells it, a dictionary with a line for each entry."""
    if not isinstance(value, dict) or not value:
        return ascii(value)
    inner = indent + "    "
    entries = "".join(f"{inner}{key!a}: {literal(item, inner)},\n" for key, item in value.items())
    return f"{{\n{entries}{indent}}}"
