"""What a step is trained on: samples, noise and times that follow from (seed, step), drawn while others are used.

Which samples a step takes, and at which times, is drawn on the processor, a few numbers a sample: it does not matter
then where the data lie. The noise is drawn where the step is computed, by that device's counter-based generator, begun
anew in every step: a training that is resumed on a device of the same kind sees what it would have seen.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..data.dataset import Array, Data, Folder
from ..diffusion.clock import Clock
from ..diffusion.continuous import along
from ..printing import plain
from ..study.device import current
from .manner import tell
from .recipe import Recipe

SMALLEST_TIME = 1e-5  # of continuous clocks: at t = 0 there is no noise to predict
AHEAD = 3  # batches that are drawn, each by a thread, while a step computes
SHARE = 0.25  # of a device's free memory, that data may take
TOGETHER = 2**24  # numbers of samples that are brought to a device at once


class Batch(NamedTuple):
    """What one step is trained on, where it is computed; its times are on the processor."""

    x0: Float[Tensor, "batch *event"]
    noise: Float[Tensor, "batch *event"]
    t: Float[Tensor, "batch"]
    labels: Int64[Tensor, "batch"] | None = None

    def pieces(self, count: int) -> list["Batch"]:
        """The batch in so many equal pieces."""
        parts = [[None] * count if values is None else values.chunk(count) for values in self]
        return [Batch(*piece) for piece in zip(*parts, strict=True)]


def seed(root: int, role: str, step: int) -> int:
    """A seed for one role in one step, so that no stream of random numbers runs through a training."""
    return int(np.random.SeedSequence([root, *role.encode(), step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def classes(recipe: Recipe) -> int:
    """How many classes the recipe's network is told; 0 if it is told none."""
    return recipe.network_config.get("num_class_embeds") or 0


def draw(
    recipe: Recipe,
    data: Data,
    clock: Clock,
    step: int,
    part: slice = slice(None),
    device: torch.device | str = "cpu",
) -> Batch:
    """The batch of one step, on the device; or the part of it asked for.

    Args:
        recipe: Of the training.
        data: Where they lie.
        clock: Without sharing.
        step: Counted from 0.
        part: Of the batch; the whole is drawn whatever it is.
        device: Where the noise is drawn, and how: two kinds of devices draw other noise.
    """
    key, device = seed(recipe.seed, "batch", step), torch.device(device)
    generator = torch.Generator().manual_seed(key)
    own = generator if device.type == "cpu" else torch.Generator(device).manual_seed(key)
    indices = torch.randint(len(data), (recipe.batch,), generator=generator, device="cpu")[part]
    noise = torch.randn((recipe.batch, *data.shape), generator=own, device=device)[part]
    uniform = torch.rand(recipe.batch, generator=generator, dtype=torch.float64, device="cpu")[part]
    mirrored = torch.rand(recipe.batch, generator=generator, device="cpu")[part] < 0.5 if recipe.flip else None
    if isinstance(data, Resident):
        x0 = data.take(indices)
    else:
        x0 = brought(torch.stack([data[index] for index in indices.tolist()]), device)
    if mirrored is not None:
        x0 = torch.where(along(brought(mirrored, device), x0), x0.flip(-1), x0)
    count = getattr(clock, "count", None)
    t = clock.time((uniform * count).floor()) if clock.discrete and count else uniform.clamp(min=SMALLEST_TIME)
    labels = None
    if classes(recipe) and data.labels is not None:
        labels = brought(torch.from_numpy(data.labels[indices.numpy()].astype(np.int64)), device)
    return Batch(x0, noise, t, labels)


def brought(values: Tensor, device: torch.device) -> Tensor:
    """What lies on the processor, on a device: through pinned memory, so that nobody waits for what it computes."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def drawn_ahead(drawing: Callable[[int], Batch], first: int, last: int, device: torch.device) -> Iterator[Batch]:
    """The batches of the steps from `first` to before `last` in turn, each drawn while others are trained on."""

    def drawn(step: int) -> Batch:
        # pinned memory belongs to the current device, which is another thing in every thread
        with current(device):
            return drawing(step)

    with ThreadPoolExecutor(AHEAD, "batch") as pool:
        waiting = deque(pool.submit(drawn, step) for step in range(first, min(first + AHEAD, last)))
        try:
            for step in range(first, last):
                batch = waiting.popleft().result()
                if step + AHEAD < last:
                    waiting.append(pool.submit(drawn, step + AHEAD))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


class Resident(Data):
    """Samples that lie on a device, pictures in their 8 bits.

    Args:
        data: An array, or a folder, every picture of which is read.
        device: Where to.

    Raises:
        UsageError: If a picture cannot be read, or a number is not finite.
    """

    def __init__(self, data: Array | Folder, device: torch.device):
        self.name, self.shape, self.labels, self.eight_bit = data.name, data.shape, data.labels, data.eight_bit
        half = getattr(data, "half", 127.5)
        self.data, self.half = data, torch.tensor(half, device=device)  # by a number a card multiplies with its inverse
        kind = torch.uint8 if data.eight_bit else torch.float32
        self.values = torch.empty(len(data), *data.shape, dtype=kind, device=device)
        size = max(1, TOGETHER // math.prod(data.shape))
        with ThreadPoolExecutor(AHEAD, "samples") as pool:
            for start in range(0, len(data), size):
                # By way of the floats that a sample is read as: the bytes come back exactly, whatever their order was.
                x = torch.stack([*pool.map(data.__getitem__, range(start, min(start + size, len(data))))])
                self.values[start : start + len(x)] = ((x + 1) * half).round() if data.eight_bit else x

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Float[Tensor, "*event"]:
        return self.take(torch.tensor([index], device="cpu"))[0]

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    def take(self, indices: Int64[Tensor, "batch"]) -> Float[Tensor, "batch *event"]:
        """The samples of these indices, with the bits that the data have at them."""
        found = self.values.index_select(0, brought(indices, self.values.device))
        return found.float() / self.half - 1 if self.eight_bit else found


def resident(data: Data, device: torch.device, free: int) -> Data:
    """The data on the device, where a share of its free bytes holds them; else as they are, which is said."""
    if not isinstance(data, Array | Folder):
        return data
    size = len(data) * math.prod(data.shape) * (1 if data.eight_bit else 4)
    if size <= SHARE * free:
        if isinstance(data, Folder):
            tell(f"reading the {len(data)} pictures below {data.name} into the memory of {device}, once for all steps")
        return Resident(data, device)
    need, there = (f"{plain(number / 2**30)} GiB" for number in (size, free))
    tell(
        f"the data take {need} and {device} has {there} free, of which data may take {SHARE:.0%}: they stay "
        "in the host's memory or on its disk, and come batch by batch"
    )
    return data
