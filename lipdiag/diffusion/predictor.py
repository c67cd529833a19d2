"""What is measured: a model that sees noise, eps = predictor(x, t).

Two times enter a model. t is the noise level of x; the timestep is what the model is told. They say the same through
the predictor's clock, unless the clock is shared (E-TSDM): then only the timestep is coarse, and noise level, schedule
and parameterization stay at the true t. That is the whole difference between DDPM and E-TSDM.
"""

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..breakdown import of_the_device
from ..errors import CheckpointError, UsageError
from .clock import Clock
from .convention import Convention
from .limit import Limit
from .parameterization import Parameterization, convert, eps
from .schedule import Schedule

CLASS_INPUTS = ("class_labels", "y")
"""What networks call the input that tells them a class."""

CHANNELS = "channels"
"""The condition that a network sees as further channels behind those of x: a mask, a picture, a smaller one."""


class Predictor(nn.Module, ABC):
    """A predictor of the noise in x at time t.

    Attributes:
        schedule: Amplitudes of signal and noise.
        clock: t to the model's own time.
        shape: Shape of one sample.
        function: What is measured: "eps", the noise, or "raw", the network's own output.
        notes: What a reader of its numbers has to know.
        data: The name of the data it was trained on, where its files tell.
        path: Of the file or folder it was read from, where there is one.
        classed: Whether the class that it is told was chosen; else each x0 that has one is told its own.
        limit: What keeps the x0 predicted in sampling in the data's range, where there is such a thing.

    Example:
        >>> import torch
        >>> model = lipdiag.load("digits-ddpm")
        >>> isinstance(model, lipdiag.Predictor)
        True
        >>> model(torch.zeros(2, 1, 8, 8), torch.tensor([0.1, 0.5], dtype=torch.float64)).shape
        torch.Size([2, 1, 8, 8])
    """

    function = "eps"
    notes: tuple[str, ...] = ()
    data: str | None = None
    limit: Limit | None = None
    path: str | Path | None = None
    classed: bool = True
    schedule: Schedule
    clock: Clock
    shape: tuple[int, ...]

    def __init__(self, schedule: Schedule, clock: Clock, shape: tuple[int, ...]):
        super().__init__()
        self.schedule, self.clock, self.shape = schedule, clock, tuple(shape)

    def forward(self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"]) -> Float[Tensor, "batch *event"]:
        """The noise predicted in x at time t."""
        return self.conditioned(x, t, self.clock(t))

    @abstractmethod
    def conditioned(
        self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"], timestep: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch *event"]:
        """The noise predicted in x at noise level t by a model that is told its time is `timestep`."""


class NetworkPredictor(Predictor):
    """A network as a predictor of noise.

    The network is called as network(x, timestep, **conditioning) with the timestep in x's dtype, at least float32; one
    that fails on it, and does not on integers, is told integers from then on, like one that rounds by itself. It may
    return a tensor, a tuple whose first entry is one, or an object with a tensor `.sample` (diffusers) or `.mean`
    (azula's posteriors); of twice the channels (a learned variance) the first half is taken.

    Args:
        network: The module or function.
        schedule: Amplitudes it was trained with; these three are objects, or texts as on the command line.
        parameterization: What it predicts.
        clock: The time it is told.
        shape: Shape of one sample.
        conditioning: Further keyword arguments; tensors among them have a leading dimension of 1 or of the batch, and
            move with the module. A name such as added_cond_kwargs/time_ids is an entry of a dictionary; what is called
            channels is concatenated to x, behind its channels.

    Attributes:
        beside: How many channels the network sees beside those of x, where its files tell.
        integers: Whether the network takes integer timesteps alone, to look them up; None before its first call.

    Example:
        >>> import torch
        >>> from lipdiag.diffusion.clock import Timesteps
        >>> from lipdiag.diffusion.parameterization import eps
        >>> from lipdiag.diffusion.schedule import Linear
        >>> def network(x, timestep):
        ...     return x * torch.cos(timestep / 100)[:, None]
        >>> mine = lipdiag.NetworkPredictor(network, Linear(), eps, Timesteps(1000), shape=(2,))
        >>> mine(torch.ones(1, 2), torch.tensor([0.5], dtype=torch.float64)).shape
        torch.Size([1, 2])
    """

    beside: int = 0
    integers: bool | None = None

    def __init__(
        self,
        network: Any,
        schedule: Schedule | str,
        parameterization: Parameterization | str,
        clock: Clock | str,
        shape: tuple[int, ...],
        conditioning: Mapping[str, Any] | None = None,
    ):
        convention = Convention.of(schedule, parameterization, clock).whole
        super().__init__(convention.schedule, convention.clock, shape)
        self.network, self.parameterization = network, convention.parameterization
        self._fixed = {}
        for name, value in (conditioning or {}).items():
            if isinstance(value, Tensor):
                self.register_buffer(f"_conditioning_{name}", value, persistent=False)
            else:
                self._fixed[name] = value

    @property
    def convention(self) -> Convention:
        """The way in which the network is used."""
        return Convention(self.schedule, self.parameterization, self.clock)

    @property
    def class_input(self) -> str | None:
        """The input that tells the network a class, an integer or a row of one number a class; None without one."""
        for name in CLASS_INPUTS:
            value = self.conditioning.get(name)
            if isinstance(value, Tensor) and len(value) == 1 and value.ndim == 1 + value.is_floating_point():
                return name
        return None

    def told(self, inputs: Mapping[str, Tensor]) -> "NetworkPredictor":
        """The same network, told these of each sample of a batch, in the place of what it is told throughout."""
        twin = copy.copy(self)
        twin._buffers = {**self._buffers, **{f"_conditioning_{name}": value for name, value in inputs.items()}}
        return twin

    @property
    def conditioning(self) -> dict[str, Any]:
        """The keyword arguments that the network gets besides x and the timestep."""
        prefix = "_conditioning_"
        tensors = {name.removeprefix(prefix): buffer for name, buffer in self.named_buffers(recurse=False)}
        return {**self._fixed, **tensors}

    def conditioned(self, x, t, timestep):
        y = self.output(x, timestep)
        return convert(y, x, t, self.schedule, self.parameterization, eps).to(x.dtype)

    def output(
        self, x: Float[Tensor, "batch *event"], timestep: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch *event"]:
        """What the network itself says of x when it is told `timestep`, without a learned variance."""
        conditioning: dict[str, Any] = {}
        for name, value in self.conditioning.items():
            if isinstance(value, Tensor) and value.shape[:1] == (1,):
                value = value.expand(len(x), *value.shape[1:])
            *outer, last = name.split("/")
            place = conditioning
            for key in outer:
                place = place.setdefault(key, {})
            place[last] = value
        y = self.answer(self.seen(x, conditioning.pop(CHANNELS, None)), timestep, conditioning)
        if isinstance(y, tuple):
            y = y[0]
        elif not isinstance(y, Tensor):
            y = next((part for name in ("sample", "mean") if isinstance(part := getattr(y, name, None), Tensor)), y)
        if isinstance(y, Tensor) and y.ndim == x.ndim > 1 and y.shape[1] == 2 * x.shape[1]:
            y = y[:, : x.shape[1]]
        if not (isinstance(y, Tensor) and y.shape == x.shape):
            got = f"a tensor of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise CheckpointError(
                f"got {got} from the network for x of shape {tuple(x.shape)}; it returns a tensor of x's shape or of "
                f"twice its channels, so wrap the network"
            )
        return y

    def seen(self, x: Tensor, channels: Any) -> Tensor:
        """x as the network sees it, with the channels beside it.

        Raises:
            CheckpointError: If there are none, or others than the network has room for.
        """
        if channels is None and not self.beside:
            return x
        room = (self.beside or "some", *x.shape[2:])
        if channels is None:
            raise CheckpointError(
                f"the network sees {self.beside} channels beside x, as for inpainting or super resolution: give them "
                f"in the order of its pipeline, of shape (1, {', '.join(map(str, room))}) as channels by "
                "--conditioning, or for each sample in an array called channels in the .npz of the data"
            )
        if channels.ndim != x.ndim or channels.shape[2:] != x.shape[2:] or self.beside not in (0, channels.shape[1]):
            raise CheckpointError(
                f"the channels beside x have the shape {tuple(channels.shape[1:])} where the network has room for "
                f"({', '.join(map(str, room))}): give them at the size of x"
            )
        return torch.cat([x, channels.to(x.dtype)], 1)

    def answer(self, x: Tensor, timestep: Tensor, conditioning: dict[str, Any]) -> Any:
        """What the network returns, told the timestep as it takes it."""
        if self.integers:
            return self.network(x, cut_off(timestep), **conditioning)
        # bfloat16 has no 999: it would tell the network 1000.
        told = timestep.to(torch.promote_types(x.dtype, torch.float32))
        if self.integers is not None or differentiated(x) or differentiated(timestep):
            return self.network(x, told, **conditioning)
        try:
            y, self.integers = self.network(x, told, **conditioning), False
        except Exception as error:  # it may raise anything, and where integers do not help that says why
            if of_the_device(error):
                raise
            with suppress(Exception):
                y, self.integers = self.network(x, cut_off(timestep), **conditioning), True
            if not self.integers:
                raise
        return y


def device_of(module: nn.Module) -> torch.device:
    """Where the first of a module's weights lies, or of its buffers where it has none; else the processor."""
    return next((z.device for z in itertools.chain(module.parameters(), module.buffers())), torch.device("cpu"))


def cut_off(timestep: Tensor) -> Tensor:
    """Integer timesteps, cut off as networks do it themselves, but for rounding errors."""
    return (timestep + 1e-4).clamp_min(0).long()


def differentiated(z: Tensor) -> bool:
    """Whether a derivative is being taken with respect to z, of which a network may fail that is sound."""
    return z.requires_grad or forward_ad.unpack_dual(z).tangent is not None


class RawOutput(Predictor):
    """A network's own output in the place of the noise, in its own input x and its own time.

    The conversion to eps multiplies by coefficients of t, 1/sigma among them, and adds a multiple of x: its Jacobian
    and its derivative in time differ from the network's by these factors, which grow without bound towards the data.
    Measured side by side they tell which part is the network's. Only what is a derivative or a difference of the output
    means the same here; what compares with the true noise (loss, stein) does not.

    Args:
        predictor: Around the network.
    """

    function = "raw"

    def __init__(self, predictor: Predictor):
        if not isinstance(predictor, NetworkPredictor):
            raise UsageError(f"a {type(predictor).__name__} has no raw output; give one around a network")
        super().__init__(predictor.schedule, predictor.clock, predictor.shape)
        self.predictor, self.notes, self.data = predictor, predictor.notes, predictor.data
        self.path, self.classed = predictor.path, predictor.classed

    @property
    def class_input(self) -> str | None:
        """The name of the input by which the network inside is told a class; None where it takes none."""
        return self.predictor.class_input

    def told(self, inputs: Mapping[str, Tensor]) -> "RawOutput":
        """The raw output of the predictor inside, told these inputs."""
        twin = copy.copy(self)
        twin._modules = {**self._modules, "predictor": self.predictor.told(inputs)}
        return twin

    def conditioned(self, x, t, timestep):
        return self.predictor.output(x, timestep).to(x.dtype)
