"""The training loop: a generator of states from a recipe, one a step on a processor, about one a second on a card.

The network learns y = a x0 + b eps (its parameterization) from x = alpha x0 + sigma eps under the mean squared error,
at uniform timesteps: integers where the clock counts them, else times uniform in (0, 1). All that is random in a step
follows from (seed, step): a run that is stopped and resumed equals one that is not, and two recipes that differ in
the clock alone see the same samples, timesteps and noise. The noise level is never shared, only the network's own time.

A card computes while this prepares the steps that follow, and would stand still whenever somebody looked at a number of
its own. So losses and norms stay there, and are read and judged together.

Several processes that have joined (`lipdiag.distributed`) take equal parts of each batch and average their gradients:
up to rounding, and without dropout, the model is the one that a single process trains.
"""

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import distributed
from ..data.dataset import Data, dataset
from ..data.shipped import SHIPPED
from ..diffusion.clock import CLOCKS
from ..diffusion.parameterization import PARAMETERIZATIONS
from ..diffusion.predictor import NetworkPredictor
from ..diffusion.schedule import SCHEDULES, Table
from ..diffusion.spelling import parse
from ..errors import CheckpointError, NonFiniteError, RunError, UsageError
from ..files import shown
from ..formats.networks import create_network
from .batch import classes, draw, drawn_ahead, resident, seed
from .learner import Learner
from .manner import manner, tell
from .recipe import Recipe

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, for each weight
LONGEST = 200  # steps between two looks at their numbers
SETTLED = 3  # looks after which the pace is known


class Row(NamedTuple):
    """What is logged of a step.

    Attributes:
        step: Steps done.
        loss: Of this step's batch, before the step.
        learning_rate: Of this step.
        gradient_norm: Before clipping.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float


@dataclass(frozen=True)
class State:
    """Where a run stands after a step; the predictors are the run's own and change with the next step.

    Args:
        rows: Of the steps since the state before, this step's last.
        predictor: With the weights as they are.
        ema: With the averaged weights, in eval mode.
        optimizer: AdamW with its moments.
        compiled: Whether the network's passes are compiled; None while that is not decided.
        precision: Of the network's layers.
    """

    rows: tuple[Row, ...]
    predictor: NetworkPredictor
    ema: NetworkPredictor
    optimizer: torch.optim.Optimizer
    compiled: bool | None
    precision: str

    @property
    def step(self) -> int:
        """Steps done."""
        return self.rows[-1].step

    @property
    def loss(self) -> float:
        """The loss of the last step's batch, before the step."""
        return self.rows[-1].loss

    @property
    def holds(self) -> bool:
        """Whether the weights are still those of this step."""
        return all(int(found["step"]) == self.step for found in self.optimizer.state.values())

    def snapshot(self) -> dict[str, Tensor]:
        """All that `train` needs to go on from here, as named tensors on the CPU."""
        decided = -1 if self.compiled is None else int(self.compiled)
        tensors = {"step": torch.tensor(self.step), "compiled": torch.tensor(decided)}
        for name, tensor in self.predictor.network.state_dict().items():
            tensors[f"model.{name}"] = tensor
        for name, tensor in self.ema.network.state_dict().items():
            tensors[f"ema.{name}"] = tensor
        for name, weight in self.predictor.network.named_parameters():
            for key, tensor in self.optimizer.state[weight].items():
                tensors[f"optimizer.{name}.{key}"] = tensor
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


@dataclass
class Pace:
    """When to look at the numbers of the steps, and how long a step takes.

    Attributes:
        patience: Seconds from one look to the next; 0 to look after every step.
        every: Steps after whose multiples there is a look whatever the pace.
        length: Steps from the last look to the next.
        looks: How many there were since the steps went at this pace.
        seconds: Of a step, the least found; the first stretch, which prepares what the others use, does not count.
    """

    patience: float
    every: Sequence[int] = ()
    length: int = 1
    looks: int = 0
    seconds: float = math.inf
    began: float = field(default_factory=lambda: time.perf_counter())

    def due(self, step: int, waiting: int) -> bool:
        """Whether to look after a step, so many of which were not looked at."""
        return waiting >= self.length or any(every and step % every == 0 for every in self.every)

    @property
    def passed(self) -> float:
        """Seconds since the last look."""
        return time.perf_counter() - self.began

    def look(self, seconds: float, steps: int) -> None:
        """Take note of how long the steps since the last look took, the same in all processes."""
        if self.looks:
            self.seconds = min(self.seconds, seconds / steps)
        self.looks += 1
        self.length = max(1, min(LONGEST, int(self.patience * steps / max(seconds, 1e-9))))

    def start(self, anew: bool = False) -> None:
        """Begin the next stretch; anew where the steps go at another pace from now on."""
        if anew:
            self.length, self.looks, self.seconds = 1, 0, math.inf
        self.began = time.perf_counter()


