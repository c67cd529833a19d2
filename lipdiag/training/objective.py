"""What a step is trained on: draws keyed by (seed, step), the mean squared error, and a penalty on the derivative.

The penalty is mean (dy/dk)^2, y the network's output and k the time it is told, at fixed x: the first of the
alternatives that Yang et al. weigh against E-TSDM. The derivative is exact, by forward mode, and reverse mode goes
through it. Of the rules of `lipdiag.linalg.forward_mode` those are used that can be differentiated again.

References:
    Ho, Jain & Abbeel, Denoising diffusion probabilistic models, 2020. https://arxiv.org/abs/2006.11239
    Yang et al., Lipschitz singularities in diffusion models (E-TSDM), 2024. https://arxiv.org/abs/2306.11251
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..data.dataset import Data
from ..diffusion.clock import Clock
from ..diffusion.continuous import along
from ..diffusion.parameterization import eps
from ..diffusion.predictor import NetworkPredictor
from ..errors import UsageError
from ..linalg.forward_mode import RULES, unpacked, with_tangent
from .recipe import Recipe

SMALLEST_TIME = 1e-5  # of continuous clocks: at t = 0 there is no noise to predict


class Batch(NamedTuple):
    """What one step is trained on."""

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


def draw(recipe: Recipe, data: Data, clock: Clock, step: int, part: slice = slice(None)) -> Batch:
    """The batch of one step, from the seed, the step and the clock without sharing; or the part of it asked for."""
    generator = torch.Generator().manual_seed(seed(recipe.seed, "batch", step))
    indices = torch.randint(len(data), (recipe.batch,), generator=generator)
    noise = torch.randn((recipe.batch, *data.shape), generator=generator)[part]
    uniform = torch.rand(recipe.batch, generator=generator, dtype=torch.float64)[part]
    mirrored = torch.rand(recipe.batch, generator=generator)[part] < 0.5 if recipe.flip else None
    chosen = indices[part].tolist()
    x0 = torch.stack([data[index] for index in chosen])
    if mirrored is not None:
        x0 = torch.where(along(mirrored, x0), x0.flip(-1), x0)
    count = getattr(clock, "count", None)
    t = clock.time((uniform * count).floor()) if clock.discrete and count else uniform.clamp(min=SMALLEST_TIME)
    labels = None
    if classes(recipe) and data.labels is not None:
        labels = torch.from_numpy(data.labels[chosen].astype(np.int64))
    return Batch(x0, noise, t, labels)


def classes(recipe: Recipe) -> int:
    """How many classes the recipe's network is told; 0 if it is told none."""
    return recipe.network_config.get("num_class_embeds") or 0


def loss(
    predictor: NetworkPredictor, batch: Batch, penalty: float = 0.0, precision: str = "float32"
) -> Float[Tensor, ""]:
    """The mean squared error of the network's own output, at each sample's own noise level, whatever is shared.

    Args:
        predictor: Of the network.
        batch: On the CPU, or where the network is.
        penalty: Weight of the mean square of the output's derivative in the timestep that the network is told.
        precision: "bfloat16" for autocast; the error itself is always computed in float32.
    """
    x0, noise, t, labels = batch
    device = next(predictor.parameters()).device
    x0, noise = (values.to(device, non_blocking=True) for values in (x0, noise))

    def column(values: Tensor) -> Tensor:
        return along(values.to(x0.dtype), x0).to(device)

    alpha, sigma = map(column, predictor.schedule(t))
    a, b = map(column, predictor.parameterization(predictor.schedule, t))
    x, target = alpha * x0 + sigma * noise, a * x0 + b * noise
    # Of a network said to predict the noise, the output comes back as it is. Its own prediction turned into noise and
    # back would be lost where alpha = 0, and its digits where sigma is small.
    told: dict[str, Any] = predictor.conditioning
    if labels is not None:
        told = told | {"class_labels": labels.to(device)}
    raw = NetworkPredictor(predictor.network, predictor.schedule, eps, predictor.clock, predictor.shape, told)
    t = t.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        if not penalty:
            return (raw(x, t) - target).square().mean()
        y, derivative = derivative_in_time(raw, x, t)
    error = (y - target).square().mean()
    return error if derivative is None else error + penalty * derivative.square().mean()


def derivative_in_time(predictor: NetworkPredictor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
    """The prediction, and its derivative in the timestep told, None if there is none; both with their graphs."""
    timestep = predictor.clock(t)
    with forward_ad.dual_level(), TwiceDifferentiable():
        y = predictor.conditioned(x, t, forward_ad.make_dual(timestep, torch.ones_like(timestep)))
        return forward_ad.unpack_dual(y)


def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    """Group norm from its formula, y = (x - mean) r and dy = r (dx - mean(dx) - y mean(y dx)).

    Torch's own forward mode fails on strided inputs, and goes through Python for every operation.
    """
    x, dx = unpacked(input)
    if dx is None:
        return functional.group_norm(input, num_groups, weight, bias, eps)
    exact = torch.promote_types(x.dtype, torch.float32)  # as autocast has it
    x, dx = (z.to(exact).reshape(len(z), num_groups, -1) for z in (x, dx))
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    rate = (variance + eps).rsqrt()
    y = (x - mean) * rate
    dy = rate * (dx - dx.mean(-1, keepdim=True) - y * (y * dx).mean(-1, keepdim=True))
    shape = 1, -1, *[1] * (input.ndim - 2)
    y, dy = (z.reshape(input.shape) for z in (y, dy))
    if weight is not None:
        y, dy = y * weight.view(shape), dy * weight.view(shape)
    return with_tangent(y if bias is None else y + bias.view(shape), dy)


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """Attention from its formula: the fused kernels have no forward mode."""
    if attn_mask is not None or dropout_p or is_causal or enable_gqa:
        raise UsageError("a network with masked attention, or dropout in it, cannot be trained with penalty: set it 0")
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    return softmax(scores, -1) @ value


softmax = RULES[torch.softmax]
FUSED = (functional.layer_norm, torch.layer_norm, functional.multi_head_attention_forward)
DIFFERENTIABLE = {name: rule for name, rule in RULES.items() if name not in FUSED} | {
    functional.group_norm: group_norm,
    torch.group_norm: group_norm,
    functional.scaled_dot_product_attention: attention,
}


class TwiceDifferentiable(TorchFunctionMode):
    """Rules of forward mode that reverse mode can go through."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return DIFFERENTIABLE.get(func, func)(*args, **(kwargs or {}))
