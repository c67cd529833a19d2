"""The families of checkpoints: what each file is, how it is recognised by its names, and what must be given.

One entry a family; the table in the README is made from these, so it cannot promise what is not here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from ..files import shown
from ..weights.container import Contents
from ..weights.refusal import refuse
from . import dit, k_diffusion, lucidrains, monai, openai, single_file, usage
from .checkpoint import Checkpoint
from .usage import Usage

FACTORY = "its network, by `--factory`; --schedule, --parameterization, --clock, --shape"
OWN_CODE = "its own code beside a clone: output to 1e-5, derivatives to 1e-3"


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
        builds: Whether lipdiag, or the package, has the network of a file.
        package: Which has the network, if lipdiag has it not.
        usage: How its network is used, as far as the file tells, where only its owner's code can make it.
    """

    name: str
    format: str
    read: str
    given: str
    tested: str
    recognizes: Callable[[Contents], bool] | None = None
    load: Callable[[Contents, Path, str | Path | None], Checkpoint] | None = None
    usage: Callable[[Contents], Usage] = usage.unknown
    builds: Callable[[Contents], bool] = lambda contents: True
    package: str = ""

    @property
    def absent(self) -> bool:
        """Whether the package is needed and not installed."""
        return bool(self.package) and find_spec(self.package) is None


def has(*patterns: str) -> Callable[[Contents], bool]:
    """A test whether every pattern is at the start of some name."""

    def test(contents: Contents) -> bool:
        return all(any(re.match(pattern, name) for name in contents.state) for pattern in patterns)

    return test


def from_container(name: str) -> Callable[[Contents], bool]:
    return lambda contents: contents.container == name


