"""E-TSDM for a network of one's own, in one line: the network is told shared timesteps, in training and in sampling.

The network itself is changed, by a hook before its forward pass: wherever it is called, in a training loop or by a
pipeline, it hears the edge of its timestep's block. Whoever calls it, a scheduler above all, keeps the true timestep,
so that the noise level is untouched. Class, weights and state dict stay what they are.
"""

import inspect
import numbers
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lipdiag.diffusion.clock import Shared, Timesteps
from lipdiag.errors import UsageError

RECORD = "shared_timesteps"
"""Key of the edges in the config of a diffusers network; `lipdiag.load` of what save_pretrained wrote reads it."""
NAMES = ("timestep", "timesteps", "t", "time", "noise_labels")
"""What the parameter is called that takes the timestep; else it is the second one."""

Network = TypeVar("Network", bound=Callable[..., Any])


class Sharing:
    """The hook: replaces the timestep among a call's arguments.

    Args:
        clock: Says which block a timestep lies in, and the blocks' edges.
        name: The parameter that takes the timestep.
        position: Its place among positional arguments.
    """

    def __init__(self, clock: Shared, name: str, position: int):
        self.clock, self.name, self.position = clock, name, position

    def __call__(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.name in kwargs:
            return args, {**kwargs, self.name: self.told(kwargs[self.name])}
        if len(args) <= self.position:
            return args, kwargs  # the network itself says that its timestep is missing
        before, after = args[: self.position], args[self.position + 1 :]
        return (*before, self.told(args[self.position]), *after), kwargs

    def told(self, timestep: Any) -> Any:
        """The shared timestep, of the type, dtype, shape and device of the given one."""
        if timestep is None:
            return None
        if not isinstance(timestep, Tensor):
            if not isinstance(timestep, numbers.Real):
                raise UsageError(f"Got a {type(timestep).__name__} as {self.name}: a tensor or a number can be shared.")
            shared = self.told(torch.tensor(float(timestep), dtype=torch.float64))
            return type(timestep)(shared.item())  # type: ignore[call-arg]
        # float32 holds every half-precision number and every index; float64 is not on every device
        wide = torch.promote_types(timestep.dtype, torch.float32)
        block = self.clock.block(timestep.to(wide))
        edges = torch.tensor(self.clock.bounds, dtype=wide, device=timestep.device)
        edge = edges.index_select(0, block.reshape(-1)).reshape(block.shape).to(timestep.dtype)
        return torch.where(block < self.clock.blocks, edge, timestep)


def share_timesteps(
    network: Network,
    end: float = 100,
    blocks: int = 5,
    edges: Sequence[float] | None = None,
    timesteps: int = 1000,
) -> Network:
    """Make a network hear shared timesteps, as E-TSDM does: below `end` only the edge of the block they lie in.

    Call it before training, and again after `from_pretrained`: a network of diffusers' keeps the edges in its config
    through `save_pretrained`, and `lipdiag.load` of that folder needs no call; diffusers itself keeps the edges when it
    loads, with a remark that it does not expect them, but does not share.
    A network that was not trained so is harmed by it. Calls of `network.forward(...)`, rather than of
    `network(...)`, go past it. `unshare_timesteps` undoes it.

    Args:
        network: A torch module, changed in place, or any function (x, timestep, ...). Its timestep is the parameter
            called timestep, timesteps, t, time or noise_labels, else the second one; it may be given by position or
            by keyword, as a number or a tensor of any shape and dtype.
        end: The first timestep that is not shared.
        blocks: Into how many equal blocks [0, end) is cut.
        edges: Bounds of unequal blocks, from 0 to the first timestep that is not shared; in place of end and blocks.
        timesteps: How many the network is trained on.

    Returns:
        The same module; of a function, one that shares.

    Raises:
        UsageError: If it shares already, was saved with other edges, has no timestep, or the edges make no sense.

    References:
        Yang et al., Lipschitz Singularities in Diffusion Models, 2024. https://arxiv.org/abs/2306.11251
    """
    clock = Shared(Timesteps(timesteps), float(end), blocks)
    if edges is not None:
        bounds = tuple(float(edge) for edge in edges)
        if len(bounds) < 2:
            raise UsageError(f"Got the edges {bounds}: a block has two, so give at least two.")
        clock = Shared(Timesteps(timesteps), bounds[-1], edges=bounds)
    if clock.end > timesteps:
        raise UsageError(f"Got blocks up to {clock.end:g} of {timesteps} timesteps: end where the timesteps do.")
    if hook_of(network) is not None:
        raise UsageError("Got a network that shares its timesteps already: share once, or unshare_timesteps first.")
    hook = Sharing(clock, *parameter(network))
    if not isinstance(network, nn.Module):
        return function(network, hook)
    record(network, clock)
    network.register_forward_pre_hook(hook, with_kwargs=True)
    return network


def unshare_timesteps(network: Network) -> Network:
    """Undo `share_timesteps`: the network, or the function that was given then.

    Raises:
        UsageError: If it does not share.
    """
    hook = hook_of(network)
    if hook is None:
        raise UsageError("Got a network that shares no timesteps: there is nothing to undo.")
    if not isinstance(network, nn.Module):
        return network.__wrapped__  # type: ignore[attr-defined]
    for key, registered in list(network._forward_pre_hooks.items()):
        if registered is hook:
            del network._forward_pre_hooks[key]
            network._forward_pre_hooks_with_kwargs.pop(key, None)
    if hasattr(network, "register_to_config"):
        config: Any = network.config
        network._internal_dict = type(config)({key: value for key, value in config.items() if key != RECORD})
    return network


def hook_of(network: Any) -> Sharing | None:
    """The hook of a network that shares its timesteps."""
    if isinstance(network, nn.Module):
        return next((hook for hook in network._forward_pre_hooks.values() if isinstance(hook, Sharing)), None)
    return getattr(network, "_sharing", None)


def parameter(network: Any) -> tuple[str, int]:
    """Name and position of the parameter that takes the timestep."""
    call = network.forward if isinstance(network, nn.Module) else network
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, p in inspect.signature(call).parameters.items() if p.kind in kinds]
    known = [name for name in NAMES if name in names[1:]]
    if not known and len(names) < 2:
        raise UsageError("Got a network that takes no timestep: it is called as network(x, timestep, ...).")
    name = known[0] if known else names[1]
    return name, names.index(name)


def function(network: Any, hook: Sharing) -> Any:
    """A function that calls another with a shared timestep."""

    @wraps(network)
    def shared(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = hook(network, args, kwargs)
        return network(*args, **kwargs)

    shared._sharing = hook  # type: ignore[attr-defined]
    return shared


def record(network: nn.Module, clock: Shared) -> None:
    """Keep the edges in the config of a diffusers network, so that they are saved with it."""
    if not hasattr(network, "register_to_config"):
        return
    edges = list(clock.bounds)
    before = dict(network.config).get(RECORD)  # type: ignore[arg-type]
    if before is not None and list(before) != edges:
        raise UsageError(
            f"Got the edges {edges} for a network that was saved with {list(before)}: give edges={before}."
        )
    network.register_to_config(**{RECORD: edges})  # type: ignore[operator]
