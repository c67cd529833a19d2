"""Networks in their authors' own layout, one file each, compared with what diffusers says of the same weights.

The layouts are written here from the names in the originals: diffusers' names are put back, layers that the originals
have in one piece are joined, and halves that diffusers swaps are swapped back.
"""

import json
import re

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lipdiag import checkpoints
from lipdiag.errors import CheckpointError
from lipdiag.formats.networks import NETWORKS
from tests.formats.agreement import derivatives_agree
from tests.formats.test_diffusers_networks import FAMILIES, T, inputs
from tests.weights.test_container import original as stable

QKV = "to_[qkv]"
LAYOUTS = {
    "FluxTransformer2DModel": {
        r"^transformer_blocks\.(\d+)\.": r"double_blocks.\1.",
        r"^single_transformer_blocks\.(\d+)\.": r"single_blocks.\1.",
        r"time_text_embed\.timestep_embedder": "time_in", r"time_text_embed\.text_embedder": "vector_in",
        r"time_text_embed\.guidance_embedder": "guidance_in", "_in.linear_1": "_in.in_layer",
        "_in.linear_2": "_in.out_layer", "^context_embedder": "txt_in", "^x_embedder": "img_in",
        r"norm1\.linear": "img_mod.lin", r"norm1_context\.linear": "txt_mod.lin", r"\.norm\.linear": ".modulation.lin",
        r"ff\.net\.0\.proj": "img_mlp.0", r"ff\.net\.2": "img_mlp.2", r"ff_context\.net\.0\.proj": "txt_mlp.0",
        r"ff_context\.net\.2": "txt_mlp.2", r"attn\.to_out\.0": "img_attn.proj", r"attn\.to_add_out": "txt_attn.proj",
        r"(single\w+\.\d+\.)attn\.norm_q\.weight": r"\1norm.query_norm.scale",
        r"(single\w+\.\d+\.)attn\.norm_k\.weight": r"\1norm.key_norm.scale",
        r"attn\.norm_q\.weight": "img_attn.norm.query_norm.scale",
        r"attn\.norm_k\.weight": "img_attn.norm.key_norm.scale",
        r"attn\.norm_added_q\.weight": "txt_attn.norm.query_norm.scale",
        r"attn\.norm_added_k\.weight": "txt_attn.norm.key_norm.scale",
        r"(single\w+\.\d+\.)proj_out": r"\1linear2", "^proj_out": "final_layer.linear",
        r"(single\w+\.\d+\.)(attn\.to_[qkv]|proj_mlp)": r"\1linear1", r"attn\.to_[qkv]": "img_attn.qkv",
        r"attn\.add_[qkv]_proj": "txt_attn.qkv", r"norm_out\.linear": "final_layer.adaLN_modulation.1",
    },
    "SD3Transformer2DModel": {
        r"^transformer_blocks\.(\d+)\.": r"joint_blocks.\1.", r"pos_embed\.pos_embed": "pos_embed",
        r"pos_embed\.proj": "x_embedder.proj", r"time_text_embed\.timestep_embedder\.linear_1": "t_embedder.mlp.0",
        r"time_text_embed\.timestep_embedder\.linear_2": "t_embedder.mlp.2",
        r"time_text_embed\.text_embedder\.linear_1": "y_embedder.mlp.0",
        r"time_text_embed\.text_embedder\.linear_2": "y_embedder.mlp.2", r"attn\.to_[qkv]": "x_block.attn.qkv",
        r"attn\.add_[qkv]_proj": "context_block.attn.qkv", r"attn\.to_out\.0": "x_block.attn.proj",
        r"norm1\.linear": "x_block.adaLN_modulation.1", r"norm1_context\.linear": "context_block.adaLN_modulation.1",
        r"ff\.net\.0\.proj": "x_block.mlp.fc1", r"ff\.net\.2": "x_block.mlp.fc2", "^proj_out": "final_layer.linear",
        r"norm_out\.linear": "final_layer.adaLN_modulation.1",
    },
    "SanaTransformer2DModel": {
        r"^transformer_blocks\.": "blocks.", r"patch_embed\.proj": "x_embedder.proj",
        r"time_embed\.emb\.timestep_embedder\.linear_1": "t_embedder.mlp.0",
        r"time_embed\.emb\.timestep_embedder\.linear_2": "t_embedder.mlp.2", r"time_embed\.linear": "t_block.1",
        r"caption_projection\.linear_": "y_embedder.y_proj.fc", "caption_norm": "attention_y_norm",
        r"attn1\.to_[qkv]": "attn.qkv", r"attn1\.to_out\.0": "attn.proj", r"attn2\.to_q": "cross_attn.q_linear",
        r"attn2\.to_[kv]": "cross_attn.kv_linear", r"attn2\.to_out\.0": "cross_attn.proj",
        r"ff\.conv_inverted": "mlp.inverted_conv.conv", r"ff\.conv_depth": "mlp.depth_conv.conv",
        r"ff\.conv_point": "mlp.point_conv.conv", "^proj_out": "final_layer.linear",
        "^scale_shift_table": "final_layer.scale_shift_table",
    },
    "AuraFlowTransformer2DModel": {
        r"^joint_transformer_blocks\.": "double_layers.", r"^single_transformer_blocks\.": "single_layers.",
        r"time_step_proj\.linear_1": "t_embedder.mlp.0", r"time_step_proj\.linear_2": "t_embedder.mlp.2",
        "^context_embedder": "cond_seq_linear", r"(single\w+\.\d+\.)ff\.": r"\1mlp.", r"\.ff\.": ".mlpX.",
        r"\.ff_context\.": ".mlpC.", r"(mlp\w*\.)linear_": r"\1c_fc", "out_projection": "c_proj",
        r"(single\w+\.\d+\.)norm1\.linear": r"\1modCX.1", r"norm1\.linear": "modX.1",
        r"norm1_context\.linear": "modC.1", r"(single\w+\.\d+\.attn\.)to_out\.0": r"\1w1o",
        r"(single\w+\.\d+\.attn\.)to_": r"\1w1", r"attn\.to_out\.0": "attn.w2o", r"attn\.to_add_out": "attn.w1o",
        r"attn\.to_": "attn.w2", r"attn\.add_(.)_proj": r"attn.w1\1", "^proj_out": "final_linear",
        r"norm_out\.linear": "modF.1", r"pos_embed\.pos_embed": "positional_encoding",
        r"pos_embed\.proj": "init_x_linear",
    },
    "Lumina2Transformer2DModel": {
        r"time_caption_embed\.caption_embedder": "cap_embedder",
        r"time_caption_embed\.timestep_embedder\.linear_1": "t_embedder.mlp.0",
        r"time_caption_embed\.timestep_embedder\.linear_2": "t_embedder.mlp.2", r"attn\.to_[qkv]": "attention.qkv",
        r"attn\.to_out\.0": "attention.out", r"attn\.norm_q": "attention.q_norm", r"attn\.norm_k": "attention.k_norm",
        r"feed_forward\.linear_": "feed_forward.w", r"norm1\.linear": "adaLN_modulation.1",
        r"\.norm1\.norm": ".attention_norm1", r"\.norm([12])\.": r".attention_norm\1.",
        r"norm_out\.linear_1": "final_layer.adaLN_modulation.1", r"norm_out\.linear_2": "final_layer.linear",
    },
}  # fmt: skip
# In the originals' last modulation the shift comes before the scale.
SWAPPED = {
    "FluxTransformer2DModel": ("final_layer.adaLN_modulation.1",),
    "SD3Transformer2DModel": ("final_layer.adaLN_modulation.1", "joint_blocks.0.context_block.adaLN_modulation.1"),
    "AuraFlowTransformer2DModel": ("modF.1",),
}
EXTRA = {  # which diffusers leaves out
    "SanaTransformer2DModel": {"pos_embed": torch.ones(1, 4), "y_embedder.y_embedding": torch.ones(3, 4)},
    "Lumina2Transformer2DModel": {"norm_final.weight": torch.ones(4)},
}


