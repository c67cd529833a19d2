"""A recorded derivative, made short: copies go, elementwise derivatives become factors, and runs of factors become one.
Attention keeps its probabilities.

Memory that something writes to, or that is read by its address, is left as it was recorded.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import attention
from .forward_mode import push_forward
from .program import SUMS, Program
from .tape import Recorder, RecordingError, Slot, Step, needed

aten = torch.ops.aten

COPIES = {aten.clone.default, aten._to_copy.default, aten.alias.default, aten.detach.default, aten.expand.default}
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
        self.output = None if derivative is None else recorder.find(derivative)
        self.programs: dict[tuple[bool, ...], Program] = {}
        if self.output is None:
            return
        steps = with_layouts(recorder.steps)
        self.written = frozenset(storage for s in steps for storage in s.writes)
        self.fixed = self.written | addressed(steps)
        steps = needed(steps, self.output, self.written)
        steps, self.output, self.shared = without_copies(steps, self.output, self.fixed)
        steps = merged([as_factor(s) for s in steps], self.output, self.fixed)
        self.steps = with_probabilities(steps, attention.KEPT.get() * (*self.seeds[0].size, 1)[0])

    def program(self, moving: tuple[bool, ...]) -> Program | None:
        """What computes the derivative along the inputs that move, if it is not zero."""
        if self.output is None:
            return None
        if moving not in self.programs:
            self.programs[moving] = Program(
                self.steps, self.seeds, moving, self.output, self.written, self.fixed, self.shared
            )
        return None if self.programs[moving].zero else self.programs[moving]

    def __call__(self, *tangents: Tensor | None) -> Tensor | None:
        """The derivative along the tangents; a tangent of None is zero, and so is a derivative of None."""
        program = self.program(tuple(v is not None for v in tangents))
        return None if program is None else program(tangents)


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
    """The steps with copies into fresh memory, by which torch gives tangents their values' strides, as one each."""
    fresh = {
        s.outputs[0]: i for i, s in enumerate(steps) if s.function is aten._new_zeros_with_same_feature_meta.default
    }
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


def without_copies(
    steps: Sequence[Step], output: Slot, fixed: frozenset[int]
) -> tuple[list[Step], Slot, dict[int, int]]:
    """The steps without those that hand on a tangent as it is, and whose memory a copy's views then lie in."""
    same: dict[Slot, Slot] = {}
    shared: dict[int, int] = {}
    kept = []
    for step in steps:
        step = step.replaced(lambda a: same.get(a, a) if isinstance(a, Slot) else a)
        source, target = copied(step), step.outputs[0]
        if source and target and source.alike(target) and not fixed & {source.storage, target.storage}:
            same[target] = source
            shared[target.storage] = shared.get(source.storage, source.storage)
        else:
            kept.append(step)
    return kept, same.get(output, output), shared


def copied(step: Step) -> Slot | None:
    """The tangent that a step copies, if that is all it does."""
    if step.function in SUMS and isinstance(step.args[0], Slot) and not isinstance(step.args[1], Slot):
        constant = step.args[1]
        if torch.count_nonzero(constant) if isinstance(constant, Tensor) else constant:
            raise RecordingError("The derivative is not homogeneous: a constant is added to a tangent.")
    elif step.function not in COPIES:
        return None
    return step.args[0] if isinstance(step.args[0], Slot) else None


def as_factor(step: Step) -> Step:
    """An elementwise derivative as a product with a constant; other steps as they are."""
    args, target = step.args, step.outputs[0]
    if target is None or len(step.reads) != 1:
        return step
    if step.function is aten.mul.Tensor and isinstance(args[1], Slot):
        args = args[::-1]
    slot, factor = args[0], None
    if not isinstance(slot, Slot) or slot.size != target.size:
        return step
    if step.function in (aten.mul.Tensor, aten.mul.Scalar):
        factor = args[1]
    elif step.function is aten.div.Tensor:
        factor = torch.ones((), dtype=slot.dtype, device=slot.device) / args[1]
    elif step.function is aten.neg.default:
        factor = -1
    elif step.function in ELEMENTWISE:
        ones = torch.empty_strided(target.size, target.stride, dtype=slot.dtype, device=slot.device).fill_(1)
        factor = step.function(ones, *args[1:], **step.kwargs)
    if isinstance(factor, Tensor):
        factor = factor.to(slot.dtype) if factor.ndim == 0 else factor if factor.dtype == slot.dtype else None
    return step if factor is None or not lies(slot, factor, target) else product(step, slot, factor)


def lies(slot: Slot, factor, target: Slot) -> bool:
    """Whether a slot times a factor lies in memory as the target does."""
    if not isinstance(factor, Tensor) or slot.alike(target):
        return slot.alike(target)
    same = (factor.shape, factor.stride(), factor.dtype) == (slot.size, target.stride, target.dtype)
    return same and factor.is_contiguous() and list(slot.stride) == sorted(slot.stride, reverse=True)


def with_probabilities(steps: Sequence[Step], room: int) -> list[Step]:
    """The steps with the probabilities of attention as constants, as long as there is room for so many numbers."""
    kept = []
    for step in steps:
        if step.function is torch.ops.lipdiag.attention_tangent.default:
            q, k, v, mask, causal, scale, _ = step.args[3:]
            size = math.prod(attention.shared(q, k, v)) * q.shape[-2] * k.shape[-2]
            if size <= room:
                room -= size
                p = attention.probabilities(q, k, v, mask, causal, scale)
                step = Step(step.function, (*step.args, p), {}, step.outputs)
        kept.append(step)
    return kept


def product(step: Step, slot: Slot, factor) -> Step:
    """A slot times a factor that broadcasts to it, in place of the given step."""
    return Step(aten.mul.Tensor, (slot, factor), {}, step.outputs)


def merged(steps: Sequence[Step], output: Slot, fixed: frozenset[int]) -> list[Step]:
    """The steps with each run of factors made one."""
    uses = Counter(s for step in steps for s in step.reads)
    uses[output] += 1
    kept: dict[int, Step] = {}
    maker: dict[Slot, int] = {}  # the products that make a slot like the one they read
    for i, step in enumerate(steps):
        if step.function is aten.mul.Tensor and len(step.reads) == 1 and isinstance(step.args[0], Slot):
            slot, factor = step.args
            target = step.outputs[0]
            if target and lies(slot, factor, target):
                before = kept.get(maker.get(slot, -1))
                if before and uses[slot] == 1 and not fixed & {slot.storage, before.args[0].storage}:
                    del kept[maker[slot]]
                    step = product(step, before.args[0], before.args[1] * factor)
                maker[target] = i
        kept[i] = step
    return list(kept.values())
