"""EDM's and EDM2's networks: what each preconditioner means in lipdiag's words, and how their pickles are converted.

A preconditioner wraps a raw network F into a denoiser D = c_skip x + c_out F(c_in x, c_noise). In the network's own
coordinates c_in x every one of the four is a plain convention, so that F itself is measured, never the wrapper (one of
which rounds sigma and has no derivative):

    VP, iDDPM   c_in = 1 / sqrt(1 + sigma^2), c_out = -sigma     F = eps   on the VP schedule, or the cosine table
    VE          c_in = 1, c_out = sigma                          F = -eps
    EDM         c_in = 1 / sqrt(sigma_data^2 + sigma^2)          F as in `edm`, on normalised x

A Jacobian in EDM's own x is c_in times the one measured.

References:
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, table 1.
    https://arxiv.org/abs/2206.00364
"""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lipdiag.diffusion.clock import Clock, LogSigma, Timesteps, Unit
from lipdiag.diffusion.parameterization import Edm, Parameterization, eps, minus_eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import VE, VP, Karras, Normalized, Schedule, SquaredCosine
from lipdiag.errors import CheckpointError, UsageError
from lipdiag.training.checkpoint import read_weights
from lipdiag.training.files import make_folder, open_regular, read_json, shown
from lipdiag.training.tensors import fit, refuse

CONFIG, MODEL = "config.json", "model.safetensors"


def convention(preconditioner: str, arguments: Mapping[str, float]) -> tuple[Schedule, Parameterization, Clock]:
    """How a preconditioner uses its raw network, in the network's own coordinates c_in x.

    Args:
        preconditioner: The class: VPPrecond, VEPrecond, iDDPMPrecond, EDMPrecond, or EDM2's Precond.
        arguments: Of the class; absent ones have its defaults.

    Raises:
        UsageError: If there is no such class.
    """
    told = dict(arguments)
    if preconditioner == "VPPrecond":
        low = told.get("beta_min", 0.1)
        return VP(low, low + told.get("beta_d", 19.9)), eps, Unit(float(told.get("M", 1000)) - 1)
    if preconditioner == "VEPrecond":
        ve = VE(told.get("sigma_min", 0.02), told.get("sigma_max", 100.0))
        return ve, minus_eps, LogSigma(ve, 1.0, 0.5)
    if preconditioner == "iDDPMPrecond":
        if told.get("C_2", 0.008) != 0.008:
            raise UsageError(f"An iDDPMPrecond with C_2 = {told['C_2']} is not known; give its schedule by a factory.")
        steps = int(told.get("M", 1000))
        return SquaredCosine(steps, 1 - told.get("C_1", 0.001)), eps, Timesteps(steps)
    if preconditioner in ("EDMPrecond", "Precond"):
        karras, scale = Karras(), told.get("sigma_data", 0.5)
        return Normalized(karras, scale), Edm(scale), LogSigma(karras)
    raise UsageError(
        f"The preconditioner {shown(preconditioner)!r} is unknown; known are VPPrecond, VEPrecond, iDDPMPrecond, "
        "EDMPrecond and Precond."
    )


def recognizes(path: Path) -> bool:
    """Whether a folder is what `convert` wrote."""
    try:
        return path.is_dir() and "preconditioner" in read_json(path / CONFIG)
    except CheckpointError:
        return False


def build(make: Callable[..., Any], path: Path, label: int | None = None) -> NetworkPredictor:
    """The predictor in a converted folder.

    Args:
        make: The raw network's class, from the code the folder was converted with.
        path: The folder.
        label: The class that the network is told; none is all zeros.

    Raises:
        CheckpointError: If the weights do not fit the class.
    """
    config = read_json(path / CONFIG)
    try:
        network = make(**config["network"]["arguments"])
        schedule, kind, clock = convention(config["preconditioner"], config["arguments"])
        shape, classes = tuple(config["shape"]), int(config["label_dim"])
    except (KeyError, TypeError, ValueError) as error:
        refuse(path, f"describes no network that {make} can build ({shown(error)})", error)
    if not isinstance(network, nn.Module):
        refuse(path, f"needs the class of its network, and {make} makes a {type(network).__name__}")
    fit(network, read_weights(path / MODEL)[0], path)
    labels = torch.zeros(1, classes)
    if label is not None:
        if not 0 <= label < classes:
            raise UsageError(f"The network in {shown(path)} knows {classes} classes, and --label is {label}.")
        labels[0, label] = 1
    inputs = {"class_labels": labels if classes else None}
    return NetworkPredictor(network.requires_grad_(False), schedule, kind, clock, shape, inputs).eval()


def convert(file: str | Path, code: str | Path, out: str | Path) -> dict[str, Any]:
    """Run a pickle's code, in a process of its own, and keep its tensors as a folder.

    Args:
        file: NVIDIA's .pkl; whatever code it holds is run.
        code: The folder that holds torch_utils and dnnlib.
        out: The folder to write.

    Raises:
        CheckpointError: If the code fails, or holds no network with a preconditioner.
    """
    if not Path(code).is_dir():
        raise UsageError(f"There is no folder {shown(code)}: give the code the pickle was made with, by --code-dir.")
    digest(file)
    make_folder(out)
    command = [sys.executable, "-m", "lipdiag.zoo.unpickle", *map(str, (file, code, out))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        refuse(file, f"cannot be converted ({shown(words)})")
    return read_json(Path(out) / CONFIG)


def digest(file: str | Path) -> str:
    """The SHA-256 of a file."""
    with open_regular(file) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
