"""The families of checkpoints: what each file is, how it is recognised by its names, and what must be given.

One entry a family; the table in the README is made from these, so it cannot promise what is not here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from torch import Tensor

from lipdiag.training.checkpoint import Checkpoint
from lipdiag.training.files import shown
from lipdiag.training.tensors import refuse
from lipdiag.zoo import dit, openai, single_file
from lipdiag.zoo.container import Contents

FACTORY = "its network, by `--factory`; --schedule, --parameterization, --clock, --shape"


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint.

    Attributes:
        name: As people call it.
        format: What is on disk.
        read: What lipdiag takes from it.
        given: What the user has to say.
        tested: Against what.
        recognizes: Whether a bare state dict, with what was around it, is of this family; None for folders.
        load: Makes a checkpoint of it, or None where only its owner's code can.
    """

    name: str
    format: str
    read: str
    given: str
    tested: str
    recognizes: Callable[[Contents], bool] | None = None
    load: Callable[[Contents, Path, str | Path | None], Checkpoint] | None = None


def has(*patterns: str) -> Callable[[Contents], bool]:
    """A test whether every pattern is at the start of some name."""

    def test(contents: Contents) -> bool:
        return all(any(re.match(pattern, name) for name in contents.state) for pattern in patterns)

    return test


def from_container(name: str) -> Callable[[Contents], bool]:
    return lambda contents: contents.container == name


FAMILIES = (
    Family(
        "lipdiag",
        "folder, or `.pt`",
        "everything",
        "nothing",
        "written and read back, bit for bit",
    ),
    Family(
        "diffusers: UNet2D (DDPM, NCSN++), UNet2DCondition (SD 1, 2, XL), DiT, PixArt, SD3, Flux, Sana, AuraFlow, "
        "Lumina 2",
        "pipeline folder, or the network's folder with `scheduler/` beside it",
        "network, schedule, prediction, time, EMA folder",
        "`--conditioning` or `--label`, else the blank condition; latents as data",
        "diffusers' own output, to 1e-5",
    ),
    Family(
        "Stable Diffusion, SD3, Flux and others in one file",
        "`.safetensors`, `.ckpt` in the original layout, or diffusers' network alone",
        "weights, EMA, the schedule's table",
        "`--original-config DIR`, a diffusers folder with `unet/config.json` and `scheduler/`",
        "diffusers' own output for Stable Diffusion's layout, to 1e-5; the others by diffusers' converters alone",
        single_file.recognizes,
        single_file.read,
    ),
    Family(
        "OpenAI: improved-diffusion, guided-diffusion, consistency models",
        "`.pt` state dict",
        "shape from the names; the published models' heads and schedules",
        "azula installed; for unpublished shapes `--original-config flags.json`",
        "azula's own output, to 1e-5",
        lambda contents: openai.recognizes(contents.state) and contents.container != "torchcfm",
        openai.read,
    ),
    Family(
        "torchcfm",
        "`.pt` with `net_model`, `ema_model`",
        "OpenAI's U-Net, EMA, the straight path from noise to data",
        "azula installed; `--original-config flags.json` with the heads and image_size",
        "azula's own output, to 1e-5",
        lambda contents: openai.recognizes(contents.state),
        openai.read,
    ),
    Family(
        "EDM, EDM2",
        "`.pkl`, a pickle with source code",
        "raw network, preconditioner, EMA, by `lipdiag convert --unsafe-pickle`",
        "`--code-dir` to convert, `--factory module:Class` to measure",
        "the four preconditioners' formulas, to 1e-5",
    ),
    Family(
        "DiT, SiT (originals)",
        "`.pt`: a state dict, or train.py's with `model`, `ema`, `args`",
        "network, EMA, size from the names, SiT's path and prediction from `args`",
        "`--label`, else the null class; for unpublished widths `--original-config flags.json` with num_heads; latents "
        "as data",
        "the layout and its formulas, and the originals' own code, to 1e-5",
        dit.recognizes,
        dit.read,
    ),
    Family(
        "denoising-diffusion-pytorch (lucidrains)",
        "`.pt` with `model`, `ema`",
        "weights, EMA, the schedule from its buffers",
        FACTORY,
        "its layout; the schedule against its table",
        from_container("denoising-diffusion-pytorch"),
    ),
    Family(
        "score_sde",
        "`.pth` with `model`, `ema.shadow_params`",
        "weights, EMA from the list",
        FACTORY,
        "its layout",
        lambda contents: contents.container == "score_sde" or has(r"all_modules\.\d+\.")(contents),
    ),
    Family(
        "k-diffusion",
        "`.pth` with `model`, `model_ema`",
        "weights, EMA",
        FACTORY,
        "its layout",
        lambda contents: contents.container == "k-diffusion" or has(r"timestep_embed\.weight", r"mapping\.")(contents),
    ),
    Family(
        "anything else",
        "`.pt`, `.safetensors`",
        "tensors, numbers, texts; no code",
        FACTORY,
        "a factory's own output",
    ),
)
UNSUPPORTED = {
    "TorchScript, torch.export, ONNX": "they are programs, not weights: their derivatives are not the network's own",
    "quantised networks": "rounding has no derivative",
    "LoRA, ControlNet, VAE, text encoders": "they are parts of a model, not a function from noise to noise",
    "Z-Image, Qwen-Image, Wan and other video models": "their networks take lists or frames: use `--factory`",
    "NVIDIA's EDM networks without their code": "the licence forbids to ship the code: it comes by `--code-dir`",
}


def table() -> str:
    """The families as the README's table."""
    rows = [("family", "format", "what is read", "what must be given", "tested against"), ("---",) * 5]
    rows += [(f.name, f.format, f.read, f.given, f.tested) for f in FAMILIES]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- Not read: {name}; {why}." for name, why in UNSUPPORTED.items())]) + "\n"


def recognized(contents: Contents) -> Family | None:
    """The family of a file's weights."""
    return next((f for f in FAMILIES if f.recognizes is not None and f.recognizes(contents)), None)


def read(contents: Contents, path: Path, original_config: str | Path | None) -> Checkpoint:
    """The checkpoint in a file of weights.

    Raises:
        CheckpointError: If lipdiag has no class for its network; the sentence says what a factory is given.
    """
    family = recognized(contents)
    if family is None or family.load is None:
        lack(contents, family, path)
    return family.load(contents, path, original_config)


def lack(contents: Contents, family: Family | None, path: Path) -> NoReturn:
    """Refuse weights whose network lipdiag does not have, saying what a factory will get."""
    name = "of no family lipdiag knows" if family is None else f"a checkpoint of {family.name}"
    chosen = "" if len(contents.available) < 2 else f" ({contents.weights} of {' and '.join(contents.available)})"
    told = ""
    if contents.table:
        told = f', --schedule "discrete(...)" has {len(contents.table)} betas in the file, which its table shows'
    refuse(
        path,
        f"is {name}, whose network lipdiag does not have: give --factory package.module:function, which gets the "
        f"{len(contents.state)} tensors{chosen} under the network's own names, such as "
        f"{shown(min(contents.state, key=len))!r}, and returns the network{told}",
    )


def names(state: Mapping[str, Tensor]) -> set[str]:
    """The first parts of all names."""
    return {name.partition(".")[0] for name in state}
