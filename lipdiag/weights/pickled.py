"""The object table of a .pt file: a pickle, read by a machine that knows what tensors are made of and nothing else.

Python's own machine can call anything, and torch's restricted one can be kept busy for ever: the hash of nested tuples
takes two steps for every one of them, and 60 of them are 180 bytes. This one makes dictionaries whose keys are texts
or small integers, lists, tuples, numbers, texts and tensors. Whatever it makes, it makes in a few steps an opcode, and
opcodes and tensors are counted.
"""

import codecs
import math
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import shown
from .refusal import CONVERT, refuse

MOST_OPCODES = 1_000_000
MOST_TENSORS = 100_000
MOST_DIMENSIONS = 64
LARGEST_KEY = 2**60  # integers up to here have hashes of their own; larger ones can all be made to have one
DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip
COMPLEX = {"torch ComplexFloatStorage": "complex64", "torch ComplexDoubleStorage": "complex128"}
# Objects that training scripts leave beside the weights. In their place stands a Bystander: none of their code runs.
BYSTANDERS = re.compile(r"argparse Namespace|(pytorch_lightning|lightning\.pytorch)\.callbacks\.[\w.]+ \w+")
ATOMS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING",
    "SHORT_BINSTRING",
}  # fmt: skip

codecs.lookup("raw_unicode_escape")  # pickletools needs it: nothing is imported while a stranger's file is read


class Bystander:
    """What stands in a file's dictionary where an object of a known, useless kind was.

    Args:
        facts: What the file tells of it.
    """

    def __init__(self) -> None:
        self.facts: dict[Any, Any] = {}


class Storage(NamedTuple):
    """Bytes that tensors lie in, and the type that the file gives them."""

    bytes: Tensor
    dtype: torch.dtype


