"""A predictor written as one of lipdiag's own checkpoints, in the format that `native` reads."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.predictor import Predictor
from ..diffusion.spelling import spell
from ..errors import UsageError
from ..files import atomic_write, make_folder, shown
from ..formats.native import CONDITIONING, CONFIG, EMA, FORMAT_VERSION, MODEL
from ..formats.networks import NETWORKS, TimeByKeyword


def save(
    path: str | Path,
    predictor: Predictor,
    *,
    ema: Mapping[str, Tensor] | None = None,
    weights: str = "raw",
    data: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a predictor's network as a .pt file, or as a folder where `path` does not end in .pt.

    Args:
        path: A file that ends in .pt, or a folder; what is there is replaced.
        predictor: Around a network whose class is in NETWORKS.
        ema: A state dict of averaged weights, beside the network's own.
        weights: What the network's own weights are, "raw" or "ema".
        data: Name of the data the model was trained on; by default the one that the predictor has on record.
        training: Facts about the training, as JSON can hold them.

    Raises:
        UsageError: If the predictor is not of that kind, or the path ends in .safetensors.
        StorageError: If the files cannot be written.

    Example:
        >>> lipdiag.save("ckpt.pt", lipdiag.load("digits-ddpm"), data="digits")
        >>> lipdiag.inspect("ckpt.pt").data
        'digits'
    """
    path = Path(path)
    if path.suffix in (".safetensors", ".json", ".bin"):
        raise UsageError(f"cannot save to {shown(path)}: give a folder, or a file that ends in .pt")
    if weights not in ("raw", "ema") or (weights == "ema" and ema is not None):
        raise UsageError(f"weights is {weights!r}: it says what the model's own weights are, raw or, alone, ema")
    network, inputs = bare(predictor), conditioning(predictor)
    config = describe(predictor) | {
        "weights": weights,
        "data": predictor.data if data is None else data,
        "training": dict(training or {}),
    }
    if predictor.limit is not None:  # a key that most files lack, so that an older lipdiag reads those
        config["limit"] = spell(predictor.limit)
    json_text(config)  # what cannot be written is refused before anything is
    states = {MODEL: network.state_dict() | inputs}
    if ema is not None:
        states[EMA] = dict(ema) | inputs
    # Tied weights share memory, which safetensors refuses; a checkpoint holds each by its own name.
    states = {name: {key: plain_copy(value) for key, value in state.items()} for name, state in states.items()}
    if path.suffix == ".pt":
        content: dict[str, Any] = {"config": json_text(config), "model": states[MODEL]}
        buffer = io.BytesIO()  # torch.save into a file on a full disk ends in an error that does not say so
        torch.save(content | ({"ema": states[EMA]} if EMA in states else {}), buffer)
        atomic_write(path, buffer.getvalue())
        return
    from safetensors.torch import save as serialize

    make_folder(path)
    files = {name: serialize(state) for name, state in states.items()}
    config["files"] = {name: hashlib.sha256(file).hexdigest() for name, file in files.items()}
    for name, file in files.items():
        atomic_write(path / name, file)
    atomic_write(path / CONFIG, json_text(config).encode())


def bare(predictor: Predictor) -> nn.Module:
    """The predictor's network as its class made it, if that class is in NETWORKS.

    Raises:
        UsageError: If it is not.
    """
    network = getattr(predictor, "network", None)
    if isinstance(network, TimeByKeyword):
        network = network.network
    name = type(network).__name__
    if (
        not isinstance(network, nn.Module)
        or not hasattr(network, "config")
        or name not in NETWORKS
        or type(network) is not NETWORKS[name]()
    ):
        around = "" if network is None else f" around a {name}"
        raise UsageError(
            f"a {type(predictor).__name__}{around} cannot be saved: lipdiag saves a NetworkPredictor around one of "
            f"{', '.join(NETWORKS)}"
        )
    return network


def describe(predictor: Predictor) -> dict[str, Any]:
    """The part of a config that the predictor itself tells."""
    network: Any = bare(predictor)
    return {
        "format_version": FORMAT_VERSION,
        "network": {
            "class": type(network).__name__,
            "config": {key: value for key, value in dict(network.config).items() if not key.startswith("_")},
        },
        "schedule": spell(predictor.schedule),
        "parameterization": spell(predictor.parameterization),
        "clock": spell(predictor.clock),
        "shape": list(predictor.shape),
    }


def conditioning(predictor: Predictor) -> dict[str, Tensor]:
    """The network's further inputs, under names that no weight has."""
    inputs = dict(getattr(predictor, "conditioning", {}))
    if not all(isinstance(value, Tensor) for value in inputs.values()):
        raise UsageError("only tensors can be saved as conditioning: give the network other inputs by a factory")
    return {CONDITIONING + name: value for name, value in inputs.items()}


def plain_copy(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, contiguous, with memory of its own."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def json_text(config: Mapping[str, Any]) -> str:
    """A config as JSON, every number a number."""
    try:
        return json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise UsageError(f"the facts to be saved are not what JSON can hold: {error}") from error
