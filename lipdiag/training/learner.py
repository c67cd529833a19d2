"""The network as a training step calls it: compiled where that pays, its gradients averaged over the processes."""

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .. import distributed
from ..breakdown import of_the_device
from ..diffusion.predictor import NetworkPredictor
from ..errors import LipdiagError
from ..files import shown
from ..printing import plain
from .batch import Batch, seed
from .manner import Manner, repeatable, tell
from .objective import loss
from .recipe import Recipe

COMPILING = 120.0  # seconds that it takes to compile the passes of a U-Net, about
WORTH = 5  # times that, at least, is left to train where it is tried: it pays from a fifth saved on


class Learner:
    """A network that is trained.

    Args:
        predictor: Of the network.
        recipe: By which.
        device: Where.
        manner: How.
        compiled: Whether its passes were compiled when it was last trained; None if that was never decided.

    Attributes:
        compiled: Whether its passes are compiled; None while that is not decided.
    """

    def __init__(
        self,
        predictor: NetworkPredictor,
        recipe: Recipe,
        device: torch.device,
        manner: Manner,
        compiled: bool | None = None,
    ):
        self.predictor, self.recipe, self.device, self.manner = predictor, recipe, device, manner
        self.dropout = "dropout" + (str(distributed.rank()) if distributed.rank() else "")
        self.uncompiled: float | None = None  # seconds of a step, where compiled ones are on trial
        self.compiled = compiled if manner.compile is None else manner.compile
        self.call(bool(self.compiled))

    def call(self, compiled: bool) -> None:
        """Let the steps call the network so from now on; the weights are the same."""
        network: nn.Module = self.predictor.network
        if compiled:
            tell("compiling the network, which takes a minute or two where it is large, before the training goes on")
            network = torch.compile(network)  # type: ignore[assignment]
        if distributed.size() > 1:
            network = nn.parallel.DistributedDataParallel(
                network, [self.device] if self.device.type == "cuda" else None
            )
        p = self.predictor
        self.called = NetworkPredictor(network, p.schedule, p.parameterization, p.clock, p.shape, p.conditioning)
        self.untried = compiled

    def passes(self, batch: Batch, step: int) -> Tensor:
        """Put the gradients of a step in their places, and return its loss, wherever it was computed.

        A compiler can fail in any way. Where the same passes succeed without it, the training goes on so.
        """
        reason = self.failure(batch, step) if self.untried else ""
        value = self.uncaught(batch, step)
        if reason:
            tell(f"the network cannot be compiled ({reason}): it is trained as it is written")
        return value

    def failure(self, batch: Batch, step: int) -> str:
        """Why compiled passes are given up, which each process tries by itself first; nothing where all succeed.

        One that failed in the midst of averaging would leave the others waiting for it.
        """
        reason, self.untried = "", False
        try:
            with hushed():
                self.uncaught(batch, step, averaged=False)
        except Exception as error:
            if of_the_device(error) or isinstance(error, LipdiagError):
                raise
            reason = f"{type(error).__name__}: {shown(str(error).strip().partition(chr(10))[0])[:200]}"
        for weight in self.predictor.network.parameters():
            weight.grad = None
        if not distributed.anywhere(bool(reason)):
            return ""
        self.call(False)
        self.compiled, self.uncompiled = False, None
        return reason or "in another process"

    def uncaught(self, batch: Batch, step: int, averaged: bool = True) -> Tensor:
        """The passes over every piece of a batch, whose gradients are averaged over the processes or not."""
        pieces = batch.pieces(self.recipe.accumulate)
        values = []
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), repeatable(self.device):
            torch.manual_seed(seed(self.recipe.seed, self.dropout, step))
            for piece in pieces:
                with together(self.called.network, averaged and piece is pieces[-1]):
                    value = loss(self.called, piece, self.recipe.penalty, self.manner.precision) / len(pieces)
                    value.backward()
                values.append(value.detach())
        return torch.stack(values).sum()

    def consider(self, seconds: float, left: int) -> bool:
        """Decide, once the pace is known, whether compiled passes pay; whether the pace is another from now on.

        Args:
            seconds: Of a step, in all processes.
            left: Steps that are to come.
        """
        if self.compiled is not None:
            return False
        if self.uncompiled is not None:
            self.compiled = seconds < self.uncompiled
            found = f"a step takes {plain(seconds)} s compiled and {plain(self.uncompiled)} s as it is written"
            tell(f"{found}: {'it stays compiled' if self.compiled else 'the rest goes as it is written'}")
            if not self.compiled:
                self.call(False)
            return not self.compiled
        if seconds * left < WORTH * COMPILING:
            self.compiled = False
            return False
        self.uncompiled = seconds
        self.call(True)
        return True


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """No word of what torch's compiler thinks of how other libraries are written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\._(dynamo|inductor|functorch)")
        yield


def together(network: nn.Module, averaged: bool) -> contextlib.AbstractContextManager:
    """Where a backward pass averages its gradients over the processes, which once a step is enough."""
    if isinstance(network, nn.parallel.DistributedDataParallel) and not averaged:
        return network.no_sync()
    return contextlib.nullcontext()
