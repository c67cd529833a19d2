"""What a step makes small: the mean squared error, and a penalty on the derivative.

The penalty is mean (dy/dk)^2, y the network's output and k the time it is told, at fixed x: the first of the
alternatives that Yang et al. weigh against E-TSDM. The derivative is exact, by forward mode, and reverse mode goes
through it. Of the rules of `lipdiag.linalg.forward_mode` those are used that can be differentiated again.

References:
    Ho, Jain & Abbeel, Denoising diffusion probabilistic models, 2020. https://arxiv.org/abs/2006.11239
    Yang et al., Lipschitz singularities in diffusion models (E-TSDM), 2024. https://arxiv.org/abs/2306.11251
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..diffusion.continuous import along
from ..diffusion.parameterization import eps
from ..diffusion.predictor import NetworkPredictor
from ..errors import UsageError
from ..linalg.forward_mode import RULES, unpacked, with_tangent
from .batch import Batch, brought


def loss(
    predictor: NetworkPredictor, batch: Batch, penalty: float = 0.0, precision: str = "float32"
) -> Float[Tensor, ""]:
    """The mean squared error of the network's own output, at each sample's own noise level, whatever is shared.

    Args:
        predictor: Of the network.
        batch: Where the network is, its times on the processor.
        penalty: Weight of the mean square of the output's derivative in the timestep that the network is told.
        precision: "bfloat16" for autocast; the error itself is always computed in float32.
    """
    x0, noise, t, labels = batch
    # Four numbers a sample, from tables in float64: the processor has them sooner than another device is told of them.
    columns = torch.stack([*predictor.schedule(t), *predictor.parameterization(predictor.schedule, t)]).to(x0.dtype)
    alpha, sigma, a, b = (along(column, x0) for column in brought(columns, x0.device))
    x, target = alpha * x0 + sigma * noise, a * x0 + b * noise
    # Of a network said to predict the noise, the output comes back as it is. Its own prediction turned into noise and
    # back would be lost where alpha = 0, and its digits where sigma is small.
    told = predictor.conditioning | ({} if labels is None else {"class_labels": labels})
    raw = NetworkPredictor(predictor.network, predictor.schedule, eps, predictor.clock, predictor.shape, told)
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        if not penalty:
            return (raw.conditioned(x, t, brought(predictor.clock(t), x.device)) - target).square().mean()
        y, derivative = derivative_in_time(raw, x, t)
    error = (y - target).square().mean()
    return error if derivative is None else error + penalty * derivative.square().mean()


def derivative_in_time(predictor: NetworkPredictor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
    """The prediction, and its derivative in the timestep told, None if there is none; both with their graphs."""
    timestep = brought(predictor.clock(t), x.device)
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
