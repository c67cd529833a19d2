"""Latents of pictures, by the autoencoder that lies beside a latent network in its diffusers folder.

x0 is the mean of the encoder's posterior, shifted and scaled as the folder's config tells, and packed into tokens for
networks that take those. The class is one of a closed list, and its weights are read as those of any network.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import Data
from ..data.ranged import Derived
from ..errors import UsageError
from ..files import read_json, shown
from ..formats.checkpoint import folder_digest
from ..formats.diffusers_directory import network_arguments, read_state
from ..formats.networks import create_network, diffusers_class
from ..weights.refusal import refuse
from ..weights.tensors import fit

AUTOENCODERS = {"AutoencoderKL": partial(diffusers_class, "AutoencoderKL")}
PATCH = 2  # of the latents' side that one token holds, where samples are tokens


@dataclass(frozen=True, eq=False)
class Encoder:
    """An autoencoder's first half, for the samples of one latent model.

    Args:
        network: On the model's device.
        shape: Of a sample of the latent model, (channels, height, width) or (tokens, channels).
        pictures: Of a picture that it is encoded from.
        scale: What latents are multiplied by, one number or one a channel.
        shift: What is taken from them before.
        digest: SHA-256 of the files.
    """

    network: Any
    shape: tuple[int, ...]
    pictures: tuple[int, int, int]
    scale: Tensor
    shift: Tensor
    digest: str

    @torch.no_grad()
    def __call__(self, picture: Tensor) -> Tensor:
        """The latents of one picture, float32 on the CPU."""
        weight = next(self.network.parameters())
        z = self.network.encode(picture[None].to(weight.device, weight.dtype)).latent_dist.mean[0].cpu().double()
        z = (z - self.shift) * self.scale
        if len(self.shape) == 2:
            channels, height, width = z.shape
            z = z.view(channels, height // PATCH, PATCH, width // PATCH, PATCH).permute(1, 3, 0, 2, 4)
        return z.reshape(self.shape).float()


class Latents(Derived):
    """Pictures that are encoded as they are read; each is the work of one pass of the encoder.

    Args:
        pictures: Of the size that the encoder takes.
        encoder: For the model's shape.
    """

    def __init__(self, pictures: Data, encoder: Encoder):
        super().__init__(pictures, f"{pictures.name}, encoded by the model's vae", encoder.shape)
        self.encoder = encoder
        self._known: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> Tensor:
        if index not in self._known:
            self._known[index] = self.encoder(self.pictures[index])
        return self._known[index]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.pictures.fingerprint} {self.encoder.digest}".encode()).hexdigest()


def folder_of(path: str | Path | None) -> Path | None:
    """The folder of the autoencoder, in that of a pipeline or beside that of its network; None where there is none."""
    places = () if path is None else (Path(path), Path(path).parent)
    return next((place / "vae" for place in places if (place / "vae" / "config.json").is_file()), None)


def encoder(path: str | Path | None, shape: tuple[int, ...], device: torch.device) -> Encoder:
    """The autoencoder in the folder of a latent model.

    Args:
        path: Of the pipeline, or of the network inside of it.
        shape: Of one sample of the model.
        device: Where to encode.

    Raises:
        UsageError: If there is none, or its latents are not the model's.
        CheckpointError: If it is damaged or of a class that is not on the list.
    """
    folder = folder_of(path)
    if folder is None:
        raise UsageError(
            f"there is no folder vae in {shown(path or 'memory')} to encode with: encode the pictures yourself, and "
            "give the latents as a .npy array"
        )
    config = read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    arguments, _ = network_arguments(name, config, folder, AUTOENCODERS)
    state, digests = read_state(folder)
    with torch.random.fork_rng(devices=[]):
        network: Any = create_network(name, arguments, folder, state, AUTOENCODERS)
    fit(network, state, folder)
    network = network.requires_grad_(False).to(device)
    try:
        channels, inputs = int(network.config.latent_channels), int(network.config.in_channels)
        factor = 2 ** (len(network.config.block_out_channels) - 1)
        scale, shift = affine(network.config, channels)
    except (TypeError, ValueError, RuntimeError) as error:
        refuse(folder, f"has a config that does not tell how its latents are scaled ({shown(error)})", error)
    height, width = sides(shape, channels, folder)
    digest = folder_digest(digests | {"affine": f"{scale.flatten().tolist()} {shift.flatten().tolist()}"})
    return Encoder(network, shape, (inputs, factor * height, factor * width), scale, shift, digest)


def affine(config: Mapping[str, Any], channels: int) -> tuple[Tensor, Tensor]:
    """What a network's latents are multiplied by, and what is taken from them before, a channel each."""

    def column(values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float64).expand(channels).view(-1, 1, 1)

    scale, shift = column(config["scaling_factor"]), column(config.get("shift_factor") or 0.0)
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and deviation is not None:
        return scale / column(deviation), column(mean)
    return scale, shift


def sides(shape: tuple[int, ...], channels: int, folder: Path) -> tuple[int, int]:
    """Height and width of the latents that a sample is made of."""
    tokens = math.isqrt(shape[0])
    if len(shape) == 3 and shape[0] == channels:
        return shape[1], shape[2]
    if len(shape) == 2 and tokens**2 == shape[0] and shape[1] == channels * PATCH**2:
        return tokens * PATCH, tokens * PATCH
    raise UsageError(
        f"{shown(folder)} makes latents of {channels} channels, and the model's samples have the shape {shape}: give "
        "samples of that shape as a .npy array"
    )
