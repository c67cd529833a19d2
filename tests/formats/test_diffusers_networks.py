"""Every network of diffusers' on the list, saved by diffusers itself and compared with its own output."""

import inspect as signatures
import json
from collections.abc import Callable
from typing import NamedTuple

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lipdiag import checkpoints
from lipdiag.errors import UsageError
from lipdiag.formats.networks import NETWORKS
from tests.formats.agreement import STEPS, derivatives_agree

T = torch.tensor([0.25, 0.9], dtype=torch.float64)
FLOW = diffusers.FlowMatchEulerDiscreteScheduler()


class Family(NamedTuple):
    """A tiny network, its scheduler, and how its own pipeline calls it and reads the noise from its answer."""

    config: dict
    scheduler: object
    call: Callable[[torch.nn.Module, Tensor, dict], Tensor]
    shape: tuple[int, ...] = (4, 8, 8)


def index(t: Tensor) -> Tensor:
    return (1000 * t).round().long() - 1


def ddpm_v(y: Tensor, x: Tensor) -> Tensor:
    """The noise, from the table inside diffusers' scheduler for Stable Diffusion 2."""
    square = SD2.alphas_cumprod.double()[index(T)].view(-1, 1, 1, 1)
    return (square.sqrt() * y.double() + (1 - square).sqrt() * x.double()).float()


def flow(y: Tensor, x: Tensor) -> Tensor:
    return x + (1 - T).float().view(-1, *[1] * (x.ndim - 1)) * y


def both(*tensors: Tensor) -> list[Tensor]:
    return [tensor.expand(2, *tensor.shape[1:]) for tensor in tensors]


CONDITION = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
    "norm_num_groups": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 4,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 12,
}  # fmt: skip
XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 34}
TRANSFORMER = {"num_attention_heads": 2, "attention_head_dim": 8, "sample_size": 8, "patch_size": 2, "in_channels": 4}
SD1 = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
SD2 = diffusers.DDIMScheduler(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction"
)
FAMILIES = {
    "UNet2DModel": Family(
        {
            "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1, "attention_head_dim": 8,
        },
        diffusers.DDPMScheduler(), lambda n, x, c: n(x, index(T)).sample,
    ),
    "UNet1DModel": Family(
        {
            "sample_size": 16, "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 16),
            "layers_per_block": 1, "norm_num_groups": 4, "time_embedding_type": "positional", "act_fn": "mish",
            "down_block_types": ("DownResnetBlock1D", "DownResnetBlock1D"), "mid_block_type": "MidResTemporalBlock1D",
            "up_block_types": ("UpResnetBlock1D",), "out_block_type": "OutConv1DBlock", "use_timestep_embedding": True,
        },
        diffusers.DDPMScheduler(), lambda n, x, c: n(x, index(T)).sample, (3, 16),
    ),
    "UNet1DModel of sound": Family(
        {
            "sample_size": 64, "in_channels": 2, "out_channels": 2, "extra_in_channels": 64, "flip_sin_to_cos": True,
            "block_out_channels": (32, 32, 64), "layers_per_block": 1, "use_timestep_embedding": False,
        },
        diffusers.DDPMScheduler(), lambda n, x, c: n(x, index(T)).sample, (2, 64),
    ),
    "UNet2DConditionModel": Family(
        CONDITION, SD1, lambda n, x, c: n(x, index(T), *both(c["encoder_hidden_states"])).sample
    ),
    "UNet2DConditionModel v": Family(
        CONDITION, SD2, lambda n, x, c: ddpm_v(n(x, index(T), *both(c["encoder_hidden_states"])).sample, x)
    ),
    "UNet2DConditionModel XL": Family(
        CONDITION | XL, SD1,
        lambda n, x, c: n(
            x, index(T), *both(c["encoder_hidden_states"]),
            added_cond_kwargs={
                key: c[f"added_cond_kwargs/{key}"].expand(2, -1) for key in ("text_embeds", "time_ids")
            },
        ).sample,
    ),
    "DiTTransformer2DModel": Family(
        TRANSFORMER | {"out_channels": 8, "num_layers": 1, "num_embeds_ada_norm": 10, "norm_num_groups": 4},
        diffusers.DDIMScheduler(), lambda n, x, c: n(x, index(T), c["class_labels"].expand(2)).sample[:, :4],
    ),
    "PixArtTransformer2DModel": Family(
        TRANSFORMER | {
            "attention_head_dim": 12, "out_channels": 8, "num_layers": 1, "cross_attention_dim": 24,
            "caption_channels": 12, "use_additional_conditions": True,
        },
        diffusers.DDIMScheduler(),
        lambda n, x, c: n(
            x, *both(c["encoder_hidden_states"]), timestep=index(T),
            added_cond_kwargs={
                key: c[f"added_cond_kwargs/{key}"].expand(2, -1) for key in ("resolution", "aspect_ratio")
            },
        ).sample[:, :4],
    ),
    "SD3Transformer2DModel": Family(
        TRANSFORMER | {
            "num_layers": 1, "joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 12,
            "out_channels": 4, "pos_embed_max_size": 8,
        },
        FLOW,
        lambda n, x, c: flow(
            n(x, *both(c["encoder_hidden_states"], c["pooled_projections"]), timestep=1000 * T.float()).sample, x
        ),
    ),
    "FluxTransformer2DModel": Family(
        {
            "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8,
            "num_attention_heads": 2, "joint_attention_dim": 12, "pooled_projection_dim": 10, "guidance_embeds": True,
            "axes_dims_rope": (2, 2, 4),
        },
        FLOW,
        lambda n, x, c: flow(
            n(
                x, *both(c["encoder_hidden_states"], c["pooled_projections"]), timestep=T.float(),
                img_ids=c["img_ids"], txt_ids=c["txt_ids"], guidance=c["guidance"].expand(2),
            ).sample, x,
        ),
        (6, 16),
    ),
    "SanaTransformer2DModel": Family(
        TRANSFORMER | {
            "patch_size": 1, "out_channels": 4, "num_layers": 1, "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 12,
        },
        diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        lambda n, x, c: flow(n(x, *both(c["encoder_hidden_states"]), timestep=1000 * T.float()).sample, x),
    ),
    "AuraFlowTransformer2DModel": Family(
        TRANSFORMER | {
            "num_mmdit_layers": 1, "num_single_dit_layers": 1, "joint_attention_dim": 12, "caption_projection_dim": 16,
            "out_channels": 4, "pos_embed_max_size": 16,
        },
        FLOW, lambda n, x, c: flow(n(x, *both(c["encoder_hidden_states"]), timestep=T.float()).sample, x),
    ),
    "Lumina2Transformer2DModel": Family(
        {
            "sample_size": 8, "in_channels": 4, "hidden_size": 24, "num_layers": 1, "num_refiner_layers": 1,
            "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 8, "axes_dim_rope": (4, 4, 4),
            "axes_lens": (300, 16, 16), "cap_feat_dim": 12,
        },
        FLOW,
        lambda n, x, c: flow(
            -n(x, (1 - T).float(), *both(c["encoder_hidden_states"], c["encoder_attention_mask"])).sample, x
        ),
    ),
}  # fmt: skip


