"""How the networks of research repositories are used, as far as their files tell: what a factory need not be told.

lucidrains' files hold the schedule's table, and weights of the loss that follow from the objective. k-diffusion's hold
the configuration of the training. score_sde's hold the noise levels of its VE process, whether it was trained on that
process or on another. What remains is spelled for the command line.

References:
    Song et al., Score-Based Generative Modeling through SDEs, 2021, appendix C. https://arxiv.org/abs/2011.13456
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022. https://arxiv.org/abs/2206.00364
"""

import math
from dataclasses import dataclass

import torch

from ..diffusion.clock import LogSNR, Sigma, Timesteps, Unit
from ..diffusion.convention import UNTOLD, Convention, flags
from ..diffusion.parameterization import Edm, Parameterization, eps, score, v, x0
from ..diffusion.schedule import VE, VP, Discrete, Karras, Normalized, UnnormalizedCosine
from ..weights.container import Contents

OBJECTIVES: dict[str, Parameterization] = {"pred_noise": eps, "pred_x0": x0, "pred_v": v}
SIZES = "C,H,W"


@dataclass(frozen=True)
class Usage:
    """How a network is used, as far as its file tells.

    Args:
        convention: In which way.
        shape: Of one sample.
        options: What the user has to say beside the factory, as on the command line.
        hint: What those options depend on, in words.
        notes: What a reader has to know.
    """

    convention: Convention = UNTOLD
    shape: tuple[int, ...] | None = None
    options: str = f"--schedule ... --parameterization ... --clock ... --shape {SIZES}"
    hint: str = ""
    notes: tuple[str, ...] = ()


def unknown(contents: Contents) -> Usage:
    """The usage of a network whose file tells nothing of it."""
    return Usage()


def lucidrains(contents: Contents) -> Usage:
    """denoising-diffusion-pytorch: the table of betas; its index; the objective by the weights of its loss."""
    if not contents.table:
        return Usage()
    objective = OBJECTIVES.get(str(contents.facts.get("objective")))
    prediction = "" if objective is not None else "--parameterization v "
    return Usage(
        Convention(Discrete(contents.table), objective, Timesteps(len(contents.table))),
        options=f"{prediction}--shape {channels(contents, 'final_conv.weight')}",
        hint="" if objective is not None else "v where its objective is pred_v, eps for pred_noise, x0 for pred_x0",
        notes=(
            f"schedule and clock from the {len(contents.table)} betas in the file",
            *([f"objective {contents.facts['objective']}, by the weights of its loss"] if objective else []),
            "its Trainer shows the network pictures in [-1, 1] (auto_normalize, from [0, 1]): so give x0",
        ),
    )


def score_sde(contents: Contents) -> Usage:
    """score_sde: neither SDE nor time are told; the VE process's noise levels are, in case it is that."""
    sigmas = contents.state.get("sigmas", torch.empty(0, device="cpu")).flatten().sort().values
    low, high = (float(f"{float(sigma):.6g}") for sigma in sigmas[[0, -1]]) if len(sigmas) else (0.0, 0.0)
    if not 0 < low < high < math.inf:
        low, high = 0.01, 50.0
    ve, vp = VE(low, high), VP()
    first, last = (flags(UNTOLD, c) for c in (Convention(ve, score, Sigma(ve)), Convention(vp, eps, Unit(999.0))))
    words = f"if it was trained on the VE SDE; on the VP SDE: {last}; on the sub-VP SDE: sub_vp(0.1, 20) in its place"
    return Usage(
        options=f"{first} --shape {SIZES}", hint=words + "; x0 in [0, 1] where its config says centered = False"
    )


def k_diffusion(contents: Contents) -> Usage:
    """k-diffusion: Karras et al.'s preconditioning, of which the network F is measured on its own input c_in x."""
    facts = contents.facts
    names = ("sigma_min", "sigma_max", "sigma_data")
    told = all(type(facts.get(name)) in (int, float) for name in names)
    low, high, scale = (float(facts[name]) for name in names) if told else (0.0, 0.0, 0.0)
    told = 0 < low < high < math.inf and 0 < scale < math.inf
    if not told:
        low, high, scale = 0.002, 80.0, 0.5
    karras = Karras(low, high)
    convention = Convention(Normalized(karras, scale), Edm(scale), Sigma(karras))
    if not told:
        words = "with the sigmas of its config, or --original-config and that JSON file in their place"
        return Usage(options=f"{flags(UNTOLD, convention)} --shape {SIZES}", hint=words)
    size, depth = facts.get("input_size"), facts.get("input_channels")
    shape = (depth, *size) if type(depth) is int and isinstance(size, list) else None
    note = f"x is what the network sees, x / sqrt({scale:g}^2 + sigma^2); numbers from its config"
    return Usage(convention, shape, "" if shape else f"--shape {SIZES}", notes=(note,))


def imagen(contents: Contents) -> Usage:
    """imagen-pytorch: nothing is told, so Imagen's own defaults are taken for its first U-Net."""
    schedule = UnnormalizedCosine()
    words = (
        "Imagen's defaults, a cosine schedule and predicted noise: give --schedule, --parameterization and --clock "
        "where it was told others; it shows its U-Nets pictures in [-1, 1], from [0, 1]: so give x0"
    )
    told = Convention(schedule, eps, LogSNR(schedule))
    return Usage(told, options=f"--shape {channels(contents, 'final_conv.weight')}", notes=(words,))


def channels(contents: Contents, name: str) -> str:
    """A shape to be filled in, with as many channels as a layer has."""
    return SIZES if name not in contents.state else f"{len(contents.state[name])},H,W"
