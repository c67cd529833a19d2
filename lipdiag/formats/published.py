"""The published models of OpenAI's family: how to tell each by its shape, and the flags that its file does not hold.

From the command lines in the READMEs of improved-diffusion and guided-diffusion, in scripts/launch.sh of
consistency_models, in examples/images/cifar10 of torchcfm and in examples/image of flow_matching.
"""

from collections.abc import Mapping
from typing import Any

GUIDED = {"noise_schedule": "linear", "diffusion_steps": 1000, "rescale_timesteps": False}
IMPROVED = {"noise_schedule": "cosine", "diffusion_steps": 4000, "rescale_timesteps": True, "num_heads": 4}
# What the tables go by, for pictures of three channels.
KEYS = (
    "model_channels", "channel_mult", "num_res_blocks", "attention_resolutions", "out_channels", "num_classes",
    "use_scale_shift_norm", "resblock_updown",
)  # fmt: skip
AT_64, AT_256 = (1, 2, 3, 4), (1, 1, 2, 2, 4, 4)
Table = dict[tuple[Any, ...], tuple[str, dict[str, Any]]]
PUBLISHED: Table = {
    (192, AT_64, 3, (2, 4, 8), 6, 1000, True, True): (
        "guided-diffusion's ImageNet 64",
        GUIDED
        | {"image_size": 64, "num_head_channels": 64, "use_new_attention_order": True, "noise_schedule": "cosine"},
    ),
    (256, (1, 1, 2, 3, 4), 2, (4, 8, 16), 6, 1000, True, True): (
        "guided-diffusion's ImageNet 128",
        GUIDED | {"image_size": 128, "num_heads": 4},
    ),
    (256, AT_256, 2, (8, 16, 32), 6, 1000, True, True): (
        "guided-diffusion's ImageNet 256",
        GUIDED | {"image_size": 256, "num_head_channels": 64},
    ),
    (256, AT_256, 2, (8, 16, 32), 6, None, True, True): (
        "guided-diffusion's unconditional ImageNet 256 and LSUN",
        GUIDED | {"image_size": 256, "num_head_channels": 64},
    ),
    (256, (0.5, 1, 1, 2, 2, 4, 4), 2, (16, 32, 64), 6, 1000, True, True): (
        "guided-diffusion's ImageNet 512",
        GUIDED | {"image_size": 512, "num_head_channels": 64},
    ),
    (128, AT_64, 3, (4, 8), 6, None, True, False): (
        "improved-diffusion's unconditional ImageNet 64",
        IMPROVED | {"image_size": 64},
    ),
    (128, (1, 2, 2, 2), 3, (2, 4), 6, None, True, False): (
        "improved-diffusion's CIFAR-10",
        IMPROVED | {"image_size": 32},
    ),
    (192, AT_64, 3, (4, 8), 6, 1000, True, False): (
        "improved-diffusion's class-conditional ImageNet 64",
        IMPROVED | {"image_size": 64, "rescale_timesteps": False},
    ),
    (128, AT_256, 2, (16,), 6, None, False, False): (
        "improved-diffusion's LSUN bedroom",
        GUIDED | {"image_size": 256, "num_heads": 1},
    ),
}
CONSISTENCY: Table = {  # which of them are denoisers and which consistency functions no shape tells
    (192, AT_64, 3, (2, 4, 8), 3, 1000, True, True): (
        "consistency_models' ImageNet 64",
        {"image_size": 64, "num_head_channels": 64},
    ),
    (256, AT_256, 2, (8, 16, 32), 3, None, False, True): (
        "consistency_models' LSUN",
        {"image_size": 256, "num_head_channels": 64},
    ),
}
TORCHCFM: Table = {
    (128, (1, 2, 2, 2), 2, (2,), 3, None, False, False): (
        "torchcfm's CIFAR-10",
        {"image_size": 32, "num_head_channels": 64},
    )
}
FLOW_MATCHING: Table = {
    (128, (2, 2, 2), 4, (2,), 3, None, True, False): (
        "flow_matching's CIFAR-10",
        {"image_size": 32, "num_heads": 1, "use_new_attention_order": True},
    ),
    (192, AT_64, 3, (2, 4, 8), 3, 1001, True, True): (  # at 32 or 64 pixels
        "flow_matching's ImageNet",
        {"num_head_channels": 64, "use_new_attention_order": True},
    ),
}
TABLES = {"torchcfm": TORCHCFM, "consistency_models": CONSISTENCY, "flow_matching": FLOW_MATCHING}


def known(shape: Mapping[str, Any], code: str) -> tuple[str, dict[str, Any]]:
    """The name and the flags of the published model of a shape; empty where there is none.

    Args:
        shape: The arguments of the U-Net, as read from its weights.
        code: What wrote the file, where that is known.
    """
    name, flags = TABLES.get(code, PUBLISHED).get(tuple(shape[key] for key in KEYS), ("", {}))
    return (name, dict(flags)) if shape["in_channels"] == 3 else ("", {})
