"""A forward-mode pass, recorded.

The derivative of f at x is linear: every operation that a forward-mode pass applies to tangents is a linear map whose
other arguments depend on x alone. One pass under a dispatch mode therefore tells J as a straight-line program, and a
product J v is that program run on v: about the cost of f itself, and nothing of its differentiation.

What is a tangent is told by memory, not by identity: a tensor is one if its storage is. Views, aliases and writes in
place are then followed wherever they happen. Constants are kept by reference, and copied if something is about to write
to them. Every operation is homogeneous, so an input that does not move is a symbolic zero; program.py makes use of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# Nothing to record: questions about geometry, and tensors that are where and what their argument is.
SAME_MEMORY = {
    aten.alias.default,
    aten.detach.default,
    aten.is_same_size.default,
    aten._has_same_storage_numel.default,
}


SEQUENCES = list, tuple  # once, as `list | tuple` would be made anew in each call


class RecordingError(RuntimeError):
    """Something that a tape cannot replay."""


@dataclass(frozen=True, eq=False, slots=True)
class Slot:
    """The place of a tangent on the tape, with the geometry that it always has."""

    index: int
    storage: int
    dtype: torch.dtype
    device: torch.device
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def alike(self, other: "Slot") -> bool:
        """Whether the two lie in memory in the same way."""
        return (self.dtype, self.device, self.size, self.stride) == (
            other.dtype,
            other.device,
            other.size,
            other.stride,
        )


@dataclass(eq=False)  # and not frozen, by which it would take thrice as long to make
class Step:
    """One operation: slots stand in its arguments where tangents do."""

    function: Callable[..., Any]
    args: tuple
    kwargs: dict
    outputs: tuple[Slot | None, ...]
    writes: frozenset[int] = frozenset()  # storages
    reads: tuple[Slot, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.reads = tuple(dict.fromkeys(a for a in leaves((*self.args, *self.kwargs.values())) if type(a) is Slot))

    def replaced(self, change: Callable[[Any], Any]) -> "Step":
        """The step with `change` applied to each argument, those in lists too."""
        kwargs = {k: swap(a, change) for k, a in self.kwargs.items()}
        return Step(self.function, tuple(swap(a, change) for a in self.args), kwargs, self.outputs, self.writes)


def leaves(arguments: Sequence) -> list:
    """Arguments of an operation with lists opened, which are at most one level deep."""
    return [b for a in arguments for b in (a if isinstance(a, SEQUENCES) else (a,))]


def swap(argument, change):
    """An argument of an operation with `change` applied to each of its leaves."""
    if isinstance(argument, SEQUENCES):
        return [change(a) for a in argument]
    return change(argument)


def memory(x) -> int | None:
    """The address of a tensor's storage, if it has one."""
    return x.untyped_storage()._cdata if isinstance(x, Tensor) and x.layout == torch.strided else None


