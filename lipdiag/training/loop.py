"""The training loop: a generator of states, one a step, from a recipe.

The network learns y = a x0 + b eps (its parameterization) from x = alpha x0 + sigma eps under the mean squared error,
at uniform timesteps: integers where the clock counts them, else times uniform in (0, 1). All that is random in a step
follows from (seed, step): a run that is stopped and resumed equals one that is not, and two recipes that differ in
the clock alone see the same samples, timesteps and noise. The noise level is never shared, only the network's own time.

Several processes that have joined (`lipdiag.distributed`) take equal parts of each batch and average their gradients:
up to rounding, and without dropout, the model is the one that a single process trains.
"""

import contextlib
import copy
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import distributed
from ..data.dataset import Data, dataset
from ..diffusion.clock import CLOCKS
from ..diffusion.parameterization import PARAMETERIZATIONS
from ..diffusion.predictor import NetworkPredictor
from ..diffusion.schedule import SCHEDULES, Table
from ..diffusion.spelling import parse
from ..errors import CheckpointError, NonFiniteError, RunError, UsageError
from ..formats.networks import create_network
from .objective import Batch, classes, draw, loss, seed
from .recipe import Recipe

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, for each weight
AHEAD = 3  # batches that are drawn, each by a thread, while a step computes


@dataclass(frozen=True)
class State:
    """Where a run stands after a step; the predictors are the run's own and change with the next step.

    Args:
        step: Steps done.
        loss: Of this step's batch, before the step.
        learning_rate: Of this step.
        gradient_norm: Before clipping.
        predictor: With the weights as they are.
        ema: With the averaged weights, in eval mode.
        optimizer: AdamW with its moments.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    predictor: NetworkPredictor
    ema: NetworkPredictor
    optimizer: torch.optim.Optimizer

    def snapshot(self) -> dict[str, Tensor]:
        """All that `train` needs to go on from here, as named tensors on the CPU."""
        tensors = {"step": torch.tensor(self.step)}
        for name, tensor in self.predictor.network.state_dict().items():
            tensors[f"model.{name}"] = tensor
        for name, tensor in self.ema.network.state_dict().items():
            tensors[f"ema.{name}"] = tensor
        for name, weight in self.predictor.network.named_parameters():
            for key, tensor in self.optimizer.state[weight].items():
                tensors[f"optimizer.{name}.{key}"] = tensor
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def train(
    recipe: Recipe,
    data: Data | None = None,
    device: torch.device | str = "cpu",
    snapshot: Mapping[str, Tensor] | None = None,
) -> Iterator[State]:
    """Train a model by the recipe, one state a step; the caller draws bars, saves, and stops when it likes.

    Args:
        recipe: What to train.
        data: The samples, if not those the recipe names.
        device: Where to train.
        snapshot: Of the state to go on from, made under the same recipe.

    Raises:
        UsageError: If the recipe's texts or its data cannot be used.
        NonFiniteError: If the loss or a gradient is no longer finite.
    """
    samples = dataset(recipe.data, recipe.shape) if data is None else data
    device, part = torch.device(device), check_step(recipe, samples, torch.device(device))
    predictor = build(recipe).to(device).train()
    ema = copy.deepcopy(predictor).eval().requires_grad_(False)
    weights = dict(predictor.network.named_parameters())
    optimizer = torch.optim.AdamW(weights.values(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    first = 0 if snapshot is None else restore(snapshot, predictor.network, ema.network, optimizer)
    means, current = (tensors_of(model.network) for model in (ema, predictor))
    learner = called_through(predictor, recipe, device)
    base = predictor.clock.base
    batches = drawn_ahead(lambda step: draw(recipe, samples, base, step, part), first, recipe.steps, device)
    dropout = "dropout" + (str(distributed.rank()) if distributed.rank() else "")
    for step, batch in enumerate(batches, first):
        rate = learning_rate(recipe, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        pieces = batch.pieces(recipe.accumulate) if recipe.accumulate > 1 else [batch]
        values = []
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed(recipe.seed, dropout, step))
            for piece in pieces:
                with together(learner.network, piece is pieces[-1]):
                    value = loss(learner, piece, recipe.penalty, recipe.precision) / len(pieces)
                    value.backward()
                values.append(value.detach())
        norm = nn.utils.clip_grad_norm_(weights.values(), recipe.clip)
        (found,) = distributed.mean([torch.stack(values).sum().item()])
        if not (math.isfinite(found) and norm.isfinite()):
            raise NonFiniteError(
                f"the training is no longer finite at step {step + 1} (loss {found}, gradient {norm.item()}): "
                "lower learning_rate or raise warmup, and check the data's range"
            )
        optimizer.step()
        average(means, current, min(recipe.ema_decay, (1 + step) / (10 + step)))
        yield State(step + 1, found, rate, norm.item(), predictor, ema, optimizer)


def check_step(recipe: Recipe, data: Data, device: torch.device) -> slice:
    """The part of each batch that this process takes, once the recipe can be trained so.

    Raises:
        UsageError: If the batch cannot be cut, labels are missing or too large, or the device lacks the precision.
    """
    shares, pieces = distributed.size(), recipe.accumulate
    if recipe.batch % (shares * pieces):
        raise UsageError(
            f"a batch of {recipe.batch} cannot be cut into equal parts for {shares} processes times {pieces} pieces: "
            f"choose a batch that {shares * pieces} divides"
        )
    if recipe.precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UsageError("this device does not compute in bfloat16: leave precision at float32")
    if recipe.compile and recipe.penalty:
        raise UsageError("the penalty takes derivatives that a compiled network does not give: leave compile at false")
    if classes(recipe) and (data.labels is None or data.labels.max() >= classes(recipe)):
        found = "without labels" if data.labels is None else f"with labels up to {data.labels.max()}"
        raise UsageError(f"the network is told one of {classes(recipe)} classes, and {data.name} comes {found}")
    share = recipe.batch // shares
    return slice(distributed.rank() * share, (distributed.rank() + 1) * share)


def called_through(predictor: NetworkPredictor, recipe: Recipe, device: torch.device) -> NetworkPredictor:
    """The predictor with its network called through what the step needs; the weights are the same."""
    network: nn.Module = predictor.network
    if recipe.compile:
        network = torch.compile(network)  # type: ignore[assignment]
    if distributed.size() > 1:
        network = nn.parallel.DistributedDataParallel(network, [device] if device.type == "cuda" else None)
    told = predictor.clock, predictor.shape, predictor.conditioning
    return NetworkPredictor(network, predictor.schedule, predictor.parameterization, *told)


def together(network: nn.Module, last: bool) -> contextlib.AbstractContextManager:
    """Where a backward pass averages its gradients over the processes, which once a step is enough."""
    if isinstance(network, nn.parallel.DistributedDataParallel) and not last:
        return network.no_sync()
    return contextlib.nullcontext()


def drawn_ahead(drawing: Callable[[int], Batch], first: int, last: int, device: torch.device) -> Iterator[Batch]:
    """The batches of the steps from `first` to before `last` in turn, each drawn while others are trained on."""

    def prepared(step: int) -> Batch:
        batch = drawing(step)
        if device.type != "cuda":
            return batch
        x0, noise, t, labels = batch
        return Batch(
            x0.pin_memory(), noise.pin_memory(), t.pin_memory(), None if labels is None else labels.pin_memory()
        )

    with ThreadPoolExecutor(AHEAD, "batch") as pool:
        waiting = deque(pool.submit(prepared, step) for step in range(first, min(first + AHEAD, last)))
        try:
            for step in range(first, last):
                batch = waiting.popleft().result()
                if step + AHEAD < last:
                    waiting.append(pool.submit(prepared, step + AHEAD))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


def build(recipe: Recipe) -> NetworkPredictor:
    """The recipe's model with its first weights, which follow from the seed and the network alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed(recipe.seed, "weights", 0))
        try:
            network = create_network(recipe.network, recipe.network_config, f"the recipe {recipe.name}")
        except CheckpointError as error:
            raise UsageError(str(error)) from error
    schedule, clock = parse(recipe.schedule, SCHEDULES), parse(recipe.clock, CLOCKS)
    count = getattr(clock.base, "count", None)
    if isinstance(schedule, Table) and clock.discrete and count != schedule.timesteps:
        raise UsageError(
            f"the schedule {recipe.schedule} has {schedule.timesteps} timesteps and the clock {recipe.clock} counts "
            f"{count}: give both the same number"
        )
    # A network that is told classes is measured and sampled as of the first one, unless another is given.
    told = {"class_labels": torch.zeros(1, dtype=torch.long)} if classes(recipe) else None
    return NetworkPredictor(
        network, schedule, parse(recipe.parameterization, PARAMETERIZATIONS), clock, recipe.shape, told
    )


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step: a linear warm-up, then half a cosine down to 0 at the end."""
    warm = min(1.0, (step + 1) / max(recipe.warmup, 1))
    return recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def tensors_of(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters and buffers of a network: to look for them in every step would take a percent of it."""
    return list(network.parameters()), list(network.buffers())


