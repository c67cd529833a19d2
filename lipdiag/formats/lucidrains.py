"""lucidrains' U-Nets of denoising-diffusion-pytorch and rectified-flow-pytorch, built by these packages.

Names and shapes tell all of their arguments that matter. GaussianDiffusion keeps its schedule beside the network.
ElucidatedDiffusion and the continuous-time ones keep nothing: the first is known by what it calls its network, and has
the numbers of Karras et al. unless it was told others; of the others the user has to say which it was. RectifiedFlow
keeps nothing either: its U-Net is known by the residual branches, and predicts the flow unless it was told otherwise.

References:
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022. https://arxiv.org/abs/2206.00364
"""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ..diffusion.clock import LogSigma
from ..diffusion.convention import FLOW, Convention
from ..diffusion.parameterization import Edm
from ..diffusion.schedule import Karras, Normalized
from ..weights.container import Contents
from ..weights.refusal import refuse
from . import usage
from .checkpoint import Checkpoint, of_file

PACKAGE, RECTIFIED = "denoising_diffusion_pytorch", "rectified_flow_pytorch"
ELUCIDATED, BRANCH = "net.", ".branch."
PART = re.compile(
    r"(init_conv|final_conv|time_mlp\.[013]|(downs|ups)\.\d+\.[0123]|mid_(block[12]|attn)|final_res_block|(down|up|mid)_xattnres)\..*"
)
CONTINUOUS = (
    'as --schedule "vp(0, 20)" --parameterization eps --clock "log_snr(vp(0, 20))" for ContinuousTimeGaussianDiffusion'
    "; unnormalized_cosine in place of vp(0, 20) where its noise_schedule is cosine; that and v for the one with VParam"
)

DEFAULTS = (
    "ElucidatedDiffusion with its own defaults, sigma_data 0.5: give --schedule, --parameterization and --clock where "
    "it was told others; x is what the network sees, x / sqrt(0.25 + sigma^2)"
)
STRAIGHT = (
    "RectifiedFlow that predicts the flow, its default: give --parameterization eps where predict is noise, x0 where "
    "it is clean; its Trainer shows the network pictures in [-1, 1] (from [0, 1]): so give x0"
)


def rectified(contents: Contents) -> bool:
    """Whether it is the U-Net of rectified-flow-pytorch, by its residual branches."""
    return any(BRANCH in name for name in contents.state) and recognizes(contents)


def recognizes(contents: Contents) -> bool:
    """Whether all names, and enough of them, are those of the U-Net, perhaps inside ElucidatedDiffusion."""
    names = [name.removeprefix(ELUCIDATED).replace(BRANCH, ".") for name in contents.state]
    needed = {"init_conv.weight", "time_mlp.1.weight", "downs.0.0.block1.proj.weight", "final_conv.weight"}
    return needed <= set(names) and all(map(PART.fullmatch, names))


def arguments(state: dict[str, Tensor]) -> dict[str, Any]:
    """The arguments of the class, those that differ from its defaults."""
    state = {name.replace(BRANCH, "."): tensor for name, tensor in state.items()}
    width, fourier = state["time_mlp.1.weight"].shape
    dim, levels = width // 4, 1 + max(int(name.split(".")[1]) for name in state if name.startswith("downs."))
    ends = [state.get(f"downs.{i}.3.1.weight", state.get(f"downs.{i}.3.weight")) for i in range(levels)]
    inputs, outputs = state["init_conv.weight"].shape[1], len(state["final_conv.weight"])
    full = [f"downs.{i}.2.to_out.weight" in state for i in range(levels)]
    # keys and values that are learned: (2, heads, width, count) of linear attention, (2, heads, count, width) of full
    learned = [state[f"downs.{i}.2.mem_kv"].shape for i in range(levels)]
    heads = [shape[1] for shape in learned]
    sizes = [len(state[f"downs.{i}.2.to_qkv.weight"]) // 3 // heads[i] for i in range(levels)]
    told: dict[str, Any] = {
        "dim": dim,
        "dim_mults": [len(end) // dim for end in ends if end is not None],
        "channels": min(inputs, outputs),
    }
    differing = {
        "init_dim": (len(state["init_conv.weight"]), dim),
        "self_condition": (inputs == 2 * outputs, False),
        "learned_variance": (outputs == 2 * inputs, False),
        "attn_heads": (heads, [4] * levels),
        "attn_dim_head": (sizes, [32] * levels),
        "full_attn": (full, [False] * (levels - 1) + [True]),
    }
    told |= {name: value for name, (value, default) in differing.items() if value != default}
    if "down_xattnres.0.pseudo_query" in state:
        lora = state.get("mid_xattnres.loras.0.down")
        told |= {"xattnres_heads": len(state["down_xattnres.0.pseudo_query"])}
        told |= {"xattnres_dim_lora": None if lora is None else len(lora)}
    if "time_mlp.0.weights" in state:
        told |= {"learned_sinusoidal_cond": True, "learned_sinusoidal_dim": fourier - 1}
    return told


def read(contents: Contents, path: Path, original_config: str | Path | None) -> Checkpoint:
    """The checkpoint that a Trainer of that package wrote, or the U-Net's bare weights."""
    if original_config is not None:
        refuse(path, "tells its network's arguments by its shapes: leave --original-config out")
    flow, elucidated = rectified(contents), all(name.startswith(ELUCIDATED) for name in contents.state)
    state = {name.removeprefix(ELUCIDATED): tensor for name, tensor in contents.state.items()}
    kept = usage.lucidrains(contents)
    told = arguments(state)
    if flow and {"self_condition", "learned_variance"} & set(told):
        refuse(path, "is a U-Net that sees a picture beside x or predicts a variance beside the flow: use --factory")
    preconditioned = Convention(Normalized(Karras()), Edm(), LogSigma(Karras()))
    network = f"{RECTIFIED if flow else PACKAGE}.Unet"
    return of_file(
        contents,
        path,
        kind=f"{network} of a training",
        network=network,
        network_config=told,
        state=state,
        convention=FLOW if flow else preconditioned if elucidated else kept.convention,
        notes=(*kept.notes, *([STRAIGHT] if flow else [DEFAULTS] if elucidated else [])),
        hint="" if contents.table or elucidated or flow else CONTINUOUS,
    )
