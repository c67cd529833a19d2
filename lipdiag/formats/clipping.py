"""How a scheduler of diffusers' keeps the x0 it predicts in the data's range, by its config."""

from collections.abc import Mapping
from typing import Any

from ..diffusion.limit import Clip, Dynamic
from ..diffusion.spelling import spell

CLIPPING = ("DDPM", "DDIM", "RePaint", "UnCLIP")
"""Beginnings of the names of schedulers that clip unless their config says no."""


def limit(config: Mapping[str, Any]) -> str | None:
    """The limit that a scheduler's config tells, spelled out; None where its samples are left as they come.

    Args:
        config: Of scheduler_config.json; absent keys have the defaults of the scheduler's class.

    Raises:
        ValueError: If its numbers make no sense.
    """
    if config.get("thresholding"):
        ratio, largest = config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0)
        return spell(Dynamic(float(ratio), float(largest)))
    if config.get("clip_sample", str(config.get("_class_name", "")).startswith(CLIPPING)):
        return spell(Clip(float(config.get("clip_sample_range", 1.0))))
    return None