def original(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """A state dict of diffusers' as the network's authors have it."""
    found: dict[str, Tensor] = {}
    for key in sorted(state, key=lambda key: ("proj_mlp" in key, "_v" in key, "_k" in key)):  # q, k, v, then the rest
        tensor = state[key]
        for pattern, replacement in LAYOUTS[name].items():
            key = re.sub(pattern, replacement, key)
        found[key] = torch.cat([found[key], tensor]) if key in found else tensor
    for key in found:
        if key.rpartition(".")[0] in SWAPPED.get(name, ()):
            scale, shift = found[key].chunk(2)
            found[key] = torch.cat([shift, scale])
    return found | EXTRA.get(name, {})


@pytest.fixture
def described(tmp_path):
    """Makes a tiny network and a folder that describes it, without weights."""

    def make(name: str):
        torch.manual_seed(0)
        network = getattr(diffusers, name)(**FAMILIES[name].config).eval()
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.03 * torch.randn(weight.shape))
        network.save_config(tmp_path / "local" / "transformer")
        FAMILIES[name].scheduler.save_pretrained(tmp_path / "local" / "scheduler")
        return network, tmp_path / "local"

    return make


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("form", ["original", "prefixed", "diffusers"])
def test_a_transformer_in_one_file_predicts_what_its_library_does(described, tmp_path, name, form):
    network, local = described(name)
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    if form != "diffusers":
        state = original(state, name)
        assert len(set(state) & set(network.state_dict())) < 0.35 * len(state)  # it is another layout
    prefix = "model.diffusion_model." if form == "prefixed" else ""
    save_file({prefix + key: tensor.clone() for key, tensor in state.items()}, tmp_path / "x.safetensors")
    told = inputs(name)
    predictor = checkpoints.load(tmp_path / "x.safetensors", original_config=local, conditioning=told)
    x = torch.randn(2, *FAMILIES[name].shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = FAMILIES[name].call(network, x, told)
        torch.testing.assert_close(predictor(x, T), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    if form == "original":
        derivatives_agree(predictor, T)


@pytest.mark.parametrize("heads", [0, 3, 64, "two"])
@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "Lumina2Transformer2DModel"])
def test_a_folder_of_another_size_is_refused(described, tmp_path, name, heads):
    network, local = described(name)
    save_file(original(network.state_dict(), name), tmp_path / "x.safetensors")
    config = FAMILIES[name].config | {"num_attention_heads": heads, "_class_name": name}
    (local / "transformer" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"fit|needs|can be built"):
        checkpoints.load(tmp_path / "x.safetensors", original_config=local)


