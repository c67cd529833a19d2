"""k-diffusion's U-Net against k-diffusion itself, where that is installed, in a file of train.py and in a slim one."""

import copy
import importlib
import json

import pytest
import torch
from safetensors.torch import save_file

from lipdiag import checkpoints
from lipdiag.errors import CheckpointError
from tests.checkpoints.test_originals_factories import K_ABSENT, K_CONFIG, perturbed
from tests.formats.agreement import derivatives_agree
from tests.formats.originals import package

PARTS = ("dctorch", "torchsde", "skimage.transform", "clip_anytorch", "kornia", "wandb")


@pytest.mark.parametrize("wrapped", [True, False], ids=["told augmentations", "told none"])
def test_a_file_builds_its_network_and_a_slim_one_too(tmp_path, wrapped):
    """Its Denoiser's D(x, sigma) gives the noise (x - D) / sigma; the network is shown c_in x."""
    with package("k_diffusion", *K_ABSENT, *PARTS):
        K = importlib.import_module("k_diffusion")
        small = copy.deepcopy(K_CONFIG)
        small["model"]["augment_wrapper"] = wrapped
        config = K.config.load_config(small)
        torch.manual_seed(0)
        model = K.config.make_denoiser_wrapper(config)(perturbed(K.config.make_model(config))).eval()
        inner = model.inner_model.state_dict()
        torch.save({"config": config, "model": inner, "model_ema": inner, "epoch": 1, "step": 2}, tmp_path / "a.pth")
        save_file(inner, tmp_path / "slim.safetensors", {"config": json.dumps(config)})
        found = [checkpoints.load(tmp_path / name) for name in ("a.pth", "slim.safetensors")]
        sigma = torch.tensor([0.3, 20.0])
        s = sigma.reshape(-1, 1, 1, 1)
        x = s * torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            expected = (x - model(x, sigma)) / s
    for predictor in found:
        t = predictor.schedule.time(-2 * sigma.double().log())
        assert predictor.shape == (3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(predictor(x / (s**2 + 0.16).sqrt(), t), expected, rtol=1e-5, atol=1e-5)
    derivatives_agree(found[0], torch.tensor([0.3, 0.6], dtype=torch.float64))


def test_what_its_config_tells_and_what_is_refused(tmp_path, monkeypatch):
    state = {
        "timestep_embed.weight": torch.zeros(8, 1),
        "mapping.a": torch.zeros(1),
        "mapping_cond.weight": torch.ones(16, 9),
    }
    config = copy.deepcopy(K_CONFIG)

    def written(**changes):
        save_file(state, tmp_path / "slim.safetensors", {"config": json.dumps({"model": config["model"] | changes})})
        return tmp_path / "slim.safetensors"

    monkeypatch.setattr("lipdiag.formats.family.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"install k_diffusion, which has it\)"):
        checkpoints.inspect(written())
    monkeypatch.setattr("lipdiag.formats.family.find_spec", lambda name: "here")
    told = checkpoints.inspect(written())
    assert (told.network, told.shape, told.unknown) == ("k_diffusion.ImageDenoiserModelV1", (3, 8, 8), ())
    assert told.parameterization == "edm(0.4)"
    with pytest.raises(CheckpointError, match="told a picture or tokens beside x"):
        checkpoints.inspect(written(unet_cond_dim=3))
    with pytest.raises(CheckpointError, match="leave --original-config out"):
        checkpoints.inspect(written(), original_config=tmp_path / "slim.safetensors")
    with pytest.raises(CheckpointError, match=r"whose network lipdiag does not have: .*write-factory"):
        checkpoints.inspect(written(type="image_transformer_v1"))
