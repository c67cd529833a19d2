"""Float32 in float32: torch may round the factors of products and convolutions to fewer bits, wherever it was told to.

It is told in two ways. The older flags of backends and `torch.set_float32_matmul_precision` refuse to be read once the
newer `fp32_precision` says something else. That one is a tree: what is not set for an operation is that of its backend,
and what is not set for a backend the generic one; a read gives what holds, not where it was set.

All of it holds for the process. So it is set by the first thread that needs it and undone by the last one; a thread in
`tensor_cores` rounds the products of every other, which therefore belongs in a process of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import update_wrapper
from threading import Lock

import torch

# By torch's inner functions: its attribute for oneDNN as a whole writes the generic precision.
_read, _write = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter

Place = tuple[str, str]
GENERIC: Place = ("generic", "all")
BACKENDS: tuple[Place, ...] = ("cuda", "all"), ("mkldnn", "all")
PRODUCTS: tuple[Place, ...] = ("cuda", "matmul"), ("mkldnn", "matmul")
OTHERS: tuple[Place, ...] = ("cuda", "conv"), ("cuda", "rnn"), ("mkldnn", "conv"), ("mkldnn", "rnn")


class Held:
    """A state of the process, while anybody wants it: made by the first thread that does, undone by the last.

    Args:
        state: Makes it when it is entered, and undoes it when it is left.
    """

    def __init__(self, state: Callable[[], AbstractContextManager[object]]):
        self.state, self.lock, self.wanted = state, Lock(), 0
        update_wrapper(self, state)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if not self.wanted:
                self.made = self.state()
                self.made.__enter__()
            self.wanted += 1
        try:
            yield
        finally:
            with self.lock:
                self.wanted -= 1
                if not self.wanted:
                    self.made.__exit__(None, None, None)


@Held
@contextmanager
def full_precision() -> Iterator[None]:
    """No rounding below float32, on graphics processors (TF32) or others (bfloat16); undone afterwards.

    Nor the fused layers that torch's transformers have without gradients, whose gelu is another function there. But
    fused attention takes a product as three of TF32 on cards from Ampere on, whatever it is told, which is off by some
    1e-6.

    What was not set for a part stays so, and will follow what is set for the whole. Inside, torch may refuse to read an
    older flag, as it does for whoever uses the newer ones. May be nested, at no cost.
    """
    before = {GENERIC: _read(*GENERIC)} | {place: _taken(place) for place in (*BACKENDS, *PRODUCTS, *OTHERS)}
    older = torch.get_float32_matmul_precision()  # contradicted by nothing now, so that torch tells it
    if older != "highest":
        torch.set_float32_matmul_precision("highest")
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        if older != "highest":
            torch.set_float32_matmul_precision(older)
        for place, precision in before.items():
            if precision != "none" or place not in OTHERS:  # which convolutions had by default cannot be set
                _write(*place, precision)


@Held
@contextmanager
def steady() -> Iterator[None]:
    """Convolutions of a card by kernels that give the same bits every time, not by those that win a race; undone.

    It does not reach the backward pass of fused attention, nor of the other operations that have no such kernel or have
    one under `torch.use_deterministic_algorithms` alone.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


@contextmanager
def tensor_cores() -> Iterator[None]:
    """Inside `full_precision`, products and convolutions on graphics processors with factors of 10 bits (TF32)."""
    with full_precision():
        _write("cuda", "all", "tf32")
        own = [place for place in (PRODUCTS[0], OTHERS[0]) if _read(*place) != "tf32"]
        for place in own:
            _write(*place, "tf32")
        try:
            yield
        finally:
            for place in own:
                _write(*place, "ieee")
            _write("cuda", "all", "none")


def _taken(place: Place) -> str:
    """What is set at a place itself, "none" where it follows its parents; from here on it follows, or is ieee."""
    seen = set()
    for generic in ("tf32", "ieee"):
        _write(*GENERIC, generic)
        seen.add(_read(*place))
    precision = seen.pop() if len(seen) == 1 else "none"
    if place in BACKENDS:
        _write(*place, "none")
    elif precision != "none":
        _write(*place, "ieee")
    return precision
