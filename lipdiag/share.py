"""E-TSDM for a network of one's own, in one line: the network is told shared timesteps, in training and in sampling.

The network itself is changed, by a hook before its forward pass, and in calls of its forward that go past hooks, as a
network's own guidance does: whoever calls it, it hears the edge of its timestep's block. Whoever calls it, a scheduler
above all, keeps the true timestep, so that the noise level is untouched. Class, weights and state dict stay what they
are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from torch import nn

from .diffusion.clock import CLOCKS, Clock, Reversed, Shared, Timesteps, Unit
from .diffusion.spelling import parse
from .errors import UsageError
from .timestep import LEVELS, Sharing, parameters

RECORD = "shared_timesteps"
"""Key of the edges in the config of a diffusers network; `lipdiag.load` of what save_pretrained wrote reads it."""
COUNTS = ("num_train_timesteps", "num_timesteps", "num_diffusion_timesteps")
"""What a network calls the number of its timesteps, where it keeps it."""
USUAL_COUNT = 1000
Network = TypeVar("Network", bound=Callable[..., Any])


class Forward:
    """The forward of a network that shares its timesteps, in the place of its class's: hooks are not called before it.

    It is kept in the network, and keeps it, so that copies and pickles of the network have one of their own.

    Args:
        network: The module.
        sharing: What replaces the timestep.
        before: The forward that the instance had already, of another library that wraps it.
    """

    def __init__(self, network: nn.Module, sharing: Sharing, before: Callable[..., Any] | None):
        self.network, self.before = network, before
        self.sharing: Sharing | None = sharing

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The forward that the network had; signatures are read from it."""
        return self.before or type(self.network).forward.__get__(self.network)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and args[0] is self.network:
            args = args[1:]  # accelerate binds what it finds as a network's forward to the network
        if self.sharing is not None:
            args, kwargs = self.sharing(self.network, args, kwargs)
        return self.__wrapped__(*args, **kwargs)

    def replicate(self) -> nn.Module:
        """A copy for another device, as torch's DataParallel makes them, that shares too."""
        replica = type(self.network)._replicate_for_data_parallel(self.network)
        if self.sharing is not None:
            install(replica, self.sharing, self.before)
        return replica


def install(network: nn.Module, sharing: Sharing, before: Callable[..., Any] | None) -> None:
    """Replace the forward of one network, the instance's."""
    forward = Forward(network, sharing, before)
    network.__dict__ |= {"forward": forward, "_replicate_for_data_parallel": forward.replicate}


def share_timesteps(
    network: Network,
    end: float | None = None,
    blocks: int = 5,
    edges: Sequence[float] | None = None,
    timesteps: int | None = None,
    clock: str | Clock | None = None,
) -> Network:
    """Make a network hear shared timesteps, as E-TSDM does: before `end` only the edge of the block they lie in.

    Call it before training, and again after diffusers' `from_pretrained`, which keeps the edges in the config (with a
    remark that it does not expect them) and does not share; `lipdiag.load` of what save_pretrained wrote needs no
    call. A network that was not trained so is harmed by it. It holds for `network(...)` and `network.forward(...)`
    alike, and in copies and pickles. `unshare_timesteps` undoes it.

    Args:
        network: A torch module, changed in place, or any function, called as (x, timestep, ...), (t, x, ...) or by
            keyword. Its time is the parameter called timestep, t, time, noise_labels or the like, else the one of the
            first two arguments that holds one number a sample; a number, or a tensor of any shape and dtype.
        end: The first timestep that is not shared, in the network's own time; by default after a tenth of it.
        blocks: Into how many equal blocks the time before `end` is cut.
        edges: Bounds of unequal blocks, from the data to the first timestep that is not shared, as `lipdiag advise`
            prints them; in place of end and blocks. They fall for a network whose time does.
        timesteps: How many the network is trained on; 1 for t in [0, 1] with the data at 0. By default what it keeps
            as num_train_timesteps, else 1 where end or edges are fractions, else 1000.
        clock: The network's own time in place of `timesteps`: "reversed(unit(1))" for t in [0, 1] with the data at 1,
            "sigma(karras())", or any other that `lipdiag inspect` prints.

    Returns:
        The same module; of a function, one that shares.

    Raises:
        UsageError: If it shares already, was saved with other edges, has no timestep, or the edges make no sense; when
            it is called, if what it hears is no time of this clock.

    References:
        Yang et al., Lipschitz Singularities in Diffusion Models, 2024. https://arxiv.org/abs/2306.11251

    Example:
        >>> import torch
        >>> network = lipdiag.share_timesteps(lambda x, t: x * t, end=100, blocks=5)
        >>> network(torch.ones(1), torch.tensor([57])).item()
        40.0
    """
    if sharing_of(network) is not None:
        raise UsageError("got a network that shares its timesteps already: share once, or unshare_timesteps first")
    positional, name = parameters(network)
    bounds = None if edges is None else tuple(float(edge) for edge in edges)
    if bounds is not None and len(bounds) < 2:
        raise UsageError(f"got the edges {bounds}: a block has two, so give at least two")
    if name in LEVELS and end is None and bounds is None and clock is None:
        raise UsageError(
            f"got a network that is told {name}, a noise level and no index: give its clock, such as "
            "'sigma(karras())', and the edges"
        )
    own = own_time(network, bounds or (() if end is None else (end,)), timesteps, clock)
    sharing = Sharing(blocks_of(own, end, blocks, bounds), positional, name)
    if not isinstance(network, nn.Module):
        return function(network, sharing)
    record(network, sharing.clock)
    network.register_forward_pre_hook(sharing, with_kwargs=True)
    install(network, sharing, network.__dict__.get("forward"))
    return network


