"""What a network is told with each x0: further channels behind those of x, embeddings, all of them from one .npz."""

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

import lipdiag
from lipdiag import NetworkPredictor, Plan
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.schedule import Linear
from lipdiag.errors import CheckpointError, RunError, UsageError
from lipdiag.quantities.draw import data_index, noise
from tests.networks import latent_unet

PLAN = Plan(timesteps="5,500", draws=4, quantities=("loss", "time_difference", "spectral_norm"))
RNG = np.random.default_rng(0)
LATENTS = RNG.standard_normal((3, 4, 8, 8)).astype(np.float32)
TOLD = {
    "channels": RNG.standard_normal((3, 5, 8, 8)).astype(np.float32),
    "encoder_hidden_states": RNG.standard_normal((3, 7, 8)).astype(np.float16),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A U-Net for inpainting as Stable Diffusion's: of 9 channels it sees 4 are noise, and it is told a text."""
    unet = latent_unet(in_channels=9)
    path = tmp_path_factory.mktemp("inpainting")
    unet.save_pretrained(path / "unet")
    diffusers.DDIMScheduler().save_pretrained(path / "scheduler")
    return path / "unet"


def measure(folder, data, out=None, plan=PLAN, **reading):
    return lipdiag.measure(folder, data, plan, out, progress=False, **reading)


def test_the_network_sees_x_and_behind_it_the_channels_as_diffusers_pipeline_concatenates_them(folder):
    told = {name: torch.from_numpy(array[:1]).float() for name, array in TOLD.items()}
    predictor = lipdiag.load(folder, conditioning=told)
    assert predictor.shape == (4, 8, 8)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder)
    x, k = torch.from_numpy(LATENTS), torch.tensor([3, 500, 900])
    text, beside = (told[name].expand(3, *told[name].shape[1:]) for name in ("encoder_hidden_states", "channels"))
    with torch.no_grad():
        truth = unet(torch.cat([x, beside[:, :1], beside[:, 1:]], 1), k, text).sample
        found = predictor(x, predictor.clock.time(k.double()))
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


def test_each_draw_is_told_the_conditions_of_its_own_x0(folder, tmp_path):
    """Its loss is that of the source library's network at the draw's own noise, text and channels; resumed too."""
    np.savez(tmp_path / "x.npz", samples=LATENTS, **TOLD)
    measure(folder, tmp_path / "x.npz", tmp_path / "run.zarr", PLAN.replace(draws=2))
    run = measure(folder, tmp_path / "x.npz", tmp_path / "run.zarr")
    unet, rows = diffusers.UNet2DConditionModel.from_pretrained(folder), diffusers.DDIMScheduler().alphas_cumprod
    draws = [data_index(PLAN.seed, i, 3) for i in range(PLAN.draws)]
    assert len(set(draws)) > 1
    for i, datum in enumerate(draws):
        x0, channels, text = (torch.from_numpy(a[datum]).float()[None] for a in (LATENTS, *TOLD.values()))
        e = noise(PLAN.seed, i, (4, 8, 8)).float()[None]
        for row, k in enumerate((5, 500)):
            x = rows[k].sqrt() * x0 + (1 - rows[k]).sqrt() * e
            with torch.no_grad():
                loss = (unet(torch.cat([x, channels], 1), k, text).sample - e).square().mean()
            assert run["loss"].values[row, i] == pytest.approx(loss.item(), rel=1e-3)
    said = " ".join(run.attrs["launches"][-1]["notes"])
    assert "is told its own channels and encoder_hidden_states" in said
    assert "encoder_hidden_states = that of each x0" in said
    assert "was not tried: each x0 is told something of its own" in " ".join(run.attrs["launches"][-1]["warnings"])
    np.savez(tmp_path / "other.npz", samples=LATENTS, **TOLD | {"channels": TOLD["channels"][::-1]})
    with pytest.raises(RunError, match="sha256"):
        measure(folder, tmp_path / "other.npz", tmp_path / "run.zarr")
    again = measure(folder, {"x0": torch.from_numpy(LATENTS), **TOLD})
    np.testing.assert_allclose(again["loss"], run["loss"], rtol=1e-4)


def test_a_network_in_memory_and_its_raw_output_are_told_them_too():
    class Net(nn.Module):
        def forward(self, x, t, scale):
            return x[:, :2] * scale[:, None] + x[:, 2:]

    predictor = NetworkPredictor(Net(), Linear(), eps, Timesteps(), (2,))
    data = {"x": np.ones((3, 2), "f"), "scale": np.array([1.0, 2.0, 3.0]), "channels": np.ones((3, 2), "f")}
    for function in ("eps", "raw"):
        run = measure(predictor, data, plan=PLAN.replace(quantities=("spectral_norm",)), function=function)
        scales = [1.0 + data_index(PLAN.seed, i, 3) for i in range(PLAN.draws)]
        np.testing.assert_allclose(run["spectral_norm"][0], scales, rtol=1e-5)
    assert not predictor.conditioning


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": LATENTS, "b": LATENTS}, r"holds 2 arrays \(a, b\), none of which is called samples"),
        ({"x": LATENTS, "channels": LATENTS[:2]}, r"channels of shape \(2, 4, 8, 8\).* beside 3 samples \(x\)"),
        ({"x": LATENTS, "channels": np.array(["a", "b", "c"])}, "give one of numbers for each sample"),
        ({"x": LATENTS, "ids": np.arange(3)}, "holds ids beside the samples, and the model takes channels, encoder_h"),
        ({"x": LATENTS}, r"sees 5 channels beside x.* of shape \(1, 5, 8, 8\) as channels by conditioning="),
        ({"x": LATENTS, "channels": LATENTS}, r"shape \(4, 8, 8\) where the network has room for \(5, 8, 8\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refusals(folder, tmp_path, arrays, words):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises((UsageError, CheckpointError), match=words):
        measure(folder, tmp_path / "x.npz")
