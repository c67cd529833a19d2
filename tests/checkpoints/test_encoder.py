"""Latents of pictures, against those that diffusers' own autoencoder and pipelines make."""

import itertools
import json

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import lipdiag
from lipdiag import Plan
from lipdiag.checkpoints.encoder import encoder
from lipdiag.cli import main
from lipdiag.errors import CheckpointError, UsageError
from lipdiag.study.resolve import resolve_model, resolve_source
from tests.networks import latent_unet

CPU = torch.device("cpu")


def autoencoder(**config) -> diffusers.AutoencoderKL:
    """A tiny one with random weights, always the same, that halves the side."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, layers_per_block=1, sample_size=16, **config,
        ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A latent model on 4 x 8 x 8 with its autoencoder, as a pipeline lies on the disk."""
    path = tmp_path_factory.mktemp("latent")
    unet = latent_unet()
    unet.save_pretrained(path / "unet")
    diffusers.DDIMScheduler().save_pretrained(path / "scheduler")
    autoencoder(scaling_factor=0.3).save_pretrained(path / "vae")
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return path


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(path / f"{i}.png")
    return path, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_x0_is_the_scaled_mean_of_the_posterior(folder, shots):
    path, x = shots
    source = resolve_source(resolve_model(folder), path, 0, encode=True)
    with torch.no_grad():
        truth = autoencoder().encode(x).latent_dist.mean * 0.3
    for i in range(4):
        found = source.sample(i)
        assert found.shape == (4, 8, 8)
        assert min(float((found - z).abs().max()) for z in truth) < 1e-5
    assert "encoded by the model's vae" in source.name
    plain = resolve_source(resolve_model(folder / "unet"), path, 0, encode=True)
    assert plain.fingerprint == source.fingerprint
    run = lipdiag.measure(folder, path, Plan(timesteps="5", draws=2, quantities=("loss",)), progress=False, encode=True)
    assert run.attrs["data"] == source.name


@pytest.mark.parametrize(
    ("config", "affine"),
    [
        ({"scaling_factor": 0.5, "shift_factor": 0.1}, lambda z: (z - 0.1) * 0.5),
        (
            {"scaling_factor": 0.5, "latents_mean": [1.0, 2.0, 3.0, 4.0], "latents_std": [1.0, 2.0, 4.0, 8.0]},
            lambda z: (z - torch.arange(1.0, 5)[:, None, None]) * 0.5 / torch.tensor([1, 2, 4, 8.0])[:, None, None],
        ),
    ],
    ids=["shift", "channels"],
)
def test_latents_are_shifted_and_scaled_as_the_config_says(tmp_path, shots, config, affine):
    network = autoencoder(**config)
    network.save_pretrained(tmp_path / "vae")
    with torch.no_grad():
        z = network.encode(shots[1][:1]).latent_dist.mean[0]
    torch.testing.assert_close(encoder(tmp_path, (4, 8, 8), CPU)(shots[1][0]), affine(z), rtol=1e-4, atol=1e-5)


def test_tokens_are_packed_as_flux_packs_them(tmp_path, shots):
    network = autoencoder(scaling_factor=1.0)
    network.save_pretrained(tmp_path / "vae")
    with torch.no_grad():
        z = network.encode(shots[1][:1]).latent_dist.mean
    found = encoder(tmp_path, (16, 16), CPU)(shots[1][0])
    for row, column, channel, down, right in itertools.product(range(4), range(4), range(4), range(2), range(2)):
        told = found[4 * row + column, 4 * channel + 2 * down + right]
        torch.testing.assert_close(told, z[0, channel, 2 * row + down, 2 * column + right], rtol=1e-4, atol=1e-5)


def test_pictures_are_not_measured_as_latents(folder, shots, tmp_path):
    """By the command: with what to do; and with --encode a number."""
    arguments = ["measure", str(folder), "--timesteps", "5", "--draws", "1", "--quantity", "loss", "--quiet", "--out"]
    given = [*arguments, str(tmp_path / "a.zarr"), "--data", str(shots[0])]
    refused = CliRunner().invoke(main, given)
    assert refused.exit_code == 2
    assert "latents" in refused.stderr
    assert "--encode" in refused.stderr
    assert CliRunner().invoke(main, [*given, "--encode"]).exit_code == 0
    clear = tmp_path / "clear"
    clear.mkdir()
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(clear / "0.png")  # of the latents' own shape
    with pytest.raises(UsageError, match=r"holds pictures, and the model has a vae: these are latents"):
        resolve_source(resolve_model(folder), clear, 0)


def broken(tmp_path, folder, name):
    """A folder whose autoencoder cannot be used, or a way to ask for one that is not there."""
    config = json.loads((folder / "vae" / "config.json").read_text())
    changes = {"class": {"_class_name": "os.system"}, "scale": {"scaling_factor": "x"}, "channels": {}, "nothing": {}}
    vae = tmp_path / "vae"
    if name != "nothing":
        vae.mkdir()
        (vae / "config.json").write_text(json.dumps(config | changes[name]))
        weights = "diffusion_pytorch_model.safetensors"
        (vae / weights).write_bytes((folder / "vae" / weights).read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("class", CheckpointError, "not among AutoencoderKL"),
        ("scale", CheckpointError, "does not tell how its latents are scaled"),
        ("channels", UsageError, "latents of 4 channels, and the model's samples have the shape"),
        ("nothing", UsageError, "no folder vae"),
    ],
)
def test_an_autoencoder_that_cannot_be_used_is_refused(tmp_path, folder, name, error, words):
    with pytest.raises(error, match=words):
        encoder(broken(tmp_path, folder, name), (16, 8, 8) if name == "channels" else (4, 8, 8), CPU)


def test_there_must_be_pictures_to_encode(folder):
    with pytest.raises(UsageError, match="nothing to encode"):
        resolve_source(resolve_model(folder), None, 0, encode=True)
