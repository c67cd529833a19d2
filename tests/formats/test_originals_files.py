"""Single files of Flux, Stable Diffusion 3 and latent diffusion, written from their authors' code, compared with it."""

import importlib
import sys
import types

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lipdiag import checkpoints
from tests.formats.agreement import derivatives_agree
from tests.formats.originals import clone, importable

T = torch.tensor([0.25, 0.9], dtype=torch.float64)


def stirred(network: nn.Module) -> nn.Module:
    """The network with weights that are nowhere zero, without gradients."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.03 * torch.randn(weight.shape))
    return network.eval().requires_grad_(False)


def flow(velocity: Tensor, x: Tensor) -> Tensor:
    """The noise at the end of the straight path."""
    return x + (1 - T).float().view(-1, *[1] * (x.ndim - 1)) * velocity


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_flux(tmp_path, guidance):
    with importable(clone("flux") / "src"):
        model = importlib.import_module("flux.model")
        network = stirred(
            model.Flux(
                model.FluxParams(
                    in_channels=16, out_channels=16, vec_in_dim=10, context_in_dim=12, hidden_size=16, mlp_ratio=4.0,
                    num_heads=2, depth=2, depth_single_blocks=2, axes_dim=[2, 2, 4], theta=10_000, qkv_bias=True,
                    guidance_embed=guidance,
                )
            )
        )  # fmt: skip
        save_file(network.state_dict(), tmp_path / "flux.safetensors")
        diffusers.FluxTransformer2DModel(
            in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=12, pooled_projection_dim=10, guidance_embeds=guidance, axes_dims_rope=(2, 2, 4),
        ).save_config(tmp_path / "local" / "transformer")  # fmt: skip
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True).save_pretrained(
            tmp_path / "local" / "scheduler"
        )
        text, pooled = torch.randn(1, 4, 12), torch.randn(1, 10)
        ids = torch.tensor([[0.0, i, j] for i in range(2) for j in range(3)])
        told = {
            "encoder_hidden_states": text, "pooled_projections": pooled, "txt_ids": torch.zeros(4, 3), "img_ids": ids,
        } | ({"guidance": torch.tensor([2.5])} if guidance else {})  # fmt: skip
        predictor = checkpoints.load(
            tmp_path / "flux.safetensors", original_config=tmp_path / "local", conditioning=told
        )
        assert predictor.shape == (6, 16)
        x = torch.randn(2, 6, 16)
        velocity = network(
            x, ids.expand(2, -1, -1), text.expand(2, -1, -1), torch.zeros(2, 4, 3), T.float(), pooled.expand(2, -1),
            torch.full((2,), 2.5) if guidance else None,
        )  # fmt: skip
        close(predictor(x, T), flow(velocity, x))
        derivatives_agree(predictor, T)


@pytest.mark.parametrize("kind", ["3", "3.5 large", "3.5 medium"])
def test_stable_diffusion_3(tmp_path, kind):
    with importable(clone("sd3.5"), "transformers"):
        norm, dual = (None if kind == "3" else "rms"), ([0] if kind == "3.5 medium" else [])
        network = stirred(
            importlib.import_module("mmditx").MMDiTX(
                input_size=None, patch_size=2, in_channels=4, depth=2, adm_in_channels=10, pos_embed_max_size=8,
                num_patches=64, qk_norm=norm, x_block_self_attn_layers=dual,
                context_embedder_config={
                    "target": "torch.nn.Linear", "params": {"in_features": 12, "out_features": 128},
                },
            )
        )  # fmt: skip
        network.pos_embed.normal_(generator=torch.Generator().manual_seed(1))
        for name, weight in network.named_parameters():
            if ".ln_" in name:  # which the original leaves as memory was
                weight.normal_(1, 0.03)
        state = {f"model.diffusion_model.{key}": tensor for key, tensor in network.state_dict().items()}
        others = {"first_stage_model.encoder.conv_in.weight": torch.ones(1), "text_encoders.x": torch.ones(1)}
        save_file(state | others, tmp_path / "sd3.safetensors")
        diffusers.SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=64, num_attention_heads=2,
            joint_attention_dim=12, caption_projection_dim=128, pooled_projection_dim=10, out_channels=4,
            pos_embed_max_size=8, qk_norm=None if norm is None else "rms_norm", dual_attention_layers=tuple(dual),
        ).save_config(tmp_path / "local" / "transformer")  # fmt: skip
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(tmp_path / "local" / "scheduler")
        text, pooled = torch.randn(1, 5, 12), torch.randn(1, 10)
        told = {"encoder_hidden_states": text, "pooled_projections": pooled}
        predictor = checkpoints.load(
            tmp_path / "sd3.safetensors", original_config=tmp_path / "local", conditioning=told
        )
        x = torch.randn(2, 4, 8, 8)
        # the original's sampler tells it 1000 sigma
        velocity = network(x, 1000 * T.float(), y=pooled.expand(2, -1), context=text.expand(2, -1, -1))
        close(predictor(x, T), flow(velocity, x))
        derivatives_agree(predictor, T)


LDM = {
    "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": 1,
    "attention_resolutions": [1, 2], "channel_mult": [1, 2], "num_heads": 2,
}  # fmt: skip


@pytest.fixture
def latent():
    """The original's modules; no gradient checkpointing, which has no forward derivatives and changes no value."""
    with importable(clone("latent-diffusion"), "omegaconf", "omegaconf.listconfig"):
        sys.modules["omegaconf.listconfig"].ListConfig = type("ListConfig", (list,), {})
        yield importlib.import_module("ldm.modules.diffusionmodules.openaimodel")


