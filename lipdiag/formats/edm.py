"""EDM's and EDM2's networks: what each preconditioner means in lipdiag's words, and how their pickles are converted.

A preconditioner wraps a raw network F into a denoiser D = c_skip x + c_out F(c_in x, c_noise). In the network's own
coordinates c_in x every one of the four is a plain convention, so that F itself is measured, never the wrapper (one of
which rounds sigma and has no derivative):

    VP, iDDPM   c_in = 1 / sqrt(1 + sigma^2), c_out = -sigma     F = eps   on the VP schedule, or the cosine table
    VE          c_in = 1, c_out = sigma                          F = -eps
    EDM         c_in = 1 / sqrt(sigma_data^2 + sigma^2)          F as in `edm`, on normalised x

A Jacobian in EDM's own x is c_in times the one measured.

NVIDIA's code is theirs: it is imported, never kept here, from where Python finds it. Converting compares what will be
measured with the file's own denoiser D.

References:
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, table 1.
    https://arxiv.org/abs/2206.00364
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from torch.autograd.function import FunctionCtx

from ..diffusion.clock import LogSigma, Timesteps, Unit
from ..diffusion.continuous import along
from ..diffusion.convention import Convention
from ..diffusion.parameterization import Edm, eps, minus_eps
from ..diffusion.predictor import NetworkPredictor
from ..diffusion.schedule import VE, VP, Karras, Normalized, SquaredCosine
from ..errors import UsageError
from ..files import json_or_empty, make_folder, read_json, shown
from ..weights.refusal import refuse
from ..weights.tensors import fit
from .checkpoint import file_digest
from .native import CONFIG, MODEL, read_weights


def convention(preconditioner: str, arguments: Mapping[str, float]) -> Convention:
    """How a preconditioner uses its raw network, in the network's own coordinates c_in x.

    Args:
        preconditioner: The class: VPPrecond, VEPrecond, iDDPMPrecond, EDMPrecond, or EDM2's Precond.
        arguments: Of the class; absent ones have its defaults.

    Raises:
        UsageError: If there is no such class.
    """
    if preconditioner == "VPPrecond":
        low = arguments.get("beta_min", 0.1)
        return Convention(VP(low, low + arguments.get("beta_d", 19.9)), eps, Unit(float(arguments.get("M", 1000)) - 1))
    if preconditioner == "VEPrecond":
        ve = VE(arguments.get("sigma_min", 0.02), arguments.get("sigma_max", 100.0))
        return Convention(ve, minus_eps, LogSigma(ve, 1.0, 0.5))
    if preconditioner == "iDDPMPrecond":
        if arguments.get("C_2", 0.008) != 0.008:
            got = arguments["C_2"]
            raise UsageError(f"an iDDPMPrecond with C_2 = {got} is not known; give its schedule by a factory")
        steps = int(arguments.get("M", 1000))
        return Convention(SquaredCosine(steps, 1 - arguments.get("C_1", 0.001)), eps, Timesteps(steps))
    if preconditioner in ("EDMPrecond", "Precond"):
        karras, scale = Karras(), arguments.get("sigma_data", 0.5)
        return Convention(Normalized(karras, scale), Edm(scale), LogSigma(karras))
    raise UsageError(
        f"the preconditioner {shown(preconditioner)!r} is unknown; known are VPPrecond, VEPrecond, iDDPMPrecond, "
        "EDMPrecond and Precond"
    )


def recognizes(path: Path) -> bool:
    """Whether a folder is what `convert` wrote."""
    return "preconditioner" in json_or_empty(path / CONFIG)


def build(make: Callable[..., Any], path: Path, label: int | None = None) -> NetworkPredictor:
    """The predictor in a converted folder.

    Args:
        make: The raw network's class, from the code the folder was converted with.
        path: The folder.
        label: The class that the network is told; none is all zeros.

    Raises:
        CheckpointError: If the weights do not fit the class.
    """
    if not (isinstance(make, type) and issubclass(make, nn.Module)):  # nothing else is called with a file's arguments
        refuse(path, f"needs the class of its network, and {shown(getattr(make, '__name__', make))} is no nn.Module")
    config = read_json(path / CONFIG)
    try:
        network = make(**config["network"]["arguments"])
        used = convention(config["preconditioner"], config["arguments"]).whole
        shape, classes = tuple(config["shape"]), int(config["label_dim"])
    except (KeyError, TypeError, ValueError) as error:
        refuse(path, f"describes no network that {make.__name__} can build ({shown(error)})", error)
    fit(network, read_weights(path / MODEL)[0], path)
    labels = torch.zeros(1, classes)
    if label is not None:
        if not 0 <= label < classes:
            raise UsageError(f"the network in {shown(path)} knows {classes} classes, and --label is {label}")
        labels[0, label] = 1
    inputs = {"class_labels": labels if classes else None}
    predictor = NetworkPredictor(network.requires_grad_(False), *used, shape, inputs).eval()
    notes = [f"x is what the network sees, c_in x of its {shown(config['preconditioner'])}"]
    if classes:
        notes.append(f"class_labels: {'all zeros, no class' if label is None else f'class {label}'}")
    if opened := [name for module in modules(network) for name in open_functions(module)]:
        notes.append(
            f"{', '.join(opened)} has no forward mode of its own: the operations inside of it are differentiated"
        )
    predictor.notes = tuple(notes)
    return predictor


def modules(network: nn.Module) -> list[ModuleType]:
    """The Python modules with the classes that a network is made of, but torch's own."""
    names = dict.fromkeys(type(part).__module__ for part in network.modules())
    return [sys.modules[name] for name in names if name.partition(".")[0] != "torch"]