def train(
    recipe: Recipe,
    data: Data | None = None,
    device: torch.device | str = "cpu",
    snapshot: Mapping[str, Tensor] | None = None,
    every: Sequence[int] = (),
) -> Iterator[State]:
    """Train a model by the recipe, state by state; the caller draws bars, saves, and stops when it likes.

    Args:
        recipe: What to train.
        data: The samples, if not those the recipe names.
        device: Where to train.
        snapshot: Of the state to go on from, made under the same recipe.
        every: Numbers of steps after each of which there is a state, however fast the device is.

    Raises:
        UsageError: If the recipe's texts or its data cannot be used.
        NonFiniteError: If the loss or a gradient is no longer finite; on a card the weights may be so too by then.
    """
    samples = dataset(recipe.data, recipe.shape) if data is None else data
    device, part = torch.device(device), check_step(recipe, samples)
    how = manner(recipe, device)
    predictor = build(recipe).to(device).train()
    ema = copy.deepcopy(predictor).eval().requires_grad_(False)
    weights = list(predictor.network.parameters())
    optimizer = torch.optim.AdamW(weights, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    first, compiled = (0, None) if snapshot is None else restore(snapshot, predictor.network, ema.network, optimizer)
    if device.type == "cuda":
        samples = resident(samples, device, torch.cuda.mem_get_info(device)[0])
    means, current = (tensors_of(model.network) for model in (ema, predictor))
    learner, base = Learner(predictor, recipe, device, how, compiled), predictor.clock.base
    batches = drawn_ahead(lambda step: draw(recipe, samples, base, step, part, device), first, recipe.steps, device)
    pace, waiting = Pace(how.patience, (*every, recipe.steps)), []
    for step, batch in enumerate(batches, first):
        rate = learning_rate(recipe, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        value = learner.passes(batch, step)
        norm = nn.utils.clip_grad_norm_(weights, recipe.clip)
        waiting.append((value, norm, rate))
        looked = pace.due(step + 1, len(waiting))
        if looked:
            rows, seconds = read(waiting, step + 1, pace)
        optimizer.step()
        average(means, current, min(recipe.ema_decay, (1 + step) / (10 + step)))
        if looked:
            pace.look(seconds, len(rows))
            anew = pace.looks >= SETTLED and learner.consider(pace.seconds, recipe.steps - step - 1)
            yield State(rows, predictor, ema, optimizer, learner.compiled, how.precision)
            waiting.clear()
            pace.start(anew)


def read(waiting: Sequence[tuple[Tensor, Tensor, float]], step: int, pace: Pace) -> tuple[tuple[Row, ...], float]:
    """The rows of the steps up to `step`, once they are computed, and how long that took.

    Raises:
        NonFiniteError: If one of them is not finite.
    """
    numbers = torch.stack([torch.stack([value, norm]) for value, norm, _ in waiting]).tolist()
    *losses, seconds = distributed.mean([*(value for value, _ in numbers), pace.passed])
    rows = []
    for done, (found, (_, norm), (*_, rate)) in enumerate(
        zip(losses, numbers, waiting, strict=True), step - len(waiting) + 1
    ):
        if not (math.isfinite(found) and math.isfinite(norm)):
            raise NonFiniteError(
                f"the training is no longer finite at step {done} (loss {found}, gradient {norm}): "
                "lower learning_rate or raise warmup, and check the data's range"
            )
        rows.append(Row(done, found, rate, norm))
    return tuple(rows), seconds


def check_step(recipe: Recipe, data: Data) -> slice:
    """The part of each batch that this process takes, once the recipe can be trained so; ignored classes are said.

    Raises:
        UsageError: If the batch cannot be cut, labels are missing or too large, or something else goes with the data.
    """
    shares, pieces = distributed.size(), recipe.accumulate
    if recipe.batch % (shares * pieces):
        raise UsageError(
            f"a batch of {recipe.batch} cannot be cut into equal parts for {shares} processes times {pieces} pieces: "
            f"choose a batch that {shares * pieces} divides"
        )
    if classes(recipe) and (data.labels is None or data.labels.max() >= classes(recipe)):
        found = "without labels" if data.labels is None else f"with labels up to {data.labels.max()}"
        raise UsageError(f"the network is told one of {classes(recipe)} classes, and {data.name} comes {found}")
    if data.conditions:
        raise UsageError(
            f"{data.name} holds {shown(', '.join(data.conditions))} beside the samples, and a recipe trains on samples "
            "and their classes alone: leave it out, or call labels what is one integer from 0 on for each sample"
        )
    if data.labels is not None and not classes(recipe) and recipe.data not in SHIPPED:
        tell(
            f"the classes in {data.name} are ignored, since the recipe's network is told none; "
            f"network_config.num_class_embeds={data.labels.max() + 1} trains one that is"
        )
    share = recipe.batch // shares
    return slice(distributed.rank() * share, (distributed.rank() + 1) * share)


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
) -> tuple[int, bool | None]:
    """Put a snapshot's tensors back in their places; returns its step, and whether the network was compiled by then.

    Raises:
        RunError: If the snapshot was made of another model.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}, "step": {}, "compiled": {}}
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
        compiled = int(parts["compiled"].get("", torch.tensor(-1)))
        return int(parts["step"][""]), None if compiled < 0 else compiled > 0
    except (RuntimeError, KeyError, ValueError, OverflowError) as error:
        raise RunError("the snapshot is of another model: give the recipe it was made by, or another --out") from error
