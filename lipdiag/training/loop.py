"""The training loop: a generator of states, one a step, from a recipe.

The network learns y = a x0 + b eps (its parameterization) from x = alpha x0 + sigma eps under the mean squared error,
at uniform timesteps: integers where the clock counts them, else times uniform in (0, 1). All that is random in a step
follows from (seed, step): a run that is stopped and resumed equals one that is not, and two recipes that differ in
the clock alone see the same samples, timesteps and noise. The noise level is never shared, only the network's own time.

References:
    Ho, Jain & Abbeel, Denoising diffusion probabilistic models, 2020. https://arxiv.org/abs/2006.11239
    Yang et al., Lipschitz singularities in diffusion models (E-TSDM), 2024. https://arxiv.org/abs/2306.11251
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lipdiag.diffusion.clock import CLOCKS, Clock
from lipdiag.diffusion.parameterization import PARAMETERIZATIONS, eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import SCHEDULES
from lipdiag.diffusion.spelling import parse
from lipdiag.errors import CheckpointError, NonFiniteError, RunError, UsageError
from lipdiag.training.data import Data, dataset
from lipdiag.training.networks import create_network
from lipdiag.training.recipe import Recipe

SMALLEST_TIME = 1e-5  # of continuous clocks: at t = 0 there is no noise to predict


class Batch(NamedTuple):
    """What one step is trained on."""

    x0: Float[Tensor, "batch *event"]
    noise: Float[Tensor, "batch *event"]
    t: Float[Tensor, "batch"]


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
    predictor = build(recipe).to(device).train()
    ema = copy.deepcopy(predictor).eval().requires_grad_(False)
    weights = dict(predictor.network.named_parameters())
    optimizer = torch.optim.AdamW(weights.values(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    first = 0 if snapshot is None else restore(snapshot, predictor.network, ema.network, optimizer)
    for step in range(first, recipe.steps):
        rate = learning_rate(recipe, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
            torch.manual_seed(seed(recipe.seed, "dropout", step))
            value = loss(predictor, draw(recipe, samples, predictor.clock.base, step))
            optimizer.zero_grad()
            value.backward()
        norm = nn.utils.clip_grad_norm_(weights.values(), recipe.clip)
        if not (value.isfinite() and norm.isfinite()):
            raise NonFiniteError(
                f"The training is no longer finite at step {step + 1} (loss {value.item()}, gradient {norm.item()}): "
                "lower learning_rate or raise warmup, and check the data's range."
            )
        optimizer.step()
        average(ema.network, predictor.network, min(recipe.ema_decay, (1 + step) / (10 + step)))
        yield State(step + 1, value.item(), rate, norm.item(), predictor, ema, optimizer)


def build(recipe: Recipe) -> NetworkPredictor:
    """The recipe's model with its first weights, which follow from the seed and the network alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed(recipe.seed, "weights", 0))
        try:
            network = create_network(recipe.network, recipe.network_config, f"the recipe {recipe.name}")
        except CheckpointError as error:
            raise UsageError(str(error)) from error
    return NetworkPredictor(
        network,
        parse(recipe.schedule, SCHEDULES),
        parse(recipe.parameterization, PARAMETERIZATIONS),
        parse(recipe.clock, CLOCKS),
        recipe.shape,
    )


def seed(root: int, role: str, step: int) -> int:
    """A seed for one role in one step, so that no stream of random numbers runs through a training."""
    return int(np.random.SeedSequence([root, *role.encode(), step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def draw(recipe: Recipe, data: Data, clock: Clock, step: int) -> Batch:
    """The batch of one step, from the seed, the step and the clock without sharing."""
    generator = torch.Generator().manual_seed(seed(recipe.seed, "batch", step))
    indices = torch.randint(len(data), (recipe.batch,), generator=generator)
    x0 = torch.stack([data[index] for index in indices.tolist()])
    noise = torch.randn(x0.shape, generator=generator)
    uniform = torch.rand(recipe.batch, generator=generator, dtype=torch.float64)
    count = getattr(clock, "count", None)
    t = clock.time((uniform * count).floor()) if clock.discrete and count else uniform.clamp(min=SMALLEST_TIME)
    return Batch(x0, noise, t)


def loss(predictor: NetworkPredictor, batch: Batch) -> Float[Tensor, ""]:
    """The mean squared error of the network's own output, at each sample's own noise level, whatever is shared."""
    x0, noise, t = batch
    device = next(predictor.parameters()).device

    def column(values: Tensor) -> Tensor:
        return values.to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))

    alpha, sigma = map(column, predictor.schedule(t))
    a, b = map(column, predictor.parameterization(predictor.schedule, t))
    x, target = alpha * x0 + sigma * noise, a * x0 + b * noise
    # Of a network said to predict the noise, the output comes back as it is. Its own prediction turned into noise and
    # back would be lost where alpha = 0, and its digits where sigma is small.
    told = predictor.clock, predictor.shape, predictor.conditioning
    raw = NetworkPredictor(predictor.network, predictor.schedule, eps, *told)
    return (raw(x.to(device), t.to(device)) - target.to(device)).square().mean()


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step: a linear warm-up, then half a cosine down to 0 at the end."""
    warm = min(1.0, (step + 1) / max(recipe.warmup, 1))
    return recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


@torch.no_grad()
def average(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """One step of the moving average, ema <- decay ema + (1 - decay) weights; buffers are copied."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
    for mean, buffer in zip(ema.buffers(), network.buffers(), strict=True):
        mean.copy_(buffer)


def restore(
    snapshot: Mapping[str, Tensor], network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Put a snapshot's tensors back in their places and return its step.

    Raises:
        RunError: If the snapshot was made of another model.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}, "step": {}}
    for name, tensor in snapshot.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    try:
        network.load_state_dict(parts["model"])
        ema.load_state_dict(parts["ema"])
        state = {
            index: {key: parts["optimizer"][f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for index, (name, _) in enumerate(network.named_parameters())
        }
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(parts["step"][""])
    except (RuntimeError, KeyError) as error:
        raise RunError("The snapshot is of another model: give the recipe it was made by, or another --out.") from error