FAMILIES = (
    Family("lipdiag", "folder, or `.pt`", "everything", "nothing", "written and read back, bit for bit"),
    Family(
        "diffusers: UNet1D, UNet2D (DDPM, NCSN++), UNet2DCondition (SD 1, 2, XL), DiT, PixArt, SD3, Flux, Sana, "
        "AuraFlow, Lumina 2",
        "pipeline folder, the network's folder with `scheduler/` beside it, or a training's `checkpoint-N/`",
        "network, schedule, prediction, time, EMA folder; variants, shards, `.bin`, the first versions' names",
        "`--conditioning`, `--prompt` or `--label`, else the data's classes and conditions or the blank one; latents "
        "as data, or pictures with `--encode`",
        "diffusers' own output, to 1e-5; its schedulers' tables and preconditioners",
    ),
    Family(
        "LoRA adapters of peft and diffusers",
        "folder with `adapter_config.json` or `pytorch_lora_weights.safetensors`, or a file `*lora*.safetensors`",
        "its factors, merged in memory into its model, W + scale B A; text encoders are left out",
        "nothing where the adapter names its model and that is at hand or in the hub's cache, else `--original-config` "
        "with the model",
        "peft's own merge and output, to 1e-5",
    ),
    Family(
        "Stable Diffusion, SD3, Flux, Sana, AuraFlow, Lumina 2, latent diffusion in one file",
        "`.safetensors`, `.ckpt` in the original layout, or diffusers' network alone",
        "weights, EMA, the schedule's table",
        "`--original-config`, a diffusers folder with `unet/` or `transformer/config.json` and `scheduler/`; without "
        "text a JSON file with heads and image_size",
        "the original code of Flux, SD3, SD3.5 and latent diffusion, diffusers' own output for all, to 1e-5",
        single_file.recognizes,
        single_file.read,
    ),
    Family(
        "OpenAI: improved-diffusion, guided-diffusion, consistency models",
        "`.pt` state dict",
        "shape from the names; the published models' heads and schedules",
        "azula installed; for unpublished shapes `--original-config flags.json`, for consistency models with the "
        "`training_mode`",
        "the original code's output, to 1e-5; the published models by their command lines",
        lambda contents: openai.recognizes(contents.state) and contents.container not in openai.FLOWS,
        openai.read,
    ),
    Family(
        "torchcfm",
        "`.pt` with `net_model`, `ema_model`",
        "OpenAI's U-Net, EMA, the straight path from noise to data",
        "azula installed; but for the published CIFAR-10, `--original-config flags.json` with the heads and image_size",
        "torchcfm's own output, to 1e-5",
        lambda contents: openai.recognizes(contents.state) and contents.container == "torchcfm",
        openai.read,
    ),
    Family(
        "flow_matching (Meta's examples/image)",
        "`.pth` with `model`, `args`, and the averages among the weights",
        "OpenAI's U-Net, EMA from the list, the straight path from noise to data, no class unless `--label`",
        "azula installed; for ImageNet `--shape`, since its networks at 32 and 64 pixels are one; for unpublished "
        "shapes `--original-config flags.json` with the heads",
        "its own network and path, to 1e-5; the published models by its table",
        lambda contents: openai.recognizes(contents.state) and contents.container == "flow_matching",
        openai.read,
    ),
    Family(
        "EDM, EDM2",
        "`.pkl`, a pickle with source code",
        "raw network, preconditioner, EMA, by `lipdiag convert --unsafe-pickle`",
        "`--code-dir` to convert, which tells the `--factory module:Class` to measure with",
        "NVIDIA's own denoisers, to 1e-5, and each file's own while it is converted",
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
        "rectified-flow-pytorch (lucidrains)",
        "`.pt` of its Trainer, with `model`, `ema_model`",
        "U-Net by its package, EMA; the straight path from noise to data",
        "its package, else its network, by `--factory`; --shape; --parameterization where it does not predict the flow",
        "its own Trainer's file and output, to 1e-5",
        lucidrains.rectified,
        lucidrains.read,
        package=lucidrains.RECTIFIED,
    ),
    Family(
        "MONAI: DiffusionModelUNet in 2-D and 3-D (also of monai-generative)",
        "`.pt` state dict, or with `model`; a bundle's `models/model.pt`",
        "U-Net by its package; heads and scheduler (DDPM, DDIM, PNDM, RFlow) from the bundle's config",
        "its package, else its network, by `--factory`; in a bundle --shape, else `--original-config net.json` with "
        "num_head_channels, shape and scheduler",
        "its own networks' output, to 1e-5; its schedulers' noise levels and targets",
        monai.recognizes,
        monai.read,
        package="monai",
    ),
    Family(
        "PhysicsNeMo: SongUNet, DhariwalUNet, also in VP, VE, iDDPM and EDM preconditioners",
        "`.mdlus`, a zip or tar archive",
        "raw network by its package, from its arguments; preconditioner, shape",
        "its package (2 or newer); `--label` where it is told classes, else none",
        "its own denoisers, to 1e-4",
    ),
    Family(
        "LeRobot: diffusion policies",
        "the policy's folder, `config.json` with `model.safetensors`",
        "U-Net over time by its package, schedule, prediction, shape; encoders are left out",
        "its package; `--conditioning` with global_cond, what the encoders see in an observation, else zeros",
        "its own policy's output, to 1e-5, and its scheduler's noise levels",
    ),
    Family(
        "denoising-diffusion-pytorch (lucidrains)",
        "`.pt` of its Trainer, with `model`, `ema`",
        "U-Net by its package, EMA; schedule, time and objective from its buffers; ElucidatedDiffusion's defaults",
        "its package, else its network, by `--factory`; --shape; --parameterization where the buffers hold no "
        "loss_weight; for continuous time --schedule, --parameterization, --clock, spelled out by the refusal",
        OWN_CODE,
        lambda contents: contents.container == "denoising-diffusion-pytorch" or lucidrains.recognizes(contents),
        lucidrains.read,
        usage=usage.lucidrains,
        builds=lucidrains.recognizes,
        package=lucidrains.PACKAGE,
    ),
    Family(
        "imagen-pytorch (lucidrains)",
        "`.pt` of its ImagenTrainer, with `model`, `ema`",
        "the first U-Net's weights, EMA; Imagen's default schedule, time and prediction",
        "its network with its text, by `--factory`; --shape; --schedule, --parameterization, --clock for no defaults",
        "its own U-Net, averages and noise levels, to 1e-5",
        from_container("imagen-pytorch"),
        usage=usage.imagen,
    ),
    Family(
        "score_sde",
        "`.pth` with `model`, `ema.shadow_params`",
        "weights, EMA from the list, the VE process's noise levels",
        f"{FACTORY}, spelled out for VE, VP and sub-VP by the refusal",
        f"{OWN_CODE}; VE, VP, sub-VP, continuous; VE's score to 1e-4",
        lambda contents: contents.container == "score_sde" or has(r"all_modules\.\d+\.")(contents),
        usage=usage.score_sde,
    ),
    Family(
        "k-diffusion",
        "`.pth` of its train.py, with `model`, `model_ema`, or slim `.safetensors`",
        "U-Net (image_v1) by its package; EMA; preconditioning, time and shape from its config where the file has it",
        "its package, else `--factory`; without a config in the file `--factory` and `--original-config config.json`",
        OWN_CODE,
        lambda contents: contents.container == "k-diffusion" or has(r"timestep_embed\.weight", r"mapping\.")(contents),
        k_diffusion.read,
        usage=usage.k_diffusion,
        builds=k_diffusion.builds,
        package=k_diffusion.PACKAGE,
    ),
    Family(
        "azula",
        "none: a `Denoiser` is an object, its weights a plain state dict",
        "the mean of its posterior",
        "a function of yours that returns it, by `--factory`; its schedule, such as `--schedule 've(0.001, 1000)'`; "
        "`--parameterization x0 --clock unit`, --shape",
        "azula's own preconditioned denoisers, to 1e-5",
    ),
    Family(
        "anything else", "`.pt`, `.safetensors`", "tensors, numbers, texts; no code", FACTORY, "a factory's own output"
    ),
)
UNSUPPORTED = {
    "TorchScript, torch.export, ONNX": "they are programs, not weights: their derivatives are not the network's own",
    "quantised networks": "rounding has no derivative",
    "ControlNet, VAE, text encoders": "they are parts of a model, not a function from noise to noise",
    "discrete flows": "they are over tokens: there is no noise to predict",
    "OpenAI's classifiers and upsamplers": "the ones predict no noise, the others see a small picture beside x",
    "CogView, HunyuanDiT, Chroma, Flux 2, UViT": "their classes are not on lipdiag's list: use `--factory`",
    "Kandinsky's prior, Stable Cascade": "they denoise embeddings, or in stages of their own: use `--factory`",
    "SCM, KarrasVe, VQ and Wuerstchen's schedulers, CogView 3's shifted tables": (
        "their noise levels are not known: give --schedule, --parameterization and --clock"
    ),
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
    if family is None or family.load is None or family.absent or not family.builds(contents):
        lack(contents, family, path)
    return family.load(contents, path, original_config)


def lack(contents: Contents, family: Family | None, path: Path) -> NoReturn:
    """Refuse weights whose network lipdiag does not have, with the command that measures it by a factory."""
    lacking = "whose network lipdiag does not have"
    name = "of no family that lipdiag knows" if family is None else f"a checkpoint of {family.name}, {lacking}"
    chosen = "" if len(contents.available) < 2 else f" ({contents.weights} of {' and '.join(contents.available)})"
    told = used(contents)
    options = " ".join(filter(None, ("--factory my_network:build", told.options)))
    package = f" (install {family.package}, which has it)" if family is not None and family.absent else ""
    refuse(
        path,
        f"is {name}{package}: `lipdiag inspect {shown(path)} --write-factory "
        f"my_network.py` begins a function that gets the {len(contents.state)} tensors{chosen} under the network's own "
        f"names, as {shown(min(contents.state, key=len))!r}, and returns the network; complete it, and run `lipdiag "
        f"measure {shown(path)} {options}`{' (' + told.hint + ')' if told.hint else ''}",
    )


def used(contents: Contents) -> Usage:
    """How the network in a file is used, as far as the file tells."""
    family = recognized(contents)
    return Usage() if family is None else family.usage(contents)
