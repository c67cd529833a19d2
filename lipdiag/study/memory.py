"""How much memory a measurement takes, known from one pair before it starts, and how many pairs at once fit."""

import gc
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..diffusion.predictor import Predictor, RawOutput
from ..linalg.tape import leaves

MOST_UNITS = {"cuda": 16}
"""Units measured at once where they fit; elsewhere one fills the processor. At 3x32x32 these are 512 pairs, at which a
pair of a U-Net of 36 M parameters cost 8 % less than at 128 and 39 % less than at the 32 of one unit (on an H200)."""

SHARE = 0.8
"""The share of the free memory that is taken: the rest is for what kernels take for themselves, and for fragments."""

SPARED = (
    "memory does not suffice for one pair: attention's probabilities are computed again for each product",
    "memory does not suffice for one pair: activations are computed again for each product",
)
"""What is not kept where a pair does not fit, the cheapest first: products take a seventh longer then, or twice.
Fewer pairs at once come before either, as a pair of a network that fills a device takes as long alone."""


class Held(TorchDispatchMode):
    """While entered, counts the bytes of the tensors that operations made and that are still held.

    Attributes:
        now: Held at present.
        peak: The most held at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._storages: dict[int, weakref.ref] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # its wrapper would take as long as all of this
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {a.untyped_storage()._cdata for a in leaves((*args, *kwargs.values())) if isinstance(a, torch.Tensor)}
        out = func(*args, **kwargs)
        for made in (z.untyped_storage() for z in leaves([out]) if isinstance(z, torch.Tensor)):
            if made._cdata not in given and made._cdata not in self._storages:
                self._hold(made)
        self.peak = max(self.peak, self.now)
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def gone(_: Any) -> None:
            self.now -= size
            del self._storages[key]

        self.now += size
        self._storages[key] = weakref.ref(storage, gone)


class Need(NamedTuple):
    """Bytes that a measurement holds at its peak, besides the weights: some always, and some for each pair at once."""

    always: int = 0
    pair: int = 0

    def of(self, pairs: int) -> int:
        return self.always + pairs * self.pair


UNKNOWN = Need()


def peak(work: Callable[[], object], device: torch.device) -> int:
    """Bytes held at the most while work is done, besides what was held before; where a device counts, by its count."""
    if device.type != "cuda":
        with Held() as held:
            work()
        return held.peak
    released()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return int(torch.cuda.max_memory_allocated(device) - before)


def need(measure: Callable[[int], object], device: torch.device) -> Need:
    """What measuring so many pairs takes, from doing it on one, and on two where kernels take something for themselves.

    Args:
        measure: Measures so many pairs.
        device: That of the model.
    """
    if device.type != "cuda":
        return Need(0, peak(lambda: measure(1), device))
    measure(1)  # which takes what a thread's libraries keep from then on, and no pair takes again
    one = peak(lambda: measure(1), device)
    pair = max(peak(lambda: measure(2), device) - one, 1)
    return Need(max(one - pair, 0), pair)


def free(device: torch.device) -> int | None:
    """Bytes that can still be had on a device, counting what torch keeps for itself; None where nobody knows."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    with suppress(OSError, StopIteration, ValueError), open("/proc/meminfo") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def at_once(unit: int, need: Need, device: torch.device) -> int:
    """Pairs in a micro-batch: whole units, as many as fill the device and fit, or a part of one.

    Args:
        unit: Pairs of a unit.
        need: Of the measurement; nothing is known where it is zero.
        device: That of the model.
    """
    room, most = free(device), MOST_UNITS.get(device.type, 1) * unit
    if not need.pair or room is None:
        return unit
    fits = int((SHARE * room - need.always) // need.pair)
    return min(most, fits // unit * unit) if fits >= unit else max(fits, 1)


def recompute(predictor: Predictor, on: bool = True) -> bool:
    """Have a network compute its activations again for every reverse product, in the place of keeping them; or no more.

    It does so by its own switch, which networks of diffusers and transformers have: torch's checkpoints, which give the
    same numbers to rounding.

    Returns:
        Whether it can, and did not do so before.
    """
    network = getattr(predictor.predictor if isinstance(predictor, RawOutput) else predictor, "network", None)
    if on and getattr(network, "is_gradient_checkpointing", False):
        return False
    switch = getattr(network, f"{'enable' if on else 'disable'}_gradient_checkpointing", None)
    switch = switch or getattr(network, f"gradient_checkpointing_{'enable' if on else 'disable'}", None)
    with suppress(ValueError, NotImplementedError):  # as classes say that have the switch and not the means
        if switch is not None:
            switch()
            return True
    return False


def released() -> None:
    """Give back what is no longer held, after memory ran out."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
