"""A forward-mode pass, recorded once and replayed for other tangents.

The tangent of f at x is linear: every operation that a forward-mode pass applies to tangents is a linear map whose
other arguments depend on x alone. One pass under a dispatch mode therefore tells J as a straight-line program, and a
product J v is that program run on v, about the cost of f itself and nothing of its differentiation.

What is a tangent is told by memory, not by identity: a tensor is one if its storage is. Views, aliases and writes in
place are then followed wherever they happen. Constants are kept by reference, and copied if something writes to them
later. Operations are homogeneous, so an input without tangent is a symbolic zero: for each set of inputs that move,
the program is cut down to the operations that they reach.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from lipdiag.linalg.forward_mode import push_forward

aten = torch.ops.aten


class Unrecordable(RuntimeError):
    """Something that the tape cannot replay."""


@dataclass(frozen=True, eq=False, slots=True)
class Slot:
    """The place of a tangent on the tape, with the geometry it always has."""

    index: int
    storage: int
    dtype: torch.dtype
    device: torch.device
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def zeros(self) -> Tensor:
        return torch.zeros((), dtype=self.dtype, device=self.device).expand(self.size)


class Step(NamedTuple):
    """One operation: slots stand in its arguments where tangents do."""

    function: Callable[..., Any]
    args: tuple
    kwargs: dict
    reads: tuple[Slot, ...]
    outputs: tuple[Slot | None, ...]
    writes: frozenset[int]  # storages


def leaves(arguments: Sequence) -> list:
    """Arguments of an operation with its lists of tensors, which are at most one level deep, opened."""
    out: list = []
    for a in arguments:
        out.extend(a) if isinstance(a, list | tuple) else out.append(a)
    return out


def swap(argument, change):
    """An argument of an operation with `change` applied to each of its leaves."""
    if isinstance(argument, list | tuple):
        return [change(a) for a in argument]
    return change(argument)


class Recorder(TorchDispatchMode):
    """Records every operation that reads a tangent."""

    def __init__(self, seeds: Sequence[Tensor]):
        super().__init__()
        self.steps: list[Step] = []
        self.slots: dict[tuple, Slot] = {}
        self.roots: dict[int, Slot] = {}  # storage -> a slot that lives on it
        self.held: list[StorageWeakRef] = []  # keep the addresses of storages from being used again, not their memory
        self.borrowed: dict[int, list[int]] = {}  # storage -> steps that keep a constant on it
        self.written: set[int] = set()
        self.seeds = tuple(self.place(s) for s in seeds)

    def place(self, tangent: Tensor) -> Slot:
        """The slot of a tangent, a new one if need be."""
        if tangent.layout != torch.strided or tangent.is_conj() or tangent.is_neg():
            raise Unrecordable(f"A tangent of layout {tangent.layout} cannot be recorded.")
        storage = tangent.untyped_storage()._cdata
        geometry = tangent.storage_offset(), tuple(tangent.size()), tangent.stride()
        key = storage, tangent.dtype, *geometry
        slot = self.slots.get(key)
        if slot is None:
            slot = Slot(len(self.slots), storage, tangent.dtype, tangent.device, *geometry)
            self.slots[key] = slot
            if storage not in self.roots:
                self.roots[storage] = slot
                self.held.append(StorageWeakRef(tangent.untyped_storage()))
        return slot

    def find(self, x) -> Slot | None:
        """The slot of a tensor if it is a tangent."""
        if not isinstance(x, Tensor) or x.layout != torch.strided:
            return None
        root = self.roots.get(x.untyped_storage()._cdata)
        if root is None:
            return None
        known = len(self.slots)
        slot = self.place(x)
        if slot.index == known:  # a view that was made before its memory became a tangent
            if slot.dtype != root.dtype:
                raise Unrecordable(f"A tangent of {root.dtype} is read as {slot.dtype}.")
            self.add(aten.as_strided.default, (root, slot.size, slot.stride, slot.offset), {}, (slot,))
        return slot

    def add(self, function, args, kwargs, outputs, writes=frozenset()):
        every = leaves(args) + leaves(list(kwargs.values()))
        reads = tuple(dict.fromkeys(a for a in every if isinstance(a, Slot)))
        for a in every:
            if isinstance(a, Tensor) and a.layout == torch.strided:
                self.borrowed.setdefault(a.untyped_storage()._cdata, []).append(len(self.steps))
        self.steps.append(Step(function, tuple(args), kwargs, reads, tuple(outputs), writes))

    def about_to_write(self, x: Tensor) -> None:
        """Gives the steps that keep a constant on x's memory a copy of their own."""
        storage = x.untyped_storage()._cdata
        for i in self.borrowed.pop(storage, ()):
            def own(a, storage=storage):
                shared = isinstance(a, Tensor) and a.layout == torch.strided and a.untyped_storage()._cdata == storage
                return a.clone() if shared else a

            step = self.steps[i]
            kwargs = {k: swap(a, own) for k, a in step.kwargs.items()}
            self.steps[i] = step._replace(args=tuple(swap(a, own) for a in step.args), kwargs=kwargs)

    def adopt(self, x: Tensor) -> Slot:
        """Makes a constant that a tangent is about to be written into a tangent, starting from what it holds."""
        if x.layout != torch.strided:
            raise Unrecordable(f"A tangent is written into a tensor of layout {x.layout}.")
        memory = torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage())
        root = self.place(memory)
        self.add(aten.clone.default, (memory.clone(),), {}, (root,))
        slot = self.find(x)
        assert slot is not None
        return slot

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        mutable = func._schema.is_mutable
        targets = []
        if mutable:
            for i, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    value = args[i] if i < len(args) else kwargs.get(argument.name)
                    targets.extend(a for a in leaves([value]) if isinstance(a, Tensor))
        tangents = {id(a): self.find(a) for a in leaves(args) + leaves(list(kwargs.values())) if isinstance(a, Tensor)}
        if all(slot is None for slot in tangents.values()):
            for x in targets:
                self.about_to_write(x)
            return func(*args, **kwargs)
        for x in targets:
            if tangents[id(x)] is None:
                self.about_to_write(x)
                tangents[id(x)] = self.adopt(x)

        def change(a):
            slot = tangents.get(id(a)) if isinstance(a, Tensor) else None
            return a if slot is None else slot

        inputs = tuple(swap(a, change) for a in args), {k: swap(a, change) for k, a in kwargs.items()}
        out = func(*args, **kwargs)
        results = leaves([out])
        if not any(isinstance(o, Tensor) for o in results):
            if isinstance(out, bool):  # questions about geometry, which is fixed
                return out
            raise Unrecordable(f"{func} turns a tangent into a {type(out).__name__}.")
        outputs = tuple(self.place(o) if isinstance(o, Tensor) else None for o in results)
        writes = frozenset(tangents[id(x)].storage for x in targets)
        self.written |= writes
        if not mutable and all(o is None or o in tangents.values() for o in outputs):
            return out  # an alias
        self.add(func, *inputs, outputs, writes)
        return out