def open_functions(module: ModuleType) -> list[str]:
    """Give forward mode a way through the custom functions in a module, and return their names.

    EDM's attention weights are one, with a derivative for reverse mode alone. Where a dual number comes, its `forward`
    is called as what it is, differentiable operations on tensors; anything else goes the old way, so that reverse mode
    stays NVIDIA's and the adjoint check of a run compares the two.
    """
    functions = {name: f for name, f in vars(module).items() if isinstance(f, type) and issubclass(f, Function)}
    missing = {name: f for name, f in functions.items() if f.jvp is Function.jvp}
    for name, function in missing.items():
        if "apply" not in vars(function):
            setattr(module, name, type(name, (function,), {"apply": classmethod(through)}))
    return list(missing)


def through(function: type[Function], *inputs: Any) -> Any:
    """A custom function's value, by its own `forward` where an input carries a tangent."""
    if any(isinstance(z, Tensor) and forward_ad.unpack_dual(z).tangent is not None for z in inputs):
        return function.forward(FunctionCtx(), *inputs)
    return vars(Function)["apply"].__func__(function, *inputs)


def difference(predictor: NetworkPredictor, network: Any, raw: nn.Module) -> float:
    """How far a wrapper's denoiser D is from what is measured, in what is said to the network and what it says.

    Compared, each relative: the network's input, its time, and eps = (x - D) / sigma for the wrapper's own input and
    time, whose rounding to float32 a network that oscillates quickly in time would show.

    Args:
        predictor: What would be measured.
        network: The wrapper as it was stored.
        raw: The network inside of it.
    """
    generator = torch.Generator().manual_seed(0)
    sigma = torch.exp(
        -predictor.schedule.logsnr(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64, device="cpu")) / 2
    ).float()
    if hasattr(network, "round_sigma"):
        sigma = network.round_sigma(sigma)
    t = predictor.schedule.time(-2 * sigma.double().log())
    x = torch.randn(len(t), *predictor.shape, generator=generator, device="cpu")
    alpha, s = (along(a.float(), x) for a in (predictor.schedule(t)[0], sigma))
    x = s * x
    labels = predictor.conditioning["class_labels"]
    said: list[Tensor] = []
    with torch.no_grad(), raw.register_forward_pre_hook(lambda module, inputs: said.extend(inputs[:2])):
        denoised = network(x, sigma) if labels is None else network(x, sigma, labels.expand(len(t), -1))
        c_in_x, told = said[:2]
        pairs = (
            (alpha * x, c_in_x),
            (predictor.clock(t), told.double()),
            (predictor.conditioned(c_in_x, t, told), (x - denoised) / s),
        )
        return max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)


def lack(path: Path) -> NoReturn:
    """Refuse a converted folder that comes without its class, and say which one it needs."""
    network = read_json(path / CONFIG).get("network")
    module, name = (network.get(key) if isinstance(network, dict) else None for key in ("module", "class"))
    refuse(
        path,
        f"is a converted EDM network, whose class only NVIDIA's code has: give --factory {shown(module or 'module')}:"
        f"{shown(name or 'Class')}, in the folder of that code or with it in PYTHONPATH",
    )


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
        raise UsageError(f"there is no folder {shown(code)}: give the code the pickle was made with, by --code-dir")
    file_digest(file)  # which refuses what is no file before its code is asked for
    make_folder(out)
    command = [sys.executable, "-m", "lipdiag.checkpoints.unpickle", *map(str, (file, code, out))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        refuse(file, f"cannot be converted ({shown(words)})")
    return read_json(Path(out) / CONFIG)
