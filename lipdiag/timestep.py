"""The timestep among the arguments of a network's call: found, held against a clock, and replaced by a shared one."""

import inspect
import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .diffusion.clock import Shared
from .errors import UsageError

LEVELS = ("sigma", "sigmas", "noise_level", "noise_levels", "log_snr", "logsnr")
"""Names of a parameter that takes a noise level, which is no index."""
NAMES = (
    *("timestep", "timesteps", "t", "ts", "time", "times", "time_step", "time_steps", "diffusion_step"),
    *("diffusion_steps", "noise_labels", "noise_label", "c_noise", *LEVELS),
)
"""What the parameter is called that takes the timestep; else a call's first two arguments are looked at."""
MARGIN = 1e-3
"""The share of the range of times by which one that was computed may lie outside."""


class Sharing:
    """What replaces the timestep among a call's arguments, a hook before a forward pass; twice is as once.

    Args:
        clock: Says which block a timestep lies in, and the blocks' edges.
        positional: The network's parameters that may be given by position, in their order; none where it takes any.
        name: The parameter that takes the timestep; None where no name tells.

    Attributes:
        active: Whether it does; a network is measured with its sharing lifted out of it.
    """

    active = True

    def __init__(self, clock: Shared, positional: Sequence[str], name: str | None):
        self.clock, self.positional, self.name = clock, tuple(positional), name
        self.settled = False

    def __call__(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        place = self.place(args, kwargs) if self.active else None
        if place is None:
            return args, kwargs  # the network itself says that its timestep is missing
        if isinstance(place, str):
            return args, {**kwargs, place: self.told(kwargs[place])}
        return (*args[:place], self.told(args[place]), *args[place + 1 :]), kwargs

    def place(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | int | None:
        """Where the timestep is among the arguments, its keyword or its position; None if it is not there."""
        name = self.name or next((name for name in NAMES if name in kwargs and name not in self.positional), None)
        if name is None:
            return self.tried(args, kwargs)
        if name in kwargs:
            place: str | int = name
        elif name in self.positional and self.positional.index(name) < len(args):
            place = self.positional.index(name)
        else:
            return None
        others: dict[str | int, Any] = dict(enumerate(args)) | kwargs
        time = others.pop(place)
        largest = max([0, *[z.numel() for z in others.values() if isinstance(z, Tensor)]])
        if isinstance(time, Tensor) and not one_each(time) and time.numel() >= largest:
            raise UsageError(
                f"got a tensor of shape {tuple(time.shape)} as {name}, which is no time of each sample: give the "
                "arguments in their order, or by keyword"
            )
        return place

    def tried(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | int:
        """Which of the first two arguments is a time by its shape, where no name tells."""
        first: dict[str | int, Any] = dict(enumerate(args[:2]))
        first |= {name: kwargs[name] for name in self.positional[:2] if name in kwargs}
        likely = [place for place, value in first.items() if one_each(value)]
        if len(likely) != 1:
            raise UsageError(
                f"got a network of which no name tells the time, and {len(likely)} of whose first two arguments have "
                "the shape of one: wrap it in a function of (x, t)"
            )
        return likely[0]

    def told(self, timestep: Any) -> Any:
        """The shared timestep, of the type, dtype, shape and device of the given one."""
        if timestep is None:
            return None
        if not isinstance(timestep, Tensor):
            if not isinstance(timestep, numbers.Real):
                name = self.name or "the time"
                raise UsageError(f"got a {type(timestep).__name__} as {name}: a tensor or a number can be shared")
            shared = self.told(torch.tensor(float(timestep), dtype=torch.float64, device="cpu"))
            return type(timestep)(shared.item())  # type: ignore[call-arg]
        # of integers the edges may be fractions, and float32 holds every index; float64 is not on every device
        wide = timestep.dtype if timestep.is_floating_point() else torch.float32
        if not self.settled and not torch.compiler.is_compiling():
            self.settle(timestep.detach())
        # in its own precision a timestep is held against the edges as they are told: an edge is in its own block
        block = self.clock.block(timestep.to(wide))
        edges = torch.tensor(self.clock.bounds, dtype=wide, device=timestep.device)
        edge = edges.index_select(0, block.reshape(-1)).reshape(block.shape).to(timestep.dtype)
        return torch.where(block < self.clock.blocks, edge, timestep)

    def settle(self, timestep: Tensor) -> None:
        """Hold the first times that are heard against the clock, until they can be no others.

        Raises:
            UsageError: If they are of another clock: t from 0 to 1 where an index is expected, or too large a one.
        """
        try:
            heard = timestep.flatten().tolist()
        except RuntimeError:  # inside of vmap a tensor has no values
            return
        (first, last), index = self.clock.base.ends, self.clock.discrete
        if index:
            last += 1 if last < first else -1
        low, high = min(first, last), max(first, last)
        slack = 1 if index else MARGIN * (high - low) if high - low < math.inf else 0
        outside = [k for k in heard if not low - slack <= k <= high + slack]
        between = [k for k in heard if MARGIN < k < 1 - MARGIN] if index and max(heard, default=0) <= 1 else []
        if outside or between:
            raise UsageError(
                f"got the time {(outside or between)[0]:g} where this network's goes from {first:g} (data) to "
                f"{last:g}: tell share_timesteps its own time, timesteps=N of an index, timesteps=1 of t in [0, 1] "
                "with the data at 0, clock='reversed(unit(1))' with the data at 1"
            )
        self.settled = max(heard, default=0) > 1 if index else any(k % 1 for k in heard)


def one_each(value: Any) -> bool:
    """Whether a value is a number, or a tensor of one number a sample."""
    return value.numel() == max([1, *value.shape]) if isinstance(value, Tensor) else isinstance(value, numbers.Real)


def comes_first(network: Any) -> bool:
    """Whether the names of a network's parameters tell that it is called as network(t, x)."""
    try:
        placed, time = parameters(network)
    except (TypeError, UsageError, ValueError):  # it tells no signature
        return False
    return len(placed) > 1 and placed[0] == time


def parameters(network: Any) -> tuple[list[str], str | None]:
    """The parameters that may be given by position, and the one whose name says that it takes the time."""
    call = network.forward if isinstance(network, nn.Module) else network
    kinds = [(name, p.kind) for name, p in inspect.signature(call).parameters.items()]
    if not any(kind is inspect.Parameter.VAR_POSITIONAL for _, kind in kinds) and len(kinds) < 2:
        raise UsageError("got a network that takes no timestep: it is called as network(x, timestep, ...)")
    placed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [name for name, kind in kinds if kind in (*placed, inspect.Parameter.KEYWORD_ONLY)]
    return [name for name, kind in kinds if kind in placed], next((name for name in NAMES if name in named), None)