def record(
    f: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> "tuple[Tensor, Tensor | None, Tape]":
    """f(primals), its derivative along the tangents, and the tape for other tangents."""
    tangents = [v.clone(memory_format=torch.contiguous_format) for v in tangents]
    primals = [p.detach().clone(memory_format=torch.contiguous_format) for p in primals]
    recorder = Recorder(tangents)
    with recorder:
        y, dy = push_forward(f, primals, tangents)
    return y, dy, Tape(recorder, None if dy is None else recorder.find(dy))


class Tape:
    """A recorded derivative, to be applied to other tangents."""

    def __init__(self, recorder: Recorder, output: Slot | None):
        self.steps = recorder.steps
        self.written = recorder.written
        self.seeds = recorder.seeds
        self.output = output
        self.programs: dict[tuple[bool, ...], Program] = {}

    def __call__(self, *tangents: Tensor | None) -> Tensor | None:
        """The derivative along the tangents, or None where they do not reach the output; None is a zero tangent."""
        if self.output is None:
            return None
        moving = tuple(v is not None for v in tangents)
        if moving not in self.programs:
            self.programs[moving] = Program(self.steps, self.written, self.seeds, self.output, moving)
        return self.programs[moving](tangents)


class Program:
    """The part of a tape between the inputs that move and the output, as fast as it can be run."""

    def __init__(self, steps, written, seeds, output, moving):
        self.output = output.index
        self.seeds = seeds
        live = {s.storage for s, m in zip(seeds, moving, strict=True) if m}
        forced: set[int] = set()
        while True:  # memory that a moving tangent is written into moves from its creation on
            alive = self.reach(steps, live | forced)
            late = {
                s.storage
                for step in steps
                if step.writes and any(r.storage in alive for r in step.reads)
                for s in step.reads
                if s.storage in step.writes
            } - live - forced
            if not late:
                break
            forced |= late
        self.reached = output.storage in alive
        steps = [cut(s, alive) for s in steps if self.runs(s, alive)] if self.reached else []
        steps = self.needed(steps, output, written)
        self.copy = tuple(s.storage in written or s.storage == output.storage for s in seeds)
        self.code = self.compiled(steps, output)
        self.size = 1 + max([s.index for s in seeds] + [o.index for s in steps for o in s.outputs if o], default=0)

    @staticmethod
    def reach(steps, alive):
        alive = set(alive)
        for step in steps:
            if any(s.storage in alive for s in step.reads):
                alive.update(o.storage for o in step.outputs if o is not None)
        return alive

    @staticmethod
    def runs(step, alive):
        return any(o is not None and o.storage in alive for o in step.outputs)

    @staticmethod
    def needed(steps, output, written):
        """Steps without those whose result is never read."""
        slots, storages, out = {output.index}, {output.storage}, []
        for step in reversed(steps):
            if any(o is not None and o.index in slots for o in step.outputs) or step.writes & storages:
                slots.update(s.index for s in step.reads)
                storages.update(s.storage for s in step.reads if s.storage in written)
                out.append(step)
        return out[::-1]

    @staticmethod
    def compiled(steps, output):
        last = {}
        for i, step in enumerate(steps):
            for s in (*step.reads, *(o for o in step.outputs if o is not None)):
                last[s.index] = i
        last[output.index] = math.inf
        code = []
        for i, step in enumerate(steps):
            here = {s.index for s in (*step.reads, *(o for o in step.outputs if o is not None))}
            outputs = tuple(None if o is None else o.index for o in step.outputs)
            code.append((step.function, step.args, step.kwargs, outputs, tuple(s for s in here if last[s] == i)))
        return code

    @torch.no_grad()
    def __call__(self, tangents):
        if not self.reached:
            return None
        values = [None] * self.size
        for slot, v, copy in zip(self.seeds, tangents, self.copy, strict=True):
            if v is not None:
                v = v.detach().to(slot.dtype).contiguous()
                values[slot.index] = v.clone() if copy else v

        def fill(a):
            return values[a.index] if isinstance(a, Slot) else a

        for function, args, kwargs, outputs, dead in self.code:
            out = function(*[swap(a, fill) for a in args], **{k: swap(a, fill) for k, a in kwargs.items()})
            for index, o in zip(outputs, leaves([out]), strict=True):
                if index is not None:
                    values[index] = o
            for index in dead:
                values[index] = None
        return values[self.output]


def cut(step, alive):
    """The step with zeros for the tangents that do not move."""
    def change(a):
        return a.zeros() if isinstance(a, Slot) and a.storage not in alive else a

    return step._replace(
        args=tuple(swap(a, change) for a in step.args),
        kwargs={k: swap(a, change) for k, a in step.kwargs.items()},
        reads=tuple(s for s in step.reads if s.storage in alive),
    )
