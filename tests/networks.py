"""Small networks for tests: one that is well behaved, and ones that misbehave silently."""

import math

import torch
from torch import nn

from lipdiag.diffusion.clock import Clock, Timesteps
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear

SHAPE = (1, 4, 4)


class Tiny(nn.Module):
    """Convolutions with a smooth dependence on time."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(1, 8, 3, padding=1)
            self.last = nn.Conv2d(8, 1, 3, padding=1)
            self.time = nn.Linear(2, 8)

    def embed(self, timestep):
        return self.time(torch.stack([torch.sin(timestep / 50), torch.log1p(timestep)], 1))[:, :, None, None]

    def forward(self, x, timestep):
        return self.last(torch.nn.functional.silu(self.first(x) + self.embed(timestep)))


class Rounding(Tiny):
    """Rounds its timestep, as an embedding table does."""

    def embed(self, timestep):
        return super().embed(timestep.round())


class Kinked(Tiny):
    """Adds a triangular wave of the timestep, of slopes 1 and -1 and period 0.002."""

    def forward(self, x, timestep):
        wave = ((1000 * timestep + 0.5) % 2 - 1).abs() / 1000
        return self.last(self.first(x)) + wave[:, None, None, None]


class Detached(Tiny):
    """Cuts the gradient in x on one path."""

    def forward(self, x, timestep):
        return super().forward(x, timestep) + 0.5 * x.detach() * torch.ones_like(x) + 0.5 * self.cut(x)

    def cut(self, x):
        with torch.no_grad():
            return 3 * self.last(self.first(x))


class Mixing(Tiny):
    """Lets samples of a batch see each other."""

    def forward(self, x, timestep):
        return super().forward(x - x.mean(0, keepdim=True), timestep)


class Shrinking(Tiny):
    """Returns another shape than it was given."""

    def forward(self, x, timestep):
        return super().forward(x, timestep)[..., 1:]


class Exploding(Tiny):
    """Returns NaN."""

    def forward(self, x, timestep):
        return super().forward(x, timestep) * torch.nan


class Timeless(Tiny):
    """Does not look at the time."""

    def embed(self, timestep):
        return super().embed(torch.zeros_like(timestep))


def predictor(network: nn.Module | None = None, clock: Clock | None = None) -> NetworkPredictor:
    """A network as a DDPM."""
    return NetworkPredictor(network or Tiny(), Linear(), eps, clock or Timesteps(1000), SHAPE).eval()


class Sinusoids(nn.Module):
    """diffusers' encoding of the timestep in the timestep's own precision, where its own is always in float32.

    Rounded to float32 it is no smooth function of time, and differences over short steps are of its rounding.

    Args:
        of: diffusers' module.
    """

    def __init__(self, of: nn.Module):
        super().__init__()
        self.of = of

    def forward(self, timestep):
        half = self.of.num_channels // 2
        each = torch.arange(half, dtype=timestep.dtype) / (half - self.of.downscale_freq_shift)
        angle = timestep[:, None] * torch.exp(-math.log(10000) * each)
        pair = (angle.cos(), angle.sin()) if self.of.flip_sin_to_cos else (angle.sin(), angle.cos())
        return torch.cat(pair, -1)


def smooth(network: nn.Module) -> nn.Module:
    """A UNet2DModel that encodes its timestep in the timestep's own precision."""
    network.time_proj = Sinusoids(network.time_proj)
    return network


def latent_unet(**changes):
    """A small U-Net as Stable Diffusion's, of latents of 4 x 8 x 8 and embeddings of 8 numbers, always the same."""
    import diffusers  # which takes seconds, and most that import these networks do without

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.UNet2DConditionModel(**{
            "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 8), "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "norm_num_groups": 4,
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 8, "attention_head_dim": 4,
        } | changes)  # fmt: skip
