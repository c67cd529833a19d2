"""A recorded derivative, applied to other tangents.

Once for a recording: copies are dropped, elementwise derivatives become factors, and runs of factors become one.
Once for each set of inputs that move: only the steps between these and the output stay, what else they read is zero,
each tangent is dropped after its last use, and sums and factors are applied in place where an operand ends.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lipdiag.linalg.forward_mode import push_forward
from lipdiag.linalg.tape import Recorder, Slot, Step, Unrecordable, leaves, swap

aten = torch.ops.aten

COPIES = {aten.clone.default, aten._to_copy.default, aten.alias.default, aten.detach.default, aten.expand.default}
SUMS = {aten.add.Tensor, aten.sub.Tensor}
IN_PLACE = {aten.mul.Tensor: aten.mul_.Tensor, aten.add.Tensor: aten.add_.Tensor}
# Elementwise, and linear in the first argument; the others depend on x alone.
ELEMENTWISE = {
    aten.silu_backward.default,
    aten.gelu_backward.default,
    aten.sigmoid_backward.default,
    aten.tanh_backward.default,
    aten.threshold_backward.default,
    aten.leaky_relu_backward.default,
    aten.elu_backward.default,
    aten.softplus_backward.default,
    aten.hardswish_backward.default,
    aten.hardsigmoid_backward.default,
    aten.hardtanh_backward.default,
    aten.mish_backward.default,
    aten.log_sigmoid_backward.default,
}


class Tape:
    """A derivative as steps from the slots of its inputs to that of its output."""

    def __init__(self, recorder: Recorder, derivative: Tensor | None):
        self.seeds = recorder.seeds
        self.steps: list[Step] = []
        self.output = None if derivative is None else recorder.find(derivative)
        steps = with_layouts(recorder.steps)
        self.written = frozenset().union(*(s.writes for s in steps))
        self.fixed = self.written | addressed(steps)
        if self.output is not None:
            steps = needed(steps, self.output, self.written)
            steps, self.output = without_copies(steps, self.output, self.fixed)
            self.steps = merged([as_factor(s) for s in steps], self.output, self.fixed)
        self.programs: dict[tuple[bool, ...], Program] = {}

    def __call__(self, *tangents: Tensor | None) -> Tensor | None:
        """The derivative along the tangents; a tangent of None is zero, and so is a derivative of None."""
        if self.output is None:
            return None
        moving = tuple(v is not None for v in tangents)
        if moving not in self.programs:
            self.programs[moving] = Program(self, moving)
        return self.programs[moving](tangents)


def record(
    f: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None, Tape]:
    """f(primals), its derivative along the tangents, and the tape for other tangents."""
    primals = [p.detach().clone(memory_format=torch.contiguous_format) for p in primals]
    tangents = [v.detach().clone(memory_format=torch.contiguous_format) for v in tangents]
    recorder = Recorder(tangents)
    with recorder:
        y, dy = push_forward(f, primals, tangents)
    with torch.no_grad():
        return y, dy, Tape(recorder, dy)


def with_layouts(steps: Sequence[Step]) -> list[Step]:
    """The steps with each copy into fresh memory, which is how torch gives a tangent the strides of its value, as one."""
    fresh = {s.outputs[0]: i for i, s in enumerate(steps) if s.function is aten._new_zeros_with_same_feature_meta.default}
    writes = Counter(storage for s in steps for storage in s.writes)
    seen: set[int] = set()
    kept: dict[int, Step] = {}
    for i, step in enumerate(steps):
        target, source = step.args[:2] if step.function is aten.copy_.default else (None, None)
        if target in fresh and isinstance(source, Slot) and writes[target.storage] == 1 and target.storage not in seen:
            del kept[fresh[target]]
            step = Step(laid_out, (source, target.size, target.stride), {}, (target,))
        seen.update(s.storage for s in step.reads)
        kept[i] = step
    return list(kept.values())


def laid_out(x: Tensor, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """A copy of x with the given strides."""
    return torch.empty_strided(size, stride, dtype=x.dtype, device=x.device).copy_(x)


def addressed(steps: Sequence[Step]) -> frozenset[int]:
    """The storages that are read by address, and so must stay as they were recorded."""
    return frozenset(s.storage for step in steps if step.function is aten.as_strided.default for s in step.reads)


def needed(steps: Sequence[Step], output: Slot, written: frozenset[int]) -> list[Step]:
    """The steps whose results are read."""
    slots, storages, kept = {output}, {output.storage}, []
    for step in reversed(steps):
        if step.writes & storages or any(o in slots for o in step.outputs):
            slots.update(step.reads)
            storages.update(s.storage for s in step.reads if s.storage in written)
            kept.append(step)
    return kept[::-1]


def without_copies(steps: Sequence[Step], output: Slot, fixed: frozenset[int]) -> tuple[list[Step], Slot]:
    """The steps without those that hand on a tangent as it is."""
    same: dict[Slot, Slot] = {}
    kept = []
    for step in steps:
        step = step.replaced(lambda a: same.get(a, a) if isinstance(a, Slot) else a)
        source, target = copied(step), step.outputs[0]
        if source and target and source.alike(target) and not fixed & {source.storage, target.storage}:
            same[target] = source
        else:
            kept.append(step)
    return kept, same.get(output, output)


def copied(step: Step) -> Slot | None:
    """The tangent that a step copies, if that is all it does."""
    if step.function in SUMS and len(step.reads) == 1 and isinstance(step.args[0], Slot):
        constant = step.args[1]
        if torch.count_nonzero(constant) if isinstance(constant, Tensor) else constant:
            raise Unrecordable("The derivative is not homogeneous: a constant is added to a tangent.")
    elif step.function not in COPIES:
        return None
    return step.args[0] if isinstance(step.args[0], Slot) else None


def as_factor(step: Step) -> Step:
    """An elementwise derivative as a product with a constant; other steps as they are."""
    (target, *others), args = step.outputs, step.args
    if others or target is None or len(step.reads) != 1:
        return step
    if step.function is aten.mul.Tensor and isinstance(args[1], Slot):
        return step._replace(args=(args[1], args[0]))
    slot = args[0]
    if not isinstance(slot, Slot) or not slot.alike(target):
        return step
    if step.function in ELEMENTWISE:
        ones = torch.empty_strided(slot.size, slot.stride, dtype=slot.dtype, device=slot.device).fill_(1)
        factor = step.function(ones, *args[1:], **step.kwargs)
    elif step.function is aten.div.Tensor and not isinstance(args[1], Slot):
        factor = 1 / args[1]
    elif step.function is aten.mul.Scalar:
        factor = args[1]
    elif step.function is aten.neg.default:
        factor = -1
    else:
        return step
    product = step._replace(function=aten.mul.Tensor, args=(slot, factor), kwargs={})
    return product if lies_alike(product) else step


def lies_alike(product: Step) -> bool:
    """Whether a product of a slot and a factor has the geometry of its output."""
    (slot, factor), target = product.args, product.outputs[0]
    like = torch.empty_strided(slot.size, slot.stride, dtype=slot.dtype, device="meta")
    result = like * (factor.to("meta") if isinstance(factor, Tensor) else factor)
    return (result.dtype, tuple(result.size()), result.stride()) == (target.dtype, target.size, target.stride)


def merged(steps: Sequence[Step], output: Slot, fixed: frozenset[int]) -> list[Step]:
    """The steps with each run of factors made one."""
    uses = Counter(s for step in steps for s in set(step.reads))
    uses[output] += 1
    kept: dict[int, Step] = {}
    maker: dict[Slot, int] = {}  # of products only
    for i, step in enumerate(steps):
        if step.function is aten.mul.Tensor and len(step.reads) == 1:
            slot, factor = step.args
            before = kept.get(maker.get(slot, -1))
            if before is not None and uses[slot] == 1 and slot.storage not in fixed:
                product = step._replace(args=(before.args[0], before.args[1] * factor))
                if lies_alike(product):
                    del kept[maker[slot]]
                    step = product
            maker[step.outputs[0]] = i
        kept[i] = step
    return list(kept.values())


class Program:
    """The part of a tape that lies between the inputs that move and the output."""

    def __init__(self, tape: Tape, moving: tuple[bool, ...]):
        self.seeds = tape.seeds
        self.output = tape.output
        alive = reached(tape.steps, {s.storage for s, m in zip(tape.seeds, moving, strict=True) if m})
        self.zero = tape.output.storage not in alive
        steps = [cut(s, alive, tape.fixed) for s in tape.steps if touched(s, alive)]
        self.code, home = compiled(needed(steps, tape.output, tape.written), tape)
        place = home[tape.output.storage]
        self.copy = tuple(s.storage in tape.written or s.storage == place for s in tape.seeds)

    @torch.no_grad()
    def __call__(self, tangents: Sequence[Tensor | None]) -> Tensor | None:
        if self.zero:
            return None
        values = {}
        for slot, v, copy in zip(self.seeds, tangents, self.copy, strict=True):
            if v is not None:
                v = v.detach().contiguous()
                values[slot] = v.clone() if copy else v

        def fill(a):
            return values[a] if type(a) is Slot else a

        for function, args, kwargs, outputs, dead in self.code:
            out = function(*[swap(a, fill) for a in args], **{k: swap(a, fill) for k, a in kwargs.items()})
            for slot, o in zip(outputs, leaves([out]), strict=True):
                if slot is not None:
                    values[slot] = o
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
    if step.function in SUMS and terms == 2 and len(step.reads) == 1:
        target, (a, b) = step.outputs[0], step.args
        slot = a if isinstance(a, Slot) else b
        same = slot.alike(target) and not fixed & {slot.storage, target.storage}
        if same and (slot is a or (step.function is aten.add.Tensor and not step.kwargs)):
            return step._replace(function=aten.alias.default, args=(slot,), kwargs={})
    return step


def compiled(steps: Sequence[Step], tape: Tape) -> tuple[list[tuple], dict[int, int]]:
    """What is called, on what, into which slots, and which slots end there; and the memory that storages share."""
    last: dict[Slot, float] = {}
    ends: dict[int, float] = {s.storage: -1 for s in (*tape.seeds, tape.output)}
    for i, step in enumerate(steps):
        for s in (*step.reads, *step.outputs):
            if s is not None:
                last[s] = ends[s.storage] = i
    last[tape.output] = ends[tape.output.storage] = math.inf
    home = {storage: storage for storage in ends}
    keep = tape.fixed | {s.storage for s in tape.seeds}
    code = []
    for i, step in enumerate(steps):
        function, args, target = step.function, step.args, step.outputs[0]
        if function is aten.alias.default:
            place = home[target.storage] = home[args[0].storage]
            ends[place] = max(ends[place], ends[target.storage])
        elif function in IN_PLACE and target.storage not in tape.fixed:
            for a, b in (args, args[::-1]):
                if not isinstance(a, Slot) or not a.alike(target) or (a is not args[0] and step.kwargs):
                    continue
                place = home[a.storage]
                apart = not isinstance(b, Slot) or home[b.storage] != place
                if apart and ends[place] == i and place not in keep:
                    function, args = IN_PLACE[function], (a, b)
                    home[target.storage], ends[place] = place, ends[target.storage]
                    break
        here = [s for s in dict.fromkeys((*step.reads, *step.outputs)) if s is not None and last[s] == i]
        code.append((function, args, step.kwargs, step.outputs, tuple(here)))
    return code, home
