"""A derivative made ready to run, for inputs that move and others that do not.

Only the steps between those that move and the output stay; what else they read is zero. Each tangent is dropped after
its last use, and a sum or a factor is applied in place where its operand ends.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .tape import Slot, Step, leaves, needed, swap

aten = torch.ops.aten

SUMS = {aten.add.Tensor, aten.sub.Tensor}
IN_PLACE = {aten.mul.Tensor: aten.mul_.Tensor, aten.add.Tensor: aten.add_.Tensor}

# What is called, on what, into which slots, and which slots end there.
Line = tuple[Callable[..., Any], tuple, dict, tuple[Slot | None, ...], tuple[Slot, ...]]


class Program:
    """A straight-line program from tangents to the derivative along them.

    Args:
        steps: The whole derivative.
        seeds: The slots of its inputs.
        moving: Which of these move.
        output: The slot of the result.
        written: Storages that some step writes to.
        fixed: Storages whose tangents must stay where they were recorded.
        shared: For storages that were done away with, those that took their place.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        seeds: Sequence[Slot],
        moving: Sequence[bool],
        output: Slot,
        written: frozenset[int],
        fixed: frozenset[int],
        shared: dict[int, int],
    ):
        self.seeds = seeds
        self.output = output
        alive = reached(steps, {s.storage for s, m in zip(seeds, moving, strict=True) if m})
        self.zero = output.storage not in alive
        steps = needed([cut(s, alive, fixed) for s in steps if touched(s, alive)], output, written)
        places = Places(steps, (*seeds, output), shared)
        self.code = compiled(steps, places, output, keep=fixed | {places[s] for s in seeds})
        self.copy = tuple(s.storage in written or s.storage == places[output] for s in seeds)

    @torch.no_grad()
    def __call__(self, tangents: Sequence[Tensor | None]) -> Tensor:
        values = {}
        for slot, v, copy in zip(self.seeds, tangents, self.copy, strict=True):
            if v is not None:
                v = v.detach().contiguous()
                values[slot] = v.clone() if copy else v

        def fill(a):
            return values[a] if type(a) is Slot else a

        for function, args, kwargs, outputs, dead in self.code:
            out = function(*[swap(a, fill) for a in args], **{k: swap(a, fill) for k, a in kwargs.items()})
            for target, o in zip(outputs, leaves([out]), strict=True):
                if target is not None:
                    values[target] = o
            del out
            for slot in dead:
                values.pop(slot, None)
        return values[self.output]


def reached(steps: Sequence[Step], alive: set[int]) -> set[int]:
    """The storages that moving tangents reach.

    Memory that one is written to moves from its creation on, as the step that makes it must then run.
    """
    alive = set(alive)
    before = -1
    while len(alive) > before:
        before = len(alive)
        for step in steps:
            if any(s.storage in alive for s in step.reads):
                alive.update(o.storage for o in step.outputs if o is not None)
                alive.update(step.writes)
    return alive


def touched(step: Step, alive: set[int]) -> bool:
    """Whether a step makes a tangent that moves."""
    return any(o is not None and o.storage in alive for o in step.outputs)


def cut(step: Step, alive: set[int], fixed: frozenset[int]) -> Step:
    """The step with zeros for the tangents that do not move."""
    optional = step.function is torch.ops.lipdiag.attention_tangent.default

    def change(a):
        if not isinstance(a, Slot) or a.storage in alive:
            return a
        return None if optional else torch.zeros((), dtype=a.dtype, device=a.device).expand(a.size)

    terms, step = len(step.reads), step.replaced(change)
    target = step.outputs[0]
    if target and step.function in SUMS and terms == 2 and len(step.reads) == 1:
        a, b = step.args
        slot = a if isinstance(a, Slot) else b
        same = slot.alike(target) and not fixed & {slot.storage, target.storage}
        if same and (slot is a or (step.function is aten.add.Tensor and not step.kwargs)):
            return Step(aten.alias.default, (slot,), {}, step.outputs)
    return step


class Places:
    """Where each slot's memory really is, once copies are dropped and results written over their operands."""

    def __init__(self, steps: Sequence[Step], others: Sequence[Slot], shared: dict[int, int]):
        slots = {*others, *(s for step in steps for s in (*step.reads, *step.outputs) if s is not None)}
        self.moved = {s.storage: shared[s.storage] for s in slots if s.storage in shared}
        self.end: dict[int, float] = {}  # the last use of each

    def __getitem__(self, slot: Slot) -> int:
        place = slot.storage
        while place in self.moved:
            place = self.moved[place]
        return place

    def join(self, slot: Slot, host: Slot) -> None:
        """From here on the slot lies in the memory of its host."""
        place, other = self[host], self[slot]
        if place != other:
            self.moved[other] = place
            self.end[place] = max(self.end[place], self.end[other])


def compiled(steps: Sequence[Step], places: Places, output: Slot, keep: frozenset[int]) -> list[Line]:
    """The steps as they are to be run; memory in `keep` is not written to beyond what the steps themselves do."""
    last: dict[Slot, float] = {}
    for i, step in enumerate(steps):
        for s in (*step.reads, *step.outputs):
            if s is not None:
                last[s] = places.end[places[s]] = i
    last[output] = places.end[places[output]] = math.inf
    code = []
    for i, step in enumerate(steps):
        function, args, target = step.function, step.args, step.outputs[0]
        if target is not None and function is aten.alias.default:
            places.join(target, args[0])
        elif target is not None and function in IN_PLACE and places[target] not in keep:
            for a, b in (args, args[::-1]):
                if not isinstance(a, Slot) or not a.alike(target) or (a is not args[0] and step.kwargs):
                    continue
                apart = not isinstance(b, Slot) or places[b] != places[a]
                if apart and places.end[places[a]] == i and places[a] not in keep:
                    function, args = IN_PLACE[function], (a, b)
                    places.join(target, a)
                    break
        ended = tuple(s for s in dict.fromkeys((*step.reads, *step.outputs)) if s is not None and last[s] == i)
        code.append((function, args, step.kwargs, step.outputs, ended))
    return code