def compvis(network: torch.nn.Module, betas: Tensor) -> dict:
    """Stable Diffusion's own file: weights, averages of twice their size under names without dots, the schedule."""
    state = {stable(key): tensor for key, tensor in network.state_dict().items()}
    found = {f"model.diffusion_model.{key}": tensor for key, tensor in state.items()}
    found |= {f"model_ema.diffusion_model{key.replace('.', '')}": 2 * tensor for key, tensor in state.items()}
    buffers = {"betas": betas, "alphas_cumprod": (1 - betas).cumprod(0), "model_ema.decay": torch.tensor(0.9999)}
    return {"state_dict": found | buffers, "global_step": 3}


def test_averages_are_not_taken_for_quantised_weights(tmp_path):
    """Without its dots the name to_q.weight ends in qweight."""
    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(**FAMILIES["UNet2DConditionModel"].config).eval()
    network.save_config(tmp_path / "local" / "unet")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "local" / "scheduler")
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    torch.save(compvis(network, betas), tmp_path / "x.ckpt")
    found = checkpoints.inspect(tmp_path / "x.ckpt", original_config=tmp_path / "local")
    assert found.available == ("ema", "raw")
    averaged, raw = (
        checkpoints.load(tmp_path / "x.ckpt", which, original_config=tmp_path / "local") for which in ("ema", "raw")
    )
    assert torch.equal(averaged.network.conv_in.weight, 2 * raw.network.conv_in.weight)
    # the folder's scheduler is another one: the betas in the file are the model's own, and that is said
    assert any("file's own" in note and "linear(0.0001, 0.02, 1000)" in note for note in found.notes)
    square = averaged.schedule(averaged.clock.time(torch.arange(1000.0, dtype=torch.float64)))[0] ** 2
    torch.testing.assert_close(square, (1 - betas.double()).cumprod(0), rtol=1e-9, atol=0)
    # a folder that tells the same schedule in fewer words is left alone
    same = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195)
    same.save_pretrained(tmp_path / "local" / "scheduler")
    assert checkpoints.inspect(tmp_path / "x.ckpt", original_config=tmp_path / "local").schedule.startswith(
        "scaled_linear"
    )


def test_latent_diffusion_without_text_is_openai_s_network(tmp_path):
    network = NETWORKS["UNetModel"]()(
        image_size=8, in_channels=4, model_channels=32, out_channels=4, num_res_blocks=1, attention_resolutions=(2,),
        channel_mult=(1, 2), num_heads=2,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.03 * torch.randn(weight.shape))
    betas = torch.linspace(0.0015**0.5, 0.0155**0.5, 1000) ** 2
    state = {f"model.diffusion_model.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save({"state_dict": state | {"betas": betas}, "global_step": 3}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="num_heads"):
        checkpoints.load(tmp_path / "x.ckpt")
    (tmp_path / "flags.json").write_text('{"num_heads": 2, "image_size": 8}')
    predictor = checkpoints.load(tmp_path / "x.ckpt", original_config=tmp_path / "flags.json")
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(predictor(x, T), network(x, torch.tensor([249, 899])), rtol=1e-5, atol=1e-5)
    square = predictor.schedule(torch.tensor([0.5], dtype=torch.float64))[0] ** 2
    torch.testing.assert_close(square, (1 - betas.double()).cumprod(0)[499:500], rtol=1e-9, atol=0)
