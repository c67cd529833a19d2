"""A recipe that trains in a second."""

import pytest

from lipdiag.training.recipe import Recipe

SMALL = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8],
    "down_block_types": ["AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}


@pytest.fixture
def recipe() -> Recipe:
    """The digits, few steps, a network of a few thousand weights with dropout, so that every source of chance acts."""
    return Recipe(
        "small", "digits", (1, 8, 8), "UNet2DModel", SMALL | {"dropout": 0.1},
        steps=6, batch=4, learning_rate=2e-3, warmup=2, ema_decay=0.5, seed=3,
    )  # fmt: skip
