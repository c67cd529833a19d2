"""The networks that are benchmarked: one trained, the others of real size and architecture with random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipdiag.checkpoints import load
from lipdiag.data.dataset import ASSETS, dataset
from lipdiag.diffusion.betas import Linear
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.quantities import draw
from lipdiag.training.loop import build
from lipdiag.training.recipe import RECIPES

Device = torch.device | str
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """A network to be benchmarked, and where its x0 comes from.

    Attributes:
        name: For the table.
        trained: Whether its Jacobians have the spectrum of a diffusion model; random weights take other Krylov steps.
        attention: Whether it has attention, which costs forward products more than convolutions do.
        predictor: In eval mode, without gradients for its weights.
        sample: Draw number -> x0.
        heavy: A quantity made of the full report's own products is priced by them and not run, one made of others
            is run at the smallest batch only.
        rival_pairs: Pairs on which rivals are timed.
        reference_steps: Krylov steps of the reference that errors are told by.
    """

    name: str
    trained: bool
    attention: bool
    predictor: NetworkPredictor
    sample: Callable[[int], Tensor]
    heavy: bool = False
    rival_pairs: int = 8
    reference_steps: int = 64

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.predictor.parameters())

    @property
    def title(self) -> str:
        size = f"{self.parameters / 1e6:.2g}" if self.parameters < 1e7 else f"{self.parameters / 1e6:.0f}"
        shape = "x".join(map(str, self.predictor.shape))
        return f"{self.name}: {size} M parameters, {shape}, {'trained' if self.trained else 'random weights'}"


def digits(device: Device = CPU) -> Subject:
    """The embedded model, or its architecture before training where the package holds no weights."""
    trained = (ASSETS / "digits-ddpm").exists()
    predictor = load("digits-ddpm") if trained else build(RECIPES["digits"])
    data = dataset("digits", predictor.shape)

    def sample(i: int) -> Tensor:
        return data[draw.data_index(0, i, len(data))]

    return Subject("digits", trained, True, predictor.eval().requires_grad_(False).to(device), sample, rival_pairs=32)


def random_weights(
    name: str,
    network: str,
    configuration: dict[str, Any],
    attention: bool,
    device: Device = CPU,
    shape: tuple[int, int, int] = (3, 32, 32),
    conditioning: dict[str, Tensor] | None = None,
    **about: Any,
) -> Subject:
    """A diffusers network of 3x32x32 with the weights that a seed gives it; its x0 are uniform in [-1, 1]."""
    import diffusers

    sides = {"sample_size": shape[-1], "in_channels": shape[0], "out_channels": shape[0]}
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        made = getattr(diffusers, network)(**sides, **configuration)
    predictor = NetworkPredictor(made, Linear(), eps, Timesteps(), shape, conditioning).to(device)

    def sample(i: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng(i).uniform(-1, 1, predictor.shape))

    return Subject(name, False, attention, predictor.eval().requires_grad_(False), sample, **about)


CONVOLUTIONAL: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "norm_num_groups": 8,
    "add_attention": False,
}
CIFAR10: dict[str, Any] = {  # that of google/ddpm-cifar10-32
    "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "norm_eps": 1e-6,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
TRANSFORMER: dict[str, Any] = {"patch_size": 4, "num_layers": 6, "num_attention_heads": 6, "attention_head_dim": 32}

LARGE: dict[str, Any] = {"patch_size": 2, "num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72}
CLASS = {"class_labels": torch.zeros(1, dtype=torch.long)}
TEXT = {"encoder_hidden_states": torch.zeros(1, 77, 768)}

SUBJECTS: dict[str, Callable[..., Subject]] = {
    "digits": digits,
    "convolutional": partial(random_weights, "convolutional U-Net", "UNet2DModel", CONVOLUTIONAL, False, heavy=True),
    "transformer": partial(
        random_weights, "diffusion transformer", "DiTTransformer2DModel", TRANSFORMER, True, conditioning=CLASS
    ),
    "cifar10": partial(
        random_weights, "CIFAR-10 U-Net", "UNet2DModel", CIFAR10, True, heavy=True, rival_pairs=4, reference_steps=40
    ),
}

LARGE_SUBJECTS: dict[str, Callable[..., Subject]] = {
    "dit": partial(
        random_weights, "DiT-XL/2 shape", "DiTTransformer2DModel", LARGE, True, shape=(4, 32, 32), conditioning=CLASS
    ),
    "sd": partial(
        random_weights,
        "Stable Diffusion 1.5 shape",
        "UNet2DConditionModel",
        {"cross_attention_dim": 768},
        True,
        shape=(4, 64, 64),
        conditioning=TEXT,
    ),
}
"""What takes a graphics processor."""