@torch.no_grad()
def average(means: tuple[list[Tensor], list[Tensor]], current: tuple[list[Tensor], list[Tensor]], decay: float) -> None:
    """One step of the moving average, mean <- decay mean + (1 - decay) weight; buffers are copied."""
    torch._foreach_lerp_(means[0], current[0], 1 - decay)
    for mean, buffer in zip(means[1], current[1], strict=True):
        mean.copy_(buffer)


def restore(
    snapshot: Mapping[str, Tensor], network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Put a snapshot's tensors back in their places and return its step.

    Raises:
        RunError: If the snapshot was made of another model.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}, "step": {}}
    try:
        for name, tensor in snapshot.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        network.load_state_dict(parts["model"])
        ema.load_state_dict(parts["ema"])
        state = {
            index: {key: parts["optimizer"][f"{name}.{key}"] for key in ("step", *MOMENTS)}
            for index, (name, _) in enumerate(network.named_parameters())
        }
        if any(state[i][key].shape != weight.shape for i, weight in enumerate(network.parameters()) for key in MOMENTS):
            raise KeyError("a moment of another shape")
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(parts["step"][""])
    except (RuntimeError, KeyError, ValueError, OverflowError) as error:
        raise RunError("the snapshot is of another model: give the recipe it was made by, or another --out") from error
