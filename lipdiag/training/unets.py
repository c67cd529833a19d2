"""Arguments of diffusers' UNet2DModel for the recipes, smallest first."""

from typing import Any

DIGITS: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [32, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 16,
    "norm_num_groups": 8,
    "resnet_time_scale_shift": "scale_shift",
}

MNIST: dict[str, Any] = DIGITS | {
    "sample_size": 28,
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "attention_head_dim": 32,
}

EMOJI: dict[str, Any] = MNIST | {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [64, 128, 128],
    "layers_per_block": 2,
    "attention_head_dim": 64,
    "norm_num_groups": 16,
}

# The two networks of Ho, Jain & Abbeel, 2020, with 35.7 and 113.7 million parameters, as diffusers writes them.
DDPM: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}

CIFAR10: dict[str, Any] = DDPM | {
    "sample_size": 32,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "dropout": 0.1,
}

CIFAR10_CLASSES: dict[str, Any] = CIFAR10 | {"num_class_embeds": 10}

FULL256: dict[str, Any] = DDPM | {
    "sample_size": 256,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}