def inputs(name: str) -> dict[str, Tensor]:
    """A condition that is none of the blank ones, for each family."""
    generator = torch.Generator().manual_seed(5)

    def text(length: int, width: int = 12) -> dict[str, Tensor]:
        return {"encoder_hidden_states": torch.randn(1, length, width, generator=generator)}

    pooled = torch.randn(1, 12, generator=generator)
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]])
    return {
        "UNet1DModel": {},
        "UNet1DModel of sound": {},
        "UNet2DModel": {},
        "UNet2DConditionModel": text(7),
        "UNet2DConditionModel v": text(7),
        "UNet2DConditionModel XL": text(7)
        | {"added_cond_kwargs/text_embeds": pooled[:, :10], "added_cond_kwargs/time_ids": sizes},
        "DiTTransformer2DModel": {"class_labels": torch.tensor([3])},
        "PixArtTransformer2DModel": text(5)
        | {
            "added_cond_kwargs/resolution": torch.tensor([[64.0, 96.0]]),
            "added_cond_kwargs/aspect_ratio": torch.tensor([[1.5]]),
        },
        "SD3Transformer2DModel": text(5, 16) | {"pooled_projections": pooled},
        "FluxTransformer2DModel": text(4)
        | {
            "pooled_projections": pooled[:, :10],
            "txt_ids": torch.zeros(4, 3),
            "img_ids": torch.tensor([[0.0, i, j] for i in range(2) for j in range(3)]),
            "guidance": torch.tensor([2.0]),
        },
        "SanaTransformer2DModel": text(5),
        "AuraFlowTransformer2DModel": text(5),
        "Lumina2Transformer2DModel": text(5) | {"encoder_attention_mask": torch.ones(1, 5, dtype=torch.bool)},
    }[name]


@pytest.fixture
def saved(tmp_path):
    """Writes a family's network and scheduler, nothing else; returns the folder and the network."""

    def save(name: str):
        family, cls = FAMILIES[name], getattr(diffusers, name.split()[0])
        torch.manual_seed(0)
        network = cls(**family.config).eval()
        with torch.no_grad():  # some of a fresh network's weights are zero, which would hide its dependence on time
            for weight in network.parameters():
                weight.add_(0.03 * torch.randn(weight.shape))
        part = "unet" if "UNet" in name else "transformer"
        network.save_pretrained(tmp_path / part)
        family.scheduler.save_pretrained(tmp_path / "scheduler")
        return tmp_path / part, network

    return save


