"""Libraries imported without what they load for others, and without a pause, in a process that is the package's own.

As diffusers is imported it loads torch's compiler, only to mark what a compiler is to leave alone, and scipy.stats for
a few schedulers: together longer than torch itself takes. Both are there when they are used. Marks that were not set
stay so, wherefore only a command imports like this, and none that compiles.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any, TypeVar

COMPILER, STATISTICS = "torch._dynamo", "scipy.stats"

_alone = False

Loaded = TypeVar("Loaded")


@contextmanager
def alone(so: bool = True) -> Iterator[None]:
    """While entered, nothing is compiled in this process, and nobody else's code expects it of libraries."""
    global _alone
    before, _alone = _alone, so
    frozen = gc.get_freeze_count()
    try:
        yield
    finally:
        _alone = before
        if so and not frozen:  # by somebody else, who may go on
            gc.unfreeze()


@contextmanager
def hastily() -> Iterator[None]:
    """While entered, a process of our own looks for no garbage, and later passes over what it has imported by then.

    Imports make half a million objects, nearly all to stay: looking through them is a sixth of the time to the start.
    """
    if not _alone:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def leanly(load: Callable[[], Loaded]) -> Loaded:
    """What `load` imports, in a process of our own as far as it can be had without; else as it always is."""
    if _alone:
        with suppress(Exception), hastily(), without():  # a library that needs them after all is imported with them
            return load()
    return load()


@contextmanager
def without() -> Iterator[None]:
    """While entered, whoever imports the compiler is told that there is none, and scipy.stats is an empty module."""
    import torch

    def disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
        return torch._disable_dynamo(fn, recursive)  # does the same once there is a compiler

    usual = torch.compiler.disable
    stand_ins: dict[str, Any] = {COMPILER: None, STATISTICS: ModuleType(STATISTICS)}
    stood_in = {name: stand_in for name, stand_in in stand_ins.items() if name not in sys.modules}
    sys.modules.update(stood_in)
    if COMPILER in stood_in:
        torch.compiler.disable = disable
    try:
        yield
    finally:
        torch.compiler.disable = usual
        for name in stood_in:
            del sys.modules[name]
