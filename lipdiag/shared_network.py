"""A network that shares its timesteps by itself, measured as a predictor whose clock does.

Inside a network the sharing hides how it depends on the timestep it hears, which is what a derivative is checked on,
and a run would say nothing of the blocks. So for as long as it is measured the sharing is lifted out of the network.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from .diffusion.clock import Shared
from .diffusion.predictor import Predictor, RawOutput, device_of
from .diffusion.spelling import spell
from .share import sharing_of
from .timestep import Sharing


def sharings(predictor: Predictor) -> list[Sharing]:
    """How the networks in a predictor, modules or functions, share their timesteps; empty where none does."""
    parts = [value for module in predictor.modules() for value in (module, *vars(module).values())]
    carried = [sharing_of(part) for part in parts if isinstance(part, torch.nn.Module) or callable(part)]
    return [*{id(sharing): sharing for sharing in carried if sharing is not None}.values()]


@contextmanager
def lifted(predictor: Predictor, dtype: torch.dtype) -> Iterator[list[str]]:
    """The sharing inside of a predictor as its clock's, where both give the same answers; undone after.

    Yields:
        Notes on it.
    """
    clock, carried = predictor.clock, sharings(predictor)
    shared = carried[0].clock if len(carried) == 1 else None
    if shared is None or shared.base != clock.base or (isinstance(clock, Shared) and clock.bounds != shared.bounds):
        yield []
        return
    inner = [predictor, predictor.predictor] if isinstance(predictor, RawOutput) else [predictor]

    def lift(lifts: bool) -> None:
        carried[0].active = not lifts
        for part in inner:
            part.clock = shared if lifts else clock

    def answers() -> torch.Tensor | None:
        edges = torch.tensor(shared.bounds, dtype=torch.float64, device="cpu")
        t = clock.base.time(torch.cat([edges, (edges[1:] + edges[:-1]) / 2])).clamp(0, 1)
        home = device_of(predictor)
        x = torch.ones(len(t), *predictor.shape, dtype=dtype, device=home)
        with suppress(Exception), torch.no_grad():  # what fails is told by the checks
            return predictor(x, t.to(home))
        return None

    before = answers()
    lift(True)
    try:
        after = answers()
        same = before is not None and after is not None and torch.equal(before, after)
        if not same:
            lift(False)
        yield [f"the network shares its timesteps by itself, as the clock {spell(shared)} does"] if same else []
    finally:
        lift(False)