def test_every_network_is_tested():
    # test_openai.py, test_dit.py, and for packages test_originals_factories.py and the file of each format
    of_their_own = {
        "UNetModel", "DiT", "denoising_diffusion_pytorch.Unet", "rectified_flow_pytorch.Unet",
        "monai.DiffusionModelUNet", "lerobot.DiffusionConditionalUnet1d", "k_diffusion.ImageDenoiserModelV1",
        "physicsnemo.SongUNet", "physicsnemo.DhariwalUNet",
    }  # fmt: skip
    assert {name.split()[0] for name in FAMILIES} | of_their_own == set(NETWORKS)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_network_predicts_what_its_own_library_does(saved, name, tmp_path):
    folder, network = saved(name)
    family, told = FAMILIES[name], inputs(name)
    if told:
        save_file(told, tmp_path / "told.safetensors")
    predictor = checkpoints.load(folder, conditioning=tmp_path / "told.safetensors" if told else None)
    x = torch.randn(2, *family.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = family.call(network, x, told)
        # 1e-5 for what the network says; a v's conversion is compared with a table that diffusers multiplies in float32
        atol = 1e-4 if name.endswith(" v") else 1e-5
        torch.testing.assert_close(predictor(x, T), expected, rtol=1e-5, atol=atol * float(expected.abs().max()))
    assert predictor.shape == family.shape
    # Fourier features of an index turn a hundred times as fast as sinusoids do
    derivatives_agree(predictor, T, steps=(1e-6, *STEPS) if name.endswith("sound") else STEPS)


@pytest.mark.parametrize("name", [name for name in FAMILIES if inputs(name) and "Flux" not in name])
def test_without_a_condition_the_blank_one_is_told_and_said(saved, name):
    folder, network = saved(name)
    checkpoint = checkpoints.read(folder)
    x = torch.randn(2, *FAMILIES[name].shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = FAMILIES[name].call(network, x, checkpoint.conditioning)
        torch.testing.assert_close(checkpoints.assemble(checkpoint)(x, T), expected, rtol=1e-4, atol=1e-4)
    (note,) = checkpoint.notes
    for key in checkpoint.conditioning:
        assert f"{key} = " in note
    text = checkpoint.conditioning.get("encoder_hidden_states", torch.zeros(1))
    assert not text.any()


def test_flux_is_measured_on_packed_tokens(saved):
    folder, _ = saved("FluxTransformer2DModel")
    checkpoint = checkpoints.read(folder)
    assert checkpoint.shape == (4096, 16)
    assert any("packed tokens" in note for note in checkpoint.notes)
    ids = torch.tensor([[0.0, i, j] for i in range(2) for j in range(2)])
    assert checkpoints.read(folder, checkpoints.Reading(conditioning={"img_ids": ids})).shape == (4, 16)


def test_a_label_is_a_class(saved):
    folder, network = saved("DiTTransformer2DModel")
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        expected = network(x, index(T), torch.tensor([7, 7])).sample[:, :4]
        torch.testing.assert_close(checkpoints.load(folder, label=7)(x, T), expected, rtol=1e-5, atol=1e-5)
    assert checkpoints.inspect(folder, label=7).notes == ("conditioned on class_labels = 7 throughout",)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"label": 3}, "leave --label out"),
        ({"conditioning": {"text": torch.zeros(1)}}, "'text', which UNet2DConditionModel does not take"),
        ({"conditioning": "empty.npz"}, "cannot read the conditioning"),
        ({"conditioning": "objects.npz"}, "cannot read the conditioning"),
    ],
)
def test_a_condition_that_the_network_does_not_take_is_refused(saved, tmp_path, monkeypatch, options, word):
    folder, _ = saved("UNet2DConditionModel")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match=word):
        checkpoints.load(folder, **options)


def test_arrays_of_numpy_are_conditions_too(saved, tmp_path):
    folder, _ = saved("UNet2DConditionModel")
    text = inputs("UNet2DConditionModel")["encoder_hidden_states"]
    np.savez(tmp_path / "told.npz", encoder_hidden_states=text.double().numpy())
    found = checkpoints.load(folder, conditioning=tmp_path / "told.npz").conditioning["encoder_hidden_states"]
    assert found.dtype == torch.float32
    assert torch.equal(found, text)


def test_sharing_a_v_network_s_time_needs_nothing_but_the_clock(saved):
    """E-TSDM on a network of diffusers': the derivative in time is 0 inside a block, the noise level is not shared."""
    folder, _ = saved("UNet2DConditionModel v")
    predictor = checkpoints.load(folder, clock="shared(timesteps(1000), 100, 5)").double()
    t, x = torch.tensor([0.006], dtype=torch.float64), torch.randn(1, 4, 8, 8, dtype=torch.float64)
    assert predictor.clock(t).item() == 0
    told = torch.func.jvp(predictor.clock, (t,), (torch.ones_like(t),))[1]
    assert not told.any()
    assert predictor.schedule(t) != predictor.schedule(predictor.clock.base.time(torch.zeros_like(t)))
    assert predictor(x, t).shape == x.shape


def test_configs_are_plain_json(saved):
    folder, _ = saved("UNet2DConditionModel XL")
    config = json.loads((folder / "config.json").read_text())
    assert set(checkpoints.read(folder).network_config) <= set(
        signatures.signature(diffusers.UNet2DConditionModel).parameters
    )
    assert config["_class_name"] == "UNet2DConditionModel"