class Recorder(TorchDispatchMode):
    """Keeps every operation that reads a tangent."""

    def __init__(self, seeds: Sequence[Tensor]):
        super().__init__()
        self.steps: list[Step] = []
        self.slots: dict[tuple, Slot] = {}
        self.roots: dict[int, Slot] = {}  # storage -> the first slot on it
        self.held: list[StorageWeakRef] = []  # so that no storage gets the address of one that died; holds no memory
        self.borrowed: dict[int, list[int]] = {}  # storage -> steps with a constant on it
        self.written: set[int] = set()  # storages of tangents that something writes to
        self.seeds = tuple(self.place(s) for s in seeds)

    def place(self, tangent: Tensor) -> Slot:
        """The slot of a tangent, a new one if need be."""
        storage = memory(tangent)
        if storage is None or tangent.is_conj() or tangent.is_neg():
            raise RecordingError(f"A tangent of layout {tangent.layout}, or conjugated lazily, cannot be recorded.")
        geometry = int(tangent.storage_offset()), tangent.size(), tangent.stride()
        key = storage, tangent.dtype, geometry
        slot = self.slots.get(key)
        if slot is None:
            offset, size, stride = geometry
            slot = Slot(len(self.slots), storage, tangent.dtype, tangent.device, offset, tuple(size), stride)
            self.slots[key] = slot
            if storage not in self.roots:
                self.roots[storage] = slot
                self.held.append(StorageWeakRef(tangent.untyped_storage()))
        return slot

    def find(self, x: Tensor) -> Slot | None:
        """The slot of x if it is a tangent."""
        storage = memory(x)
        root = None if storage is None else self.roots.get(storage)
        if root is None:
            return None
        known = len(self.slots)
        slot = self.place(x)
        if len(self.slots) > known:  # a view made out of sight, or before its memory became a tangent's
            if slot.dtype != root.dtype:
                raise RecordingError(f"A tangent of {root.dtype} is read as {slot.dtype}.")
            self.add(Step(aten.as_strided.default, (root, slot.size, slot.stride, slot.offset), {}, (slot,)))
        return slot

    def add(self, step: Step) -> None:
        for a in leaves((*step.args, *step.kwargs.values())):
            storage = memory(a)
            if storage is not None:
                self.borrowed.setdefault(storage, []).append(len(self.steps))
        self.steps.append(step)

    def save_from_write(self, x: Tensor) -> None:
        """Gives the steps that keep a constant on x's memory a copy of their own."""
        storage = memory(x)

        def own(a):
            return a.clone() if isinstance(a, Tensor) and memory(a) == storage else a

        for i in self.borrowed.pop(storage or 0, ()):
            self.steps[i] = self.steps[i].replaced(own)

    def adopt(self, x: Tensor) -> Slot:
        """Makes x, a constant that a tangent is about to be written to, a tangent that starts from what x holds."""
        whole = torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage())
        root = self.place(whole)
        self.add(Step(aten.clone.default, (whole.clone(),), {}, (root,)))
        slot = self.find(x)
        assert slot is not None
        return slot

    @classmethod
    def _should_skip_dynamo(cls):  # its wrapper would cost more than everything below
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in SAME_MEMORY:
            return func(*args, **kwargs)
        if func is aten._efficientzerotensor.default:  # has no memory, which kernels that are called from here read
            return torch.zeros((), **kwargs).expand(*args)
        found = [(x, self.find(x)) for x in leaves((*args, *kwargs.values())) if isinstance(x, Tensor)]
        tangents = {id(x): slot for x, slot in found if slot is not None}
        targets = written_arguments(func, args, kwargs) if func._schema.is_mutable else []
        for x in targets:
            if id(x) not in tangents:
                self.save_from_write(x)
                if tangents:
                    tangents[id(x)] = self.adopt(x)
        out = func(*args, **kwargs)
        if tangents:
            self.keep(func, args, kwargs, tangents, out, frozenset(tangents[id(x)].storage for x in targets))
        return out

    def keep(self, func, args, kwargs, tangents: dict[int, Slot], out, writes: frozenset[int]) -> None:
        """Adds what was just done to tangents."""
        results = leaves([out])
        outputs = tuple(self.place(o) if isinstance(o, Tensor) else None for o in results)
        if not any(outputs):
            if isinstance(out, bool):  # a question about geometry, which is fixed
                return
            raise RecordingError(f"{func} makes a {type(out).__name__} of a tangent.")
        reads = tangents.values()
        if writes or any(o is not None and o not in reads for o in outputs):  # else an alias

            def seen(a):
                return tangents.get(id(a), a)

            named = {k: swap(a, seen) for k, a in kwargs.items()} if kwargs else {}
            self.add(Step(func, tuple([swap(a, seen) for a in args]), named, outputs, writes))


def written_arguments(func, args, kwargs) -> list:
    """The arguments that an operation writes to."""
    out = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            out.append(args[i] if i < len(args) else kwargs.get(argument.name))
    return [x for x in leaves(out) if isinstance(x, Tensor)]


def needed(steps: Sequence[Step], output: Slot, written: frozenset[int]) -> list[Step]:
    """The steps whose results are read."""
    slots, storages, kept = {output}, {output.storage}, []
    for step in reversed(steps):
        if step.writes & storages or any(o in slots for o in step.outputs):
            slots.update(step.reads)
            storages.update(s.storage for s in step.reads if s.storage in written)
            kept.append(step)
    return kept[::-1]