class Machine:
    """The object that a pickle describes.

    Args:
        data: The pickle.
        storage: The bytes of a storage by its key, asked for once a key.
        path: What errors call the file.
    """

    def __init__(self, data: bytes, storage: Callable[[str], Tensor], path: str | Path) -> None:
        self.data, self.storage, self.path = data, storage, path
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Tensor] = {}
        self.tensors = 0

    def run(self) -> Any:
        """The object.

        Raises:
            CheckpointError: If the pickle is damaged, is too long, or asks for anything but tensors.
        """
        count = 0
        try:
            for opcode, argument, _ in pickletools.genops(self.data):
                count += 1
                if count > MOST_OPCODES:
                    refuse(self.path, f"has more than {MOST_OPCODES} entries in its object table: {CONVERT}")
                if opcode.name in LITERALS:
                    if type(argument) is str and not argument.isascii():
                        argument.encode()  # half of a pair of surrogates is no text
                    self.stack.append(argument)
                elif opcode.name in ATOMS:
                    self.stack.append(ATOMS[opcode.name])
                elif opcode.name in STEPS:
                    STEPS[opcode.name](self, argument)
                elif opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
                    refuse(
                        self.path, f"contains Python objects by the opcode {opcode.name}, not only tensors: {CONVERT}"
                    )
                elif opcode.name not in ("PROTO", "STOP"):
                    refuse(self.path, f"has the opcode {opcode.name} in its object table, which torch does not read")
            (value,) = self.stack
        except (CheckpointError, OSError):
            raise
        except Exception as error:  # a mangled stream leads pickletools, and the steps, to whatever it likes
            refuse(self.path, f"has a damaged object table ({type(error).__name__}: {shown(error)})", error)
        return value

    def wrong(self, what: str) -> NoReturn:
        """Refuse what no pickle of torch.save has."""
        refuse(self.path, f"cannot be loaded: its object table has {what}, which torch.save does not write")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """The items since the last mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def frame(self, size: int) -> None:
        if size > len(self.data):
            self.wrong(f"a frame of {size} bytes")

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def last(self, count: int) -> list[Any]:
        """So many items off the top, in the order in which they came."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            self.wrong(f"items of a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def fill(self, items: list[Any]) -> None:
        """Give the dictionary on top its items; no key is hashed before it is known to be a text or an integer."""
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            self.wrong(f"keys of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is str or (type(key) is int and abs(key) <= LARGEST_KEY):
                target[key] = value
            elif key is not Bystander and type(key) is not Bystander:
                refuse(self.path, f"has a key of type {shown(type(key).__name__)} where texts are expected")

    def known(self, name: str) -> None:
        """The one of the few names that a pickle may ask for."""
        if name in NAMES:
            self.stack.append(NAMES[name])
        elif BYSTANDERS.fullmatch(name):
            self.stack.append(Bystander)
        else:
            if "torch_utils.persistence" in name:
                words = "is an EDM pickle, which holds source code: convert it by `lipdiag convert --unsafe-pickle`"
                refuse(self.path, words)
            if name in COMPLEX or isinstance(vars(torch).get(name.removeprefix("torch ")), torch.dtype):
                refuse(self.path, unsupported(COMPLEX.get(name, name.removeprefix("torch "))))
            name = shown(name.replace(" ", "."))
            refuse(self.path, f"contains the Python object {name!r}, not only tensors: {CONVERT}")

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple:
            self.wrong("a call without arguments")
        if function is Bystander:
            self.stack.append(Bystander())
        elif function is dict and not arguments:
            self.stack.append({})
        elif function is Tensor:
            self.stack.append(self.tensor(*arguments))
        elif function is torch.nn.Parameter and arguments and type(arguments[0]) is Tensor:
            self.stack.append(arguments[0])
        else:
            self.wrong("a call of what is no tensor")

    def build(self, _: Any) -> None:
        """Attributes of an object: of a bystander they are kept, of a dictionary, as of every state dict, dropped."""
        state = self.stack.pop()
        if type(self.stack[-1]) is Bystander and type(state) is dict:
            self.stack[-1].facts = state

    def persistent(self, _: Any) -> None:
        """A storage, by ("storage", type, key, device, count)."""
        told = self.stack.pop()
        if type(told) is not tuple or [type(part) for part in told] != [str, torch.dtype, str, str, int]:
            self.wrong("a storage that is not named as one")
        _, dtype, key, _, count = told
        if key not in self.storages:
            self.storages[key] = self.storage(key)
        if self.storages[key].numel() // dtype.itemsize != count:
            refuse(
                self.path,
                f"has {self.storages[key].numel()} bytes in its record data/{shown(key)} for {count} numbers of "
                f"{dtype}, which torch.save does not write: copy it again",
            )
        self.stack.append(Storage(self.storages[key], dtype))

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> Tensor:
        """A view of a storage, once it is known to lie inside."""
        if type(storage) is not Storage or type(size) is not tuple or type(stride) is not tuple or others[2:] != ():
            self.wrong("a tensor that is not described as one")
        if len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
            self.wrong(f"a tensor of {len(size)} dimensions with {len(stride)} strides")
        if not all(type(number) is int and 0 <= number < 2**62 for number in (offset, *size, *stride)):
            self.wrong("a tensor whose shape is not of whole numbers")
        self.tensors += 1
        if self.tensors > MOST_TENSORS:
            refuse(self.path, f"has more than {MOST_TENSORS} tensors")
        end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if math.prod(size) else 0
        if end * storage.dtype.itemsize > storage.bytes.numel():
            refuse(self.path, f"contains a tensor of shape {shown(size)} with less memory behind it than that")
        return torch.empty(0, dtype=storage.dtype, device="cpu").set_(
            storage.bytes.untyped_storage(), offset, size, stride
        )


def unsupported(dtype: str) -> str:
    """The sentence on weights of a type that is not measured."""
    if "complex" in dtype:
        return (
            f"holds weights of the type {dtype}, and lipdiag measures real ones: save them by torch.view_as_real, and "
            "let the network join them by torch.view_as_complex"
        )
    if "float8" in dtype or "float4" in dtype:
        return (
            f"holds weights of the type {dtype}, which are rounded ones, often with scales beside them: give the "
            "checkpoint that they were rounded from, or save them widened to float32"
        )
    return f"holds tensors of the type {dtype}, which is not supported: save them in another type, or leave them out"


NAMES: dict[str, Any] = {
    "collections OrderedDict": dict,
    "torch._utils _rebuild_tensor_v2": Tensor,
    "torch._utils _rebuild_tensor_v3": torch.dtype,  # of types without a storage, which are refused by their own name
    "torch._utils _rebuild_parameter": torch.nn.Parameter,
    "torch.storage UntypedStorage": torch.uint8,
} | {f"torch {name}Storage": dtype for name, dtype in DTYPES.items()}
STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine.mark,
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.marked())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.last(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.last(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.last(3))),
    "APPEND": lambda machine, _: machine.extend(machine.last(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.marked()),
    "SETITEM": lambda machine, _: machine.fill(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.fill(machine.marked()),
    "FRAME": Machine.frame,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "GLOBAL": Machine.known,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.call,
    "BUILD": Machine.build,
    "BINPERSID": Machine.persistent,
}