def own_time(network: Any, bounds: Sequence[float], timesteps: int | None, clock: str | Clock | None) -> Clock:
    """A network's own time: as told, as it keeps it itself, or as some edges of blocks speak of it."""
    if clock is not None:
        if timesteps is not None:
            raise UsageError("got timesteps and a clock: the clock tells how many there are, so leave timesteps out")
        return parse(clock, CLOCKS) if isinstance(clock, str) else clock
    if timesteps is None:
        place = getattr(network, "config", network)
        kept = [place.get(name) if isinstance(place, Mapping) else getattr(place, name, None) for name in COUNTS]
        known = next((count for count in kept if type(count) is int and count > 0), USUAL_COUNT)
        timesteps = 1 if bounds and max(bounds) <= 1 and any(edge % 1 for edge in bounds) else known
    base = Unit() if timesteps == 1 else Timesteps(timesteps)
    if len(bounds) == 1 and bounds[0] > base.ends[1] / 2 and timesteps == 1:
        raise UsageError(
            f"got blocks up to {bounds[0]:g} of 1, most of the time, where the data are at 0: say "
            "clock='reversed(unit(1))' if they are at 1, else clock='unit(1)'"
        )
    return Reversed(base) if len(bounds) > 1 and bounds[0] > bounds[-1] else base


def blocks_of(own: Clock, end: float | None, blocks: int, bounds: tuple[float, ...] | None) -> Shared:
    """The clock that shares, within the network's own time."""
    if isinstance(own, Shared):
        if end is not None or bounds is not None:
            raise UsageError("got a shared clock and edges: the clock has them, so leave end and edges out")
        return own
    if bounds is None:
        chosen = own.tenth if end is None else float(end)
        if not math.isfinite(chosen):
            raise UsageError(f"got no end for a time that begins at {own.ends[0]:g}: give the edges of blocks")
        clock = Shared(own, float(round(chosen)) if end is None and own.discrete else chosen, blocks)
    else:
        clock = Shared(own, bounds[-1], edges=bounds)
    if not own.holds(clock.bounds):
        low, high = sorted(own.ends)
        whole = f"of {high:g} timesteps" if own.discrete else f"where the network's time goes from {low:g} to {high:g}"
        raise UsageError(f"got blocks from {clock.bounds[0]:g} to {clock.end:g} {whole}: end where the time does")
    return clock


def unshare_timesteps(network: Network) -> Network:
    """Undo `share_timesteps`: the network, or the function that was given then.

    Raises:
        UsageError: If it does not share.

    Example:
        >>> import torch
        >>> network = lipdiag.share_timesteps(lambda x, t: x * t, end=100, blocks=5)
        >>> lipdiag.unshare_timesteps(network)(torch.ones(1), torch.tensor([57])).item()
        57.0
    """
    sharing = sharing_of(network)
    if sharing is None:
        raise UsageError("got a network that shares no timesteps: there is nothing to undo")
    if not isinstance(network, nn.Module):
        return network.__wrapped__  # type: ignore[attr-defined]
    for key, registered in list(network._forward_pre_hooks.items()):
        if registered is sharing:
            del network._forward_pre_hooks[key]
            network._forward_pre_hooks_with_kwargs.pop(key, None)
    forward = forward_of(network)
    if forward is not None:
        forward.sharing = None  # where another library has wrapped it in the meantime, it stays and does nothing
        if network.__dict__["forward"] is forward:
            del network.__dict__["forward"], network.__dict__["_replicate_for_data_parallel"]
            if forward.before is not None:
                network.__dict__["forward"] = forward.before
    if hasattr(network, "register_to_config"):
        config: Any = network.config
        network._internal_dict = type(config)({key: value for key, value in config.items() if key != RECORD})
    return network


def sharing_of(network: Any) -> Sharing | None:
    """What replaces the timesteps of a network that shares them."""
    if isinstance(network, nn.Module):
        return next((hook for hook in network._forward_pre_hooks.values() if isinstance(hook, Sharing)), None)
    return getattr(network, "_sharing", None)


def forward_of(network: nn.Module) -> Forward | None:
    """The forward that shares, below what other libraries have wrapped around it since."""
    call = network.__dict__.get("forward")
    while call is not None:
        call = getattr(call, "__func__", call)
        if isinstance(call, Forward):
            return call
        call = getattr(call, "__wrapped__", None)
    return None


def function(network: Any, sharing: Sharing) -> Any:
    """A function that calls another with a shared timestep."""

    @wraps(network)
    def shared(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = sharing(network, args, kwargs)
        return network(*args, **kwargs)

    shared._sharing = sharing  # type: ignore[attr-defined]
    return shared


def record(network: nn.Module, clock: Shared) -> None:
    """Keep the edges in the config of a diffusers network, so that they are saved with it."""
    if not hasattr(network, "register_to_config"):
        return
    edges = list(clock.bounds)
    before = dict(network.config).get(RECORD)  # type: ignore[arg-type]
    if before is not None and list(before) != edges:
        raise UsageError(f"got the edges {edges} for a network that was saved with {list(before)}: give edges={before}")
    network.register_to_config(**{RECORD: edges})  # type: ignore[operator]
