"""k-diffusion's U-Net (image_v1), built by that package from the configuration that its files hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..weights.container import Contents
from ..weights.refusal import refuse
from . import usage
from .checkpoint import Checkpoint, of_file

PACKAGE, NETWORK = "k_diffusion", "k_diffusion.ImageDenoiserModelV1"
TOLD = {  # the class's arguments, and what its config calls them
    "c_in": "input_channels", "feats_in": "mapping_out", "depths": "depths", "channels": "channels",
    "self_attn_depths": "self_attn_depths",
}  # fmt: skip
DEFAULTS = {"cross_attn_depths": None, "patch_size": 1, "skip_stages": 0, "has_variance": False}
WRAPPED = "mapping_cond.weight"  # of the inputs by which it is told how pictures were augmented; all zero is not at all


def model(contents: Contents) -> Mapping[str, Any]:
    """The config of the network, {} where the file has none."""
    table = contents.arguments.get("model") if isinstance(contents.arguments, Mapping) else None
    return table if isinstance(table, Mapping) else {}


def builds(contents: Contents) -> bool:
    """Whether the file's config is of that U-Net."""
    return model(contents).get("type") == "image_v1" and set(TOLD.values()) <= set(model(contents))


def read(contents: Contents, path: Path, original_config: str | Path | None) -> Checkpoint:
    """The U-Net of such a file, with what its config tells of the training."""
    if original_config is not None:
        refuse(path, "tells its network by its own config: leave --original-config out")
    told = model(contents)
    if told.get("unet_cond_dim") or told.get("cross_cond_dim"):
        refuse(path, "is a U-Net that is told a picture or tokens beside x: give --factory, with a function of x alone")
    network = {name: told[key] for name, key in TOLD.items()}
    network |= {name: told.get(name, value) for name, value in DEFAULTS.items()}
    if WRAPPED in contents.state:
        network["mapping_cond_dim"] = contents.state[WRAPPED].shape[-1]
    used = usage.k_diffusion(contents)
    return of_file(
        contents,
        path,
        kind="k-diffusion's U-Net",
        network=NETWORK,
        network_config=network,
        convention=used.convention,
        shape=used.shape,
        notes=used.notes,
        hint=used.hint,
    )
