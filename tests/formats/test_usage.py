"""imagen-pytorch's cascade against the package itself, where that is installed: its first U-Net is what is measured."""

import copy
import importlib
import sys

import pytest
import torch

import lipdiag
from lipdiag import checkpoints
from lipdiag.errors import CheckpointError
from tests.formats.originals import package

ABSENT = (
    "torchvision", "torchvision.transforms", "torchvision.utils", "kornia", "kornia.augmentation", "transformers",
    "pytorch_warmup", "accelerate", "datasets", "datasets.utils", "datasets.utils.file_utils", "resize_right",
)  # fmt: skip
TOLD = {"dim": 8, "cond_dim": 8, "dim_mults": (1, 2), "text_embed_dim": 8, "cond_on_text": False, "attn_heads": 2}
FACTORY = """
from imagen_pytorch.imagen_pytorch import Unet
def build(state):
    network = Unet(dim=8, cond_dim=8, dim_mults=(1, 2), text_embed_dim=8, cond_on_text=False, attn_heads=2)
    network.load_state_dict(state)
    return network
"""


def trained(original):
    """Imagen of two U-Nets, the averages that its trainer keeps of them, and what that saves."""
    torch.manual_seed(0)
    unets = [original.Unet(**TOLD), original.Unet(**TOLD, lowres_cond=True)]
    imagen = original.Imagen(unets, image_sizes=(8, 16), text_embed_dim=8, condition_on_text=False)
    with torch.no_grad():
        for weight in imagen.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    ema = importlib.import_module("ema_pytorch").EMA
    averages = torch.nn.ModuleList([ema(copy.deepcopy(unet)) for unet in imagen.unets])
    with torch.no_grad():
        averages[0].ema_model.final_conv.bias.add_(1)
    return imagen, averages, {"model": imagen.state_dict(), "version": "2", "ema": averages.state_dict()}


def test_the_first_u_net_is_measured_as_imagen_uses_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_imagen.py").write_text(FACTORY)
    monkeypatch.delitem(sys.modules, "my_imagen", raising=False)
    pytest.importorskip("ema_pytorch")
    with package("imagen_pytorch", *ABSENT):
        imagen, averages, saved = trained(importlib.import_module("imagen_pytorch.imagen_pytorch"))
        torch.save(saved, "imagen.pt")
        with pytest.raises(CheckpointError, match=r"imagen-pytorch .*--factory my_network:build --shape 3,"):
            checkpoints.inspect("imagen.pt")
        told = {"factory": "my_imagen:build", "shape": (3, 8, 8)}
        predictor, raw = (lipdiag.load("imagen.pt", weights, **told) for weights in ("ema", "raw"))
    t = torch.tensor([0.3, 0.8])
    x0, noise = torch.randn(2, 2, 3, 8, 8)
    x, told, alpha, sigma = imagen.noise_schedulers[0].q_sample(x0, t, noise)
    ours = predictor.schedule(t.double())
    for theirs, mine in zip((alpha, sigma), ours, strict=True):
        torch.testing.assert_close(mine.float(), theirs.flatten(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for made, unet in ((predictor, averages[0].ema_model.eval()), (raw, imagen.unets[0].eval())):
            torch.testing.assert_close(made(x, t.double()), unet(x, told), rtol=1e-4, atol=1e-4)


def test_of_a_cascade_the_first_u_net_is_read(tmp_path):
    state = {"unets.0.final_conv.weight": torch.zeros(3, 8, 3, 3), "unets.1.final_conv.weight": torch.ones(3, 8, 3, 3)}
    torch.save({"model": state, "version": "2", "steps": torch.tensor([1, 1])}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"1 tensors under .*'final_conv.weight'.* --shape 3,H,W"):
        checkpoints.inspect(tmp_path / "a.pt")
