"""The networks that a file may name: a closed list of classes, none of which a file can add to."""

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache, partial, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import CheckpointError
from ..files import shown
from ..lean import leanly
from ..weights.refusal import refuse


def diffusers_class(name: str) -> type[nn.Module]:
    """A network's class in diffusers, imported when it is first needed: that takes seconds."""

    def load() -> type[nn.Module]:
        import diffusers

        return getattr(diffusers, name)

    return leanly(load)


TIME_BY_KEYWORD = (  # their second argument is another one
    "PixArtTransformer2DModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
    "SanaTransformer2DModel",
    "AuraFlowTransformer2DModel",
)


def openai_class() -> type[nn.Module]:
    """The U-Net of OpenAI's diffusion repositories, in azula, which need not be installed."""
    azula = importlib.util.find_spec("azula")
    if azula is None or azula.origin is None:
        raise CheckpointError("OpenAI's U-Net is built by azula, which is not installed: pip install --no-deps azula")
    # The two files of the U-Net alone: the package around them imports what downloads and what needs torchvision.
    folder, name = Path(azula.origin).parent / "plugins" / "adm" / "_src", "azula_adm"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None or not (folder / "unet.py").is_file():
            raise CheckpointError("this azula has no OpenAI U-Net where azula 0.11 has it: install azula 0.11")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return importlib.import_module(f"{name}.unet").UNetModel


def packaged_class(module: str, name: str) -> type[nn.Module]:
    """A network's class in a package that need not be installed, which imports much that it does not need."""
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever one of the many does
        package = module.partition(".")[0]
        why = f"cannot be imported ({type(error).__name__}: {shown(error)}): repair its installation"
        why = why if importlib.util.find_spec(package) else "is not installed: install it"
        raise CheckpointError(f"{package}, which has the network, {why}, or give --factory") from error


@cache
def dit_class() -> type[nn.Module]:
    """DiT as its authors wrote it: diffusers' class, with their frequencies of time and one embedding for all blocks.

    diffusers spaces the logarithms of the 128 frequencies by 1/127, the authors by 1/128. Its blocks each keep a copy
    of the embedding of time and class; here the first block's is the only one, as in the original. The places of the
    patches are weights, as in the original, which keeps them in its files.
    """
    parent: Any = diffusers_class("DiTTransformer2DModel")

    @wraps(parent.__init__)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        parent.__init__(self, *args, **kwargs)
        first, *others = (block.norm1 for block in self.transformer_blocks)
        first.emb.time_proj.downscale_freq_shift = 0
        for norm in others:
            del norm.emb
            object.__setattr__(norm, "emb", first.emb)  # seen, but not a second owner of the weights
        self.pos_embed.register_buffer("pos_embed", self.pos_embed.pos_embed, persistent=True)

    return type("DiT", (parent,), {"__init__": init, "__module__": __name__})


@cache
def lerobot_class() -> type[nn.Module]:
    """The U-Net of LeRobot's diffusion policies, which there takes the whole config of its policy."""
    parent: Any = packaged_class("lerobot.policies.diffusion.modeling_diffusion", "DiffusionConditionalUnet1d")

    def init(self: Any, actions: int, global_cond_dim: int, config: Mapping[str, Any]) -> None:
        action = SimpleNamespace(shape=(actions,))
        parent.__init__(self, SimpleNamespace(action_feature=action, **config), global_cond_dim)

    return type("DiffusionConditionalUnet1d", (parent,), {"__init__": init, "__module__": __name__})


# where packages have the classes that are known by their own name behind the package's
PACKAGED = {
    "denoising_diffusion_pytorch.Unet": "denoising_diffusion_pytorch.denoising_diffusion_pytorch",
    "rectified_flow_pytorch.Unet": "rectified_flow_pytorch.rectified_flow",
    "physicsnemo.SongUNet": "physicsnemo.models.diffusion_unets",
    "physicsnemo.DhariwalUNet": "physicsnemo.models.diffusion_unets",
    "k_diffusion.ImageDenoiserModelV1": "k_diffusion.models",
    "monai.DiffusionModelUNet": "monai.networks.nets.diffusion_model_unet",
}

