"""Weights that are numbers of half precision, kept so in memory and widened to float32 where they are used.

A checkpoint in bfloat16 or float16 is measured as the float32 network that it stands for, which takes twice its memory.
Widening is exact and cheap next to a product, so that it may as well be done for each product anew, and dropped after
it: forward passes, recorded products and the graphs of reverse ones keep a reference to the narrow weight alone, and
give the same bits.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

aten = torch.ops.aten

LEAST = 2**16
"""Numbers that a weight must have: Python's part in widening costs more time than a smaller one does memory."""

FEW = 1024
"""Numbers that are looked at first, to find out quickly that a weight is no narrow one."""

VIEWS = {
    aten.detach.default,
    aten.alias.default,
    aten.t.default,
    aten.transpose.int,
    aten.permute.default,
    aten.view.default,
}
"""What changes no number: a view of a narrow weight is another narrow one, which a graph may keep in its place."""


class HalfPrecision(Tensor):
    """A float32 tensor to whoever looks at it, of which numbers in half precision lie in memory.

    Attributes:
        numbers: In half precision.
    """

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, half: Tensor) -> "HalfPrecision":
        made = Tensor._make_wrapper_subclass(
            cls,
            half.size(),
            strides=half.stride(),
            storage_offset=half.storage_offset(),
            dtype=torch.float32,
            device=half.device,
            storage_size=0,
        )
        made.numbers = half
        return made

    @property
    def data(self) -> Tensor:
        """The tensor without history; a module that is moved to a device puts here what lies there."""
        return Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, moved: Tensor) -> None:
        Tensor.data.__set__(self, moved)  # type: ignore[attr-defined]
        self.numbers = moved.numbers  # type: ignore[attr-defined]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
        kwargs = kwargs or {}
        if func in VIEWS:
            return cls(func(args[0].numbers, *args[1:], **kwargs))
        if func is aten._to_copy.default and kwargs.get("dtype", torch.float32) == torch.float32:  # another device
            return cls(func(args[0].numbers, **(kwargs | {"dtype": args[0].numbers.dtype})))
        args, kwargs = tree_map(widened, (args, kwargs))
        return func(*args, **kwargs)

    def __deepcopy__(self, memo):
        return memo.setdefault(id(self), nn.Parameter(widened(self), self.requires_grad))


def widened(z):
    """The float32 numbers of a narrow tensor; anything else as it is."""
    return z.numbers.float() if isinstance(z, HalfPrecision) else z


def halved(weight: Tensor) -> Tensor | None:
    """A float32 weight in half precision, if each of its numbers is one."""
    if weight.dtype != torch.float32 or weight.numel() < LEAST:
        return None
    for dtype in (torch.bfloat16, torch.float16):
        for numbers in (weight.flatten()[:FEW], weight):
            half = numbers.to(dtype)
            if not torch.equal(half.float(), numbers):
                break
        else:
            return half
    return None


@contextmanager
def in_half_precision(module: nn.Module) -> Iterator[int]:
    """The module's large weights in half precision where that loses nothing; afterwards they are as they were.

    The module computes the same bits. It may be moved meanwhile.

    Yields:
        How many weights are kept so.
    """
    kept: dict[nn.Parameter, nn.Parameter] = {}  # what is shared stays shared
    homes = []
    with torch.no_grad():
        for part in module.modules():
            for name, weight in part._parameters.items():
                if type(weight) is not nn.Parameter:
                    continue
                if weight not in kept and (half := halved(weight)) is not None:
                    kept[weight] = nn.Parameter(HalfPrecision(half), weight.requires_grad)
                    weight.data = torch.empty(0)
                if weight in kept:
                    part._parameters[name] = kept[weight]
                    homes.append((part, name, weight))
    try:
        yield len(kept)
    finally:
        for part, name, weight in homes:
            with suppress(RuntimeError):  # nothing comes back from a device that failed
                weight.data = widened(part._parameters[name]).detach()
            part._parameters[name] = weight


def bytes_of(module: nn.Module) -> int:
    """Bytes of a module's weights and buffers, and those of the largest narrow one while it is widened."""
    every = [*module.parameters(), *module.buffers()]
    narrow = [z for z in every if isinstance(z, HalfPrecision)]
    held = sum(z.numbers.nbytes if isinstance(z, HalfPrecision) else z.nbytes for z in every)
    return held + max((z.nbytes for z in narrow), default=0)
