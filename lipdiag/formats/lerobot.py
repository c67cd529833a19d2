"""LeRobot's diffusion policies: the U-Net over time that denoises actions, told what the robot sees as one vector.

config.json             of the policy: its type, the U-Net's arguments, the scheduler's
model.safetensors       the U-Net, the encoders of pictures, in former versions also the data's statistics

The encoders are left out: what they make of an observation is given by --conditioning, as global_cond. Samples are rows
of actions as the policy normalizes them, (horizon, actions).
"""

from pathlib import Path

import torch

from ..errors import Caution
from ..files import json_or_empty, read_json, shown
from ..weights.averages import choose
from ..weights.refusal import refuse
from .checkpoint import Checkpoint, file_digest, folder_digest
from .clipping import limit
from .native import CONFIG, MODEL, read_weights
from .scheduler import stated

NETWORK, PREFIX = "lerobot.DiffusionConditionalUnet1d", "diffusion.unet."
ARGUMENTS = ("down_dims", "kernel_size", "n_groups", "diffusion_step_embed_dim", "use_film_scale_modulation")
SCHEDULER = (
    "num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type", "clip_sample",
    "clip_sample_range",
)  # fmt: skip


def recognizes(path: Path) -> bool:
    """Whether a folder is such a policy's, by what its config calls it."""
    return json_or_empty(path / CONFIG).get("type") == "diffusion"


def read(path: Path, weights: str = "ema") -> Checkpoint:
    """What such a folder tells.

    Raises:
        CheckpointError: If its config lacks an argument, or its weights are not those of the U-Net.
    """
    config = read_json(path / CONFIG)
    if lacking := [key for key in (*ARGUMENTS, *SCHEDULER, "horizon", "noise_scheduler_type") if key not in config]:
        refuse(path / CONFIG, f"lacks {lacking[0]}, which LeRobot writes: save the policy by its save_pretrained")
    tensors, digest = read_weights(path / MODEL)
    state = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    embedding, horizon = config["diffusion_step_embed_dim"], config["horizon"]
    try:
        told = state["down_modules.0.0.cond_encoder.1.weight"].shape[1] - embedding
        blank, actions = torch.zeros(1, told), len(state["final_conv.1.weight"])
        scheduler = {key: config[key] for key in SCHEDULER}
        name = f"{config['noise_scheduler_type']}Scheduler"
        scheduled, in_range = stated(scheduler, NETWORK), limit({"_class_name": name, **scheduler})
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        refuse(path, f"does not hold the U-Net that LeRobot's diffusion policies have ({shown(error)})", error)
    if type(horizon) is not int or horizon < 1:
        refuse(path / CONFIG, f"has {shown(horizon)} as horizon where a number of actions in a row is expected")
    own = {key: config[key] for key in ARGUMENTS}
    arguments = {"actions": actions, "global_cond_dim": told, "config": own}
    others = len(tensors) - len(state)
    return Checkpoint(
        path=str(path),
        kind="LeRobot diffusion policy",
        network=NETWORK,
        network_config=arguments,
        state=state,
        weights=choose(("as stored",), weights, path),
        available=("as stored",),
        sha256=folder_digest({CONFIG: file_digest(path / CONFIG), MODEL: digest}),
        convention=scheduled.convention,
        shape=(horizon, actions),
        conditioning={"global_cond": blank},
        limit=in_range,
        notes=(
            *scheduled.notes,
            *([f"{others} tensors of encoders and statistics were left out"] if others else []),
            Caution(
                f"conditioned on global_cond = 0 (1 x {told}) throughout: give what the encoders make of an "
                "observation by --conditioning"
            ),
            "data are rows of actions, normalized as the policy does",
        ),
    )
