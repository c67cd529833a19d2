"""What is random in a micro-batch, made while the one before it is computed."""

from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from ..design.points import Make
from .device import current

SLOWED = {"cpu"}
"""Devices that compute on the cores that draws are made on, from which a thread would take what it saves."""


class Ahead:
    """What is made of each draw, made once, and kept on the device while this micro-batch or the next one has the draw.

    What is asked for of the draws at hand a thread makes of those to come too, in memory from which a device copies
    while it computes. What fails there fails where it is asked for; asked for again, it is made again, there.

    Args:
        device: Of the model.
        alone: Roles left out of the thread, since making them may run a network, beside the one that is measured.
    """

    def __init__(self, device: torch.device, alone: Collection[str] = ()):
        self._device, self._alone = device, alone
        self._pool = None if device.type in SLOWED else ThreadPoolExecutor(1)
        self._rows: dict[tuple[str, int], Tensor | Future[Tensor]] = {}
        self._now: Collection[int] = ()
        self._coming: Collection[int] = ()

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self.turn((), ())
        if self._pool is not None:
            self._pool.shutdown()

    def turn(self, now: Collection[int], coming: Collection[int]) -> None:
        """To another micro-batch: its draws, and those of the next one; what has been made of any other is dropped."""
        self._now, self._coming = now, coming
        for key in [key for key in self._rows if key[1] not in {*now, *coming}]:
            row = self._rows.pop(key)
            if isinstance(row, Future):
                row.cancel()

    def __call__(self, make: Make, role: str, draws: Sequence[int], device: torch.device) -> Tensor:
        """What is made of draws, one row each, on the device."""
        rows = torch.stack([self._row(make, role, i, device) for i in draws])
        if self._pool is not None and role not in self._alone:
            for i in self._coming:
                if (role, i) not in self._rows:
                    self._rows[role, i] = self._pool.submit(partial(self._made, make, role, i))
        return rows

    def _made(self, make: Make, role: str, i: int) -> Tensor:
        with current(self._device):  # pinned memory belongs to a thread's own current device
            return make(role, i).pin_memory() if self._device.type == "cuda" else make(role, i)

    def _row(self, make: Make, role: str, i: int, device: torch.device) -> Tensor:
        row = self._rows.pop((role, i), None)
        if isinstance(row, Future):
            row = row.result()
        row = (make(role, i) if row is None else row).to(device, non_blocking=True)
        if i in self._now:
            self._rows[role, i] = row
        return row