# The only classes that the name in a file can lead to.
NETWORKS: dict[str, Callable[[], type[nn.Module]]] = {
    name: partial(diffusers_class, name)
    for name in (
        "UNet1DModel",
        "UNet2DModel",
        "UNet2DConditionModel",
        "DiTTransformer2DModel",
        "Lumina2Transformer2DModel",
        *TIME_BY_KEYWORD,
    )
} | {"UNetModel": openai_class, "DiT": dit_class}
NETWORKS |= {"lerobot.DiffusionConditionalUnet1d": lerobot_class}
NETWORKS |= {name: partial(packaged_class, module, name.rpartition(".")[2]) for name, module in PACKAGED.items()}


class TimeByKeyword(nn.Module):
    """A network that takes its timestep by keyword only."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, timestep: Tensor, **conditioning: Any) -> Any:
        return self.network(x, timestep=timestep, **conditioning)


class TimeFirst(nn.Module):
    """A network that is called as network(timestep, x)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, timestep: Tensor, **conditioning: Any) -> Any:
        return self.network(timestep, x, **conditioning)


class Rescaled(nn.Module):
    """A network that is told a multiple of its timestep."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor, timestep: Tensor, **conditioning: Any) -> Any:
        return self.network(x, timestep * self.factor, **conditioning)


def widened(layers: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs of layers in the type of their weights."""
    return tuple(x.to(next(layers.parameters()).dtype) for x in inputs)


def adapted(network: Any, name: str, factor: float = 1.0) -> nn.Module:
    """A network that is called as network(x, timestep, **conditioning)."""
    if name == "UNetModel":
        network.time_embed.register_forward_pre_hook(widened)  # it embeds its time in float32, whatever its weights are
    if factor != 1:
        return Rescaled(network, factor)
    return TimeByKeyword(network) if name in TIME_BY_KEYWORD else network


DRAWN = {torch.ops.aten.uniform_.default, torch.ops.aten.normal_.default}


class Budget(TorchDispatchMode):
    """Ends the making of tensors that are many times what a file holds: its config may ask for a billion layers.

    Parameters, which that file fills, are not given random numbers first: drawing these takes longer than reading it.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.tensors = 3_000 + 20 * len(state)
        self.numbers = 2**24 + 4 * sum(tensor.numel() for tensor in state.values())

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # of a mode that does, every call imports a compiler first
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.tensors -= 1
        if self.tensors < 0 or awaited(func, args) > self.numbers:
            raise ValueError("the network is many times larger than the weights")
        if func in DRAWN and isinstance(args[0], nn.Parameter):
            return args[0]
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not any(made is given for given in args) and not made._is_view():
            self.numbers -= made.numel()
        return made


def awaited(func: Any, args: tuple[Any, ...]) -> float:
    """How many numbers an operation is about to make, as its arguments tell: sizes, a range, tensors that meet."""
    if func.overloadpacket is torch.ops.aten.arange:
        start, end, step = (0, *args, 1)[-3:] if len(args) < 3 else args
        return (end - start) / (step or 1)
    if args and isinstance(args[0], (list, tuple)) and all(type(size) is int for size in args[0]):
        return math.prod(args[0])
    shapes = [given.shape for given in args if isinstance(given, Tensor)]
    try:
        return math.prod(torch.broadcast_shapes(*shapes))
    except RuntimeError:  # they do not meet place by place
        return sum(math.prod(shape) for shape in shapes)


def create_network(
    name: str,
    config: Mapping[str, Any],
    path: str | Path,
    state: Mapping[str, Tensor] | None = None,
    known: Mapping[str, Callable[[], type[nn.Module]]] = NETWORKS,
) -> nn.Module:
    """A network of a class on the list, in eval mode, with random weights or, made for others, with arbitrary ones.

    Args:
        name: The class.
        config: Its arguments.
        path: The file that says so, for errors.
        state: The weights it is made for; a network many times their size is refused while it is made.
        known: The list of classes.

    Raises:
        CheckpointError: If the class is not on the list, or does not take these arguments.
    """
    if name not in known:
        refuse(path, f"names the network {shown(name)!r}, which is not among {', '.join(known)}: use --factory")
    network_class = known[name]()
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    unknown = set(config) - set(inspect.signature(network_class.__init__).parameters)
    if unknown:
        refuse(path, f"gives its {name} the argument {shown(min(unknown))!r}, which its package does not know")
    try:
        with nullcontext() if state is None else Budget(state):
            return network_class(**config).eval()
    except Exception as error:  # whatever a wrong argument leads the library to
        refuse(path, f"has a config from which no {name} can be built ({shown(error) or type(error).__name__})", error)
