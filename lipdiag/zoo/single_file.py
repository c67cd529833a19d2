"""A network alone in one file, in its first authors' layout or in diffusers' own; a local folder describes it.

The description is a folder as diffusers' save_pretrained writes it, of which only unet/config.json (or transformer/)
and scheduler/ are read. Names are translated by diffusers' own converters, which are pure functions of the state dict;
nothing is ever asked of the internet.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lipdiag.diffusion.schedule import Discrete
from lipdiag.diffusion.spelling import spell
from lipdiag.training.checkpoint import Checkpoint, file_digest
from lipdiag.training.files import read_json, shown
from lipdiag.training.tensors import refuse
from lipdiag.zoo import diffusers_directory
from lipdiag.zoo.container import Contents

# diffusers' converters from the original names, by the class of the network
CONVERTERS = {
    "UNet2DConditionModel": "convert_ldm_unet_checkpoint",
    "SD3Transformer2DModel": "convert_sd3_transformer_checkpoint_to_diffusers",
    "FluxTransformer2DModel": "convert_flux_transformer_checkpoint_to_diffusers",
    "SanaTransformer2DModel": "convert_sana_transformer_to_diffusers",
    "AuraFlowTransformer2DModel": "convert_auraflow_transformer_checkpoint_to_diffusers",
    "Lumina2Transformer2DModel": "convert_lumina2_to_diffusers",
}
OWN = (
    "conv_in.",
    "down_blocks.",
    "mid_block.",
    "transformer_blocks.",
    "time_embedding.",
    "time_text_embed.",
    "adaln_single.",
)
ORIGINAL = ("double_blocks.", "joint_blocks.", "double_layers.", "cap_embedder.")


def recognizes(contents: Contents) -> bool:
    """Whether the names are those of a text-to-image network, original or diffusers'."""
    state = contents.state
    text = any(re.match(r"(input|output)_blocks\.\d+\.1\.transformer_blocks", name) for name in state)
    return text or contents.container == "latent diffusion" or any(name.startswith((*OWN, *ORIGINAL)) for name in state)


def read(contents: Contents, path: Path, original_config: str | Path | None) -> Checkpoint:
    """The network described by a local folder, with the weights of the file.

    Raises:
        CheckpointError: If the folder is not given, or is not of this network.
    """
    if original_config is None:
        refuse(
            path,
            "holds a network without its description: give --original-config DIR, a local diffusers folder of the same "
            "model, of which config.json in unet/ or transformer/ and scheduler/scheduler_config.json are read",
        )
    place = Path(original_config)
    folder = next(
        (place / part for part in diffusers_directory.PARTS if (place / part / "config.json").is_file()), place
    )
    config = read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    state = contents.state
    kind = "diffusers' network in one file"
    if not any(key.startswith(OWN) for key in state):
        state, kind = converted(state, name, config, path), "one file in the original layout"
    digests = {path.name: file_digest(path)}
    found = diffusers_directory.described(path, folder, kind, state, digests, contents.weights, contents.available)
    changes: dict[str, Any] = {"notes": (*contents.notes, *found.notes)}
    if contents.table and found.schedule is None:
        changes["schedule"] = spell(Discrete(contents.table))
    return Checkpoint(**{**vars(found), **changes})


def converted(state: Mapping[str, Tensor], name: str, config: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights under diffusers' names."""
    if name not in CONVERTERS:
        refuse(
            path, f"has the original layout, which cannot be translated for the class {shown(name)!r}: use --factory"
        )
    from diffusers.loaders import single_file_utils

    convert: Callable[..., dict[str, Tensor]] = getattr(single_file_utils, CONVERTERS[name])
    try:
        if name == "UNet2DConditionModel":
            prefixed = {f"model.diffusion_model.{key}": tensor for key, tensor in state.items()}
            return convert(prefixed, {"layers_per_block": 2, **config})
        return convert(dict(state))
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        refuse(
            path, f"does not fit the {name} that the folder describes ({shown(error) or type(error).__name__})", error
        )
