"""LoRA adapters, merged: the network that torch's own layers with A and B beside them are, and peft's own merge."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lipdiag import checkpoints
from lipdiag.checkpoints.adapter import merged
from lipdiag.errors import CheckpointError
from tests.formats.originals import package

ARGUMENTS = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1, "attention_head_dim": 8,
}  # fmt: skip
LAYERS = ("mid_block.attentions.0.to_q", "mid_block.attentions.0.to_out.0", "down_blocks.0.resnets.0.conv1")
RANK = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A pipeline's folder, its U-Net, and factors for three of its layers, one of them a convolution."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**ARGUMENTS).eval()
    folder = tmp_path_factory.mktemp("model")
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder)
    factors = {}
    for name in LAYERS:
        layer = unet.get_submodule(name)
        shape = (RANK, *layer.weight.shape[1:])
        factors[name] = (torch.randn(shape), torch.randn(len(layer.weight), RANK, *[1] * (layer.weight.ndim - 2)))
    return folder, unet, factors


def truth(unet, factors, scale, x, k):
    """The network with scale B A x added to what each layer makes of x, by torch's own layers."""
    handles = []
    for name, (a, b) in factors.items():
        layer = unet.get_submodule(name)
        kind = nn.functional.linear if a.ndim == 2 else nn.functional.conv2d
        first = {} if a.ndim == 2 else {"padding": layer.padding}

        def added(module, inputs, output, a=a, b=b, kind=kind, first=first, scale=scale[name]):
            return output + scale * kind(kind(inputs[0], a, **first), b)

        handles.append(layer.register_forward_hook(added))
    with torch.no_grad():
        y = unet(x, k).sample
    for handle in handles:
        handle.remove()
    return y


def save(folder, factors, names="{}.lora_{}.weight", prefix="base_model.model.", **config):
    """An adapter as peft saves it."""
    folder.mkdir()
    state = {prefix + names.format(n, "AB"[i]): z for n, pair in factors.items() for i, z in enumerate(pair)}
    save_file(state, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": RANK, "lora_alpha": 3, "base_model_name_or_path": None} | config
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


CASES = (
    ({}, 1.5, 1.5),
    ({"use_rslora": True}, 3 / RANK**0.5, 3 / RANK**0.5),
    ({"alpha_pattern": {"to_q": 5}}, 1.5, 2.5),
)


@pytest.mark.parametrize(("config", "others", "first"), CASES, ids=("plain", "root of the rank", "an alpha of its own"))
def test_an_adapter_is_merged_into_the_model_it_names(model, tmp_path, config, others, first):
    folder, unet, factors = model
    path = save(tmp_path / "a", factors, base_model_name_or_path=str(folder), **config)
    predictor = checkpoints.load(path)
    x, k = torch.randn(2, 1, 8, 8), torch.tensor([30.0, 700.0])
    scale = dict.fromkeys(LAYERS, others) | {LAYERS[0]: first}
    with torch.no_grad():
        torch.testing.assert_close(predictor.output(x, k), truth(unet, factors, scale, x, k), rtol=1e-4, atol=1e-4)
    told = checkpoints.inspect(path)
    assert told.kind == "diffusers pipeline with an adapter"
    assert f"3 layers of {folder} with an adapter merged into them" in told.notes
    assert told.sha256 != checkpoints.inspect(folder).sha256


def test_what_diffusers_saves_is_given_its_model(model, tmp_path):
    """In its names of today, with the numbers in the file, and in its first ones, which have no alpha."""
    folder, unet, factors = model
    linear = {name: pair for name, pair in factors.items() if pair[0].ndim == 2}
    x, k = torch.randn(2, 1, 8, 8), torch.tensor([30.0, 700.0])
    today = {f"unet.{n}.lora_{'AB'[i]}.weight": z for n, pair in linear.items() for i, z in enumerate(pair)}
    first = {f"unet.{n}.lora.{('down', 'up')[i]}.weight": z for n, pair in linear.items() for i, z in enumerate(pair)}
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": RANK, "unet.lora_alpha": 8})}
    text = {"text_encoder.a.lora_A.weight": torch.zeros(1)}
    save_file(today | text, tmp_path / "pytorch_lora_weights.safetensors", metadata)
    save_file(first, tmp_path / "old_lora.safetensors")
    for path, alpha in ((tmp_path, 4.0), (tmp_path / "old_lora.safetensors", 1.0)):
        predictor = checkpoints.load(path, original_config=folder)
        with torch.no_grad():
            expected = truth(unet, linear, dict.fromkeys(LAYERS, alpha), x, k)
            torch.testing.assert_close(predictor.output(x, k), expected, rtol=1e-4, atol=1e-4)
    assert (
        "1 tensors of the adapter's text encoders were left out"
        in checkpoints.inspect(tmp_path, original_config=folder).notes
    )


def test_what_is_no_plain_adapter_or_has_no_model_is_refused(model, tmp_path):
    folder, _, factors = model
    here = {"base_model_name_or_path": str(folder)}
    for number, (config, words) in enumerate((
        ({}, "which does not tell its model: give the model it was trained on by --original-config"),
        ({"base_model_name_or_path": "nobody/nothing"}, "an adapter of nobody/nothing, which is not at hand"),
        (here | {"use_dora": True}, "use_dora True, more than W [+] B A: merge it by peft"),
        (here | {"peft_type": "LOHA"}, "peft_type LOHA"),
        (here | {"alpha_pattern": {"(a+)+$": 3}}, "regular expressions"),
        (here | {"lora_alpha": "3"}, "as lora_alpha where a number is expected"),
    )):  # fmt: skip
        with pytest.raises(CheckpointError, match=words):
            checkpoints.inspect(save(tmp_path / str(number), factors, **config))
    state = {"a.weight": torch.zeros(4, 3)}
    a, b = torch.zeros(2, 3), torch.zeros(4, 2)
    for tensors, words in (
        ({"b.lora_A.weight": a, "b.lora_B.weight": b}, "a layer 'b' that its model does not have so"),
        ({"a.lora_A.weight": a}, "a layer 'a' that its model does not have so"),
        ({"a.lora_A.weight": a, "a.lora_B.weight": torch.zeros(3, 2)}, "another shape than in its model"),
        ({"a.lora_A.weight": a, "a.lora_B.weight": b, "a.lora_B.bias": torch.zeros(4)}, "lora_B.bias', which is not"),
        ({}, "without factors"),
    ):
        with pytest.raises(CheckpointError, match=words):
            merged(state, tensors, {}, tmp_path)


def test_peft_merges_to_the_same(model, tmp_path):
    """peft's own adapter of a U-Net of diffusers', trained a step, saved, and merged by peft itself."""
    folder, unet, _ = model
    with package("peft"):
        peft = pytest.importorskip("peft")
        import copy

        torch.manual_seed(1)
        config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["to_q", "to_v", "conv1"], init_lora_weights=False)
        adapted = peft.get_peft_model(copy.deepcopy(unet), config)
        adapted.save_pretrained(tmp_path / "peft")
        theirs = adapted.merge_and_unload().eval()
        predictor = checkpoints.load(tmp_path / "peft", original_config=folder)
    x, k = torch.randn(2, 1, 8, 8), torch.tensor([30.0, 700.0])
    with torch.no_grad():
        torch.testing.assert_close(predictor.output(x, k), theirs(x, k).sample, rtol=1e-5, atol=1e-5)
