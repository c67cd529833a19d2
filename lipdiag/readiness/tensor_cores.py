"""Which products with the Jacobian a run is measured by."""

import numpy as np
import torch

from ..design.description import Source
from ..design.plan import Plan
from ..design.points import ends, points
from ..diffusion.predictor import Predictor, device_of
from ..errors import UsageError
from ..linalg.products import PRODUCTS
from ..store.store import Store


def settled(predictor: Predictor, source: Source, plan: Plan, timesteps: np.ndarray, run: Store | None) -> str:
    """Those of a plan; for `auto` those of the run that is gone on with, or the fastest that are narrow enough.

    They are tried on one draw at four timesteps, where there are tensor cores; how wide each interval comes to be is in
    the run.

    Raises:
        UsageError: If fast ones are asked for on a card that has none.
    """
    fast = tensor_cores(device_of(predictor))
    if fast is False and plan.products in PRODUCTS[1:]:
        raise UsageError(
            f"{torch.cuda.get_device_name(device_of(predictor))} has no TF32, which cards of compute capability 8.0 "
            "and later have: leave --products out, or give auto"
        )
    if plan.products != "auto":
        return plan.products
    if run is not None:
        return str(run.attributes.get("frozen", {}).get("plan", {}).get("products", "ieee"))
    for kind in PRODUCTS[1:] if fast and plan.dtype == "float32" else ():
        rounded = plan.replace(products=kind)
        values = points(predictor, rounded, source.stand_in or source.sample, ends(timesteps), range(1)).singular_values
        if (values.upper <= (1 + plan.certified_width) * values.values[:, 0]).all():
            return kind
    return "ieee"


def tensor_cores(device: torch.device) -> bool | None:
    """Whether a graphics card multiplies faster by TF32; None for what is no card, where it is done by hand."""
    if device.type != "cuda":
        return None
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
