"""How many dimensions the data have about a clean sample, as the model knows them.

Both ask the model around alpha x0, at the noise of a timestep. Directions in which the data are wide against that noise
count, thin ones do not. Where none does, the model knows the sample as an isolated point: it has it by heart.

    flipd           d - sigma tr J + |eps|^2, at alpha x0 itself: the rate at which the log-density of the noised data
                    falls as the noise grows
    normal_bundle   d less the rank, up to its widest gap, of the predictions at 4 d noised copies of x0, about their
                    mean: near a manifold they are normal to it. Where the data are curved on the scale of the noise
                    there is no wide gap, and no such dimension

References:
    Kamkari et al., A geometric view of data complexity, 2024. https://arxiv.org/abs/2406.03537
    Stanczuk et al., Your diffusion model secretly knows the dimension of the data manifold, 2022.
    https://arxiv.org/abs/2212.12611
    Ross et al., A geometric framework for understanding memorization in generative models, 2024.
    https://arxiv.org/abs/2411.00113
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.continuous import along
from ..linalg.linearize import linearize
from ..linalg.trace import hutchinson_trace
from .point import Point
from .quantity import Quantity, Values, Variable, norms

COPIES = 4
"""Noised copies of a sample for each of its numbers, as the authors have it."""

TOGETHER = 32
"""Predictions that are kept before they are summed up."""


def clean(point: Point) -> Float[Tensor, "batch *event"]:
    """alpha x0, float64."""
    x = point.x.double()
    return x - along(point.predictor.schedule(point.t)[1], x) * point.noise.double()


def flipd(point: Point) -> Values:
    x, (_, sigma) = clean(point).to(point.x.dtype), point.predictor.schedule(point.t)
    line = linearize(point.predictor, x, point.t, point.methods, record=False)
    images = torch.stack([line.jvp(dx=z.reshape(x.shape).to(x.dtype)).flatten(1) for z in point.probes])
    trace = hutchinson_trace(point.probes, images, point.group)
    return {
        "flipd": x[0].numel() - sigma * trace.value + norms(line.output).square(),
        "flipd_standard_error": sigma * trace.standard_error,
    }


@torch.no_grad()
def normal_bundle(point: Point) -> Values:
    """The copies' noise is the same for all samples. Memory: 8 d^2 bytes a sample."""
    x0, generator = clean(point), torch.Generator().manual_seed(0)
    d, sigma = x0[0].numel(), along(point.predictor.schedule(point.t)[1], x0)
    gram = torch.zeros(len(x0), d, d, dtype=torch.float64, device=x0.device)
    total = gram[:, :1].clone()
    for begin in range(0, COPIES * d, TOGETHER):
        copies = range(begin, min(begin + TOGETHER, COPIES * d))
        drawn = torch.stack([torch.randn(x0.shape[1:], generator=generator, dtype=torch.float64) for _ in copies])
        noised = ((x0 + sigma * noise).to(point.x.dtype) for noise in drawn.to(x0.device))
        said = torch.stack([point.predictor(x, point.t).flatten(1).double() for x in noised], 1)
        gram.baddbmm_(said.mT, said)
        total += said.sum(1, keepdim=True)
    gram.baddbmm_(total.mT, total, alpha=-1 / (COPIES * d))
    size = (torch.linalg.eigvalsh(gram) / (COPIES * d)).clamp_min(0).sqrt().flip(1)
    whole, none = torch.ones_like(size[:, :1]), torch.zeros_like(size[:, :1])  # pure noise, and nothing
    gaps = -torch.cat([whole, size, none], 1).diff(dim=1)
    return {"normal_bundle": d - gaps.argmax(1).double(), "normal_bundle_gap": gaps.amax(1)}


KNOWN = "dimension of the data about x0, as the model knows them at this noise level"
QUANTITIES = {
    "flipd": Quantity(
        flipd,
        {
            "flipd": Variable(f"{KNOWN}: d - sigma tr J + |eps|^2 at alpha x0", "1", "count"),
            "flipd_standard_error": Variable("its standard error over probes", "1", "standard error"),
        },
        lambda work: 1 + work.probes,
        of_noise=True,
    ),
    "normal_bundle": Quantity(
        normal_bundle,
        {
            "normal_bundle": Variable(f"{KNOWN}: by the rank of the predictions about it", "1", "count"),
            "normal_bundle_gap": Variable(
                "between the singular values that decide it, in parts of pure noise's", "1", "gap"
            ),
        },
        lambda work: COPIES * work.numbers,
        of_noise=True,
    ),
}