def lightning(network: nn.Module, path, betas: np.ndarray, monkeypatch) -> nn.Module:
    """Write a checkpoint as Lightning does, of the original's own averages; returns the network with these."""
    ema = importlib.import_module("ldm.modules.ema").LitEma
    wrapper = nn.Module()
    wrapper.diffusion_model = network.requires_grad_(True)
    averaged = ema(wrapper)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.1)
    state = {f"model.{key}": tensor for key, tensor in wrapper.state_dict().items()}
    state |= {f"model_ema.{key}": tensor for key, tensor in averaged.state_dict().items()}
    alphas = np.cumprod(1 - betas)
    state |= {"betas": torch.tensor(betas).float(), "alphas_cumprod": torch.tensor(alphas).float()}
    state |= {"sqrt_alphas_cumprod": torch.tensor(alphas**0.5).float(), "scale_factor": torch.tensor(0.18215)}
    state |= {"first_stage_model.encoder.conv_in.weight": torch.ones(1), "cond_stage_model.x": torch.ones(1)}
    gone = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")  # whose class is the key of its state
    gone.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": gone.__name__})
    monkeypatch.setitem(sys.modules, gone.__name__, gone)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, "pytorch_lightning.callbacks", types.ModuleType("pytorch_lightning.callbacks"))
    callbacks = {gone.ModelCheckpoint: {"monitor": "val/loss_simple_ema", "best_model_score": torch.tensor(0.1)}}
    content = {"epoch": 3, "global_step": 70, "pytorch-lightning_version": "1.4.2", "state_dict": state}
    torch.save(content | {"callbacks": callbacks, "optimizer_states": [{"state": {}}]}, path)
    monkeypatch.delitem(sys.modules, gone.__name__)
    averaged.copy_to(wrapper)
    return network.requires_grad_(False)


def linear(first: float, last: float) -> np.ndarray:
    """The original's schedule "linear", whose square roots are equally spaced."""
    return np.linspace(first**0.5, last**0.5, 1000) ** 2


@pytest.mark.parametrize("updown", [False, True], ids=["celebahq", "churches"])
def test_unconditional_latent_diffusion(latent, tmp_path, monkeypatch, updown):
    betas = linear(0.0015, 0.0195)
    network = stirred(latent.UNetModel(**LDM, use_scale_shift_norm=updown, resblock_updown=updown))
    network = lightning(network, tmp_path / "x.ckpt", betas, monkeypatch)
    (tmp_path / "flags.json").write_text('{"num_heads": 2, "image_size": 8}')
    predictor = checkpoints.load(tmp_path / "x.ckpt", original_config=tmp_path / "flags.json")
    x = torch.randn(2, 4, 8, 8)
    close(predictor(x, T), network(x, torch.tensor([249, 899])))
    table = predictor.schedule(predictor.clock.time(torch.arange(1000.0, dtype=torch.float64)))[0] ** 2
    torch.testing.assert_close(table, torch.tensor(np.cumprod(1 - betas)), rtol=1e-4, atol=1e-9)
    derivatives_agree(predictor, T)
    x0 = checkpoints.load(tmp_path / "x.ckpt", original_config=tmp_path / "flags.json", parameterization="x0")
    alpha, sigma = (c.float().view(-1, 1, 1, 1) for c in predictor.schedule(T))
    close(x0(x, T), (x - alpha * network(x, torch.tensor([249, 899]))) / sigma)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_latent_diffusion_with_text(latent, tmp_path, monkeypatch, prediction):
    betas = linear(0.00085, 0.012)
    network = latent.UNetModel(**LDM, use_spatial_transformer=True, context_dim=12, transformer_depth=1)
    network = lightning(stirred(network), tmp_path / "x.ckpt", betas, monkeypatch)
    diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=12, attention_head_dim=2,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ).save_config(tmp_path / "local" / "unet")  # fmt: skip
    # a folder of another model of the same shape: the file's own betas win, and that is said
    diffusers.DDIMScheduler(prediction_type=prediction).save_pretrained(tmp_path / "local" / "scheduler")
    text = torch.randn(1, 5, 12)
    told = {"original_config": tmp_path / "local", "conditioning": {"encoder_hidden_states": text}}
    predictor = checkpoints.load(tmp_path / "x.ckpt", **told)
    x = torch.randn(2, 4, 8, 8)
    output = network(x, torch.tensor([249, 899]), context=text.expand(2, -1, -1))
    square = torch.tensor(np.cumprod(1 - betas))[[249, 899]].view(-1, 1, 1, 1)
    alpha, sigma = square.sqrt(), (1 - square).sqrt()
    expected = {
        "epsilon": output, "sample": (x - alpha * output) / sigma, "v_prediction": alpha * output + sigma * x
    }[prediction]  # fmt: skip
    close(predictor(x, T), expected.float())
    notes = checkpoints.inspect(tmp_path / "x.ckpt", **told).notes
    assert any("file's own" in note for note in notes)
    assert any("first_stage_model" in note for note in notes)
    if prediction == "epsilon":
        assert not torch.equal(checkpoints.load(tmp_path / "x.ckpt", "raw", **told)(x, T), predictor(x, T))
        derivatives_agree(predictor, T)
