"""Files as training scripts write them: which weights are taken, which prefixes go, what is no network at all."""

import argparse
import json
import math
import sys
import types

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lipdiag import checkpoints
from lipdiag.diffusion.clock import Timesteps, Unit
from lipdiag.diffusion.schedule import VP
from lipdiag.diffusion.spelling import spell
from lipdiag.errors import CheckpointError, UsageError
from lipdiag.formats import family
from lipdiag.weights import container
from lipdiag.weights.container import open_container
from lipdiag.weights.tensors import read_tensors
from tests.formats.agreement import derivatives_agree

TOLD = {"schedule": "linear()", "parameterization": "eps", "clock": "timesteps()", "shape": (2,)}
X, T = torch.tensor([[0.5, -1.0]]), torch.tensor([0.25], dtype=torch.float64)


def weights(offset: float = 0.0) -> dict[str, Tensor]:
    return {"first.weight": torch.arange(4.0).reshape(2, 2) + offset, "first.bias": torch.ones(2) * offset}


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def numbered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"shadow_params.{i}": tensor for i, tensor in enumerate(state.values())}


BUFFERS = {"betas": torch.linspace(1e-4, 0.02, 10), "alphas_cumprod": (1 - torch.linspace(1e-4, 0.02, 10)).cumprod(0)}
RAW, EMA = weights(), weights(1.0)
ADAM = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0, 1]}]}
LAYOUTS = {
    "bare": lambda: RAW,
    "DDP": lambda: prefixed("module.", RAW),
    "compiled": lambda: prefixed("_orig_mod.", RAW),
    "DiT": lambda: {
        "model": RAW, "ema": EMA, "opt": ADAM, "args": argparse.Namespace(model="SiT-XL/2", image_size=256),
    },
    "lucidrains": lambda: {
        "step": 7, "model": prefixed("model.", RAW) | BUFFERS, "opt": ADAM, "scaler": None, "version": "2.3",
        "ema": prefixed("ema_model.model.", EMA) | prefixed("ema_model.", BUFFERS)
        | {"initted": torch.tensor(True), "step": torch.tensor(7)},
    },
    "score_sde": lambda: {
        "optimizer": ADAM, "model": prefixed("module.", {"sigmas": torch.ones(5)} | RAW), "step": 3,
        "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": list(EMA.values())},
    },
    "k-diffusion": lambda: {
        "model": prefixed("inner_model.", RAW), "model_ema": prefixed("inner_model.", EMA), "opt": ADAM, "sched": {},
        "ema_sched": {}, "epoch": 1, "step": 2,
    },
    "LDM": lambda: {
        "epoch": 1, "global_step": 5, "pytorch-lightning_version": "1.4",
        "state_dict": prefixed("model.diffusion_model.", RAW) | BUFFERS
        | {"first_stage_model.encoder.conv_in.weight": torch.ones(1), "cond_stage_model.x": torch.ones(1)}
        | {"model_ema.diffusion_model" + name.replace(".", ""): tensor for name, tensor in EMA.items()}
        | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(9)},
    },
    "torchcfm": lambda: {"net_model": RAW, "ema_model": EMA, "sched": {}, "optim": ADAM, "step": 1},
    "flow_matching": lambda: {
        "model": prefixed("model.", RAW) | numbered(EMA) | {"num_updates": torch.tensor(3)}, "optimizer": ADAM,
        "lr_schedule": {}, "scaler": {}, "epoch": 1, "args": argparse.Namespace(dataset="cifar10"),
    },
}  # fmt: skip


@pytest.fixture
def strange(monkeypatch):
    """A stranger's module with the class of the network, and what the factory was given."""
    module = types.ModuleType("strange")

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 2)

        def forward(self, x, t):
            return self.first(x) + t[:, None]

    def build(state):
        module.given = state
        network = Network()
        network.load_state_dict({name: tensor for name, tensor in state.items() if name != "sigmas"})
        return network

    module.build = build
    monkeypatch.setitem(sys.modules, "strange", module)
    return module


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_factory_gets_the_bare_state_dict(strange, tmp_path, name):
    torch.save(LAYOUTS[name](), tmp_path / "x.pt")
    for which in ("ema", "raw"):
        predictor = checkpoints.factory("strange:build", tmp_path / "x.pt", weights=which, **TOLD)
        true = EMA if which == "ema" and name not in ("bare", "DDP", "compiled") else RAW
        assert set(strange.given) - {"sigmas"} == set(true)
        with torch.no_grad():
            expected = X @ true["first.weight"].T + true["first.bias"] + 249
            torch.testing.assert_close(predictor(X, T), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lucidrains", ("lucidrains", "ema of ema and raw", "'first.bias'", "--parameterization v --shape C,H,W` (v ")),
        ("score_sde", ("score_sde", '"ve(0.01, 50)"', '"vp(0.1, 20)"')),
        ("k-diffusion", ("k-diffusion", '"edm(0.5)"')),
        (
            "bare",
            ("of no family that lipdiag", "--schedule ... --parameterization ... --clock ... --shape C,H,W`"),
        ),
    ],
)
def test_without_a_factory_the_sentence_names_the_family_and_what_a_factory_gets(tmp_path, name, words):
    torch.save(LAYOUTS[name](), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="--factory") as refusal:
        checkpoints.load(tmp_path / "x.pt")
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize("gamma", [math.inf, 5.0])
@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_an_objective_is_read_from_the_weights_of_its_loss(objective, gamma):
    """min(snr, gamma) over snr, 1 and snr + 1 (Hang et al., Min-SNR weighting, 2023), in float32 as they are stored."""
    signal = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    snr = signal / (1 - signal)
    weight = snr.clamp(max=gamma) / {"pred_noise": snr, "pred_x0": 1, "pred_v": snr + 1}[objective]
    buffers = {"alphas_cumprod": signal.float(), "loss_weight": weight.float()}
    assert container.objective(buffers) == {"objective": objective}
    assert container.objective(buffers | {"loss_weight": weight.float() * (1 + snr.float())}) != {
        "objective": objective
    }
    assert container.objective({"alphas_cumprod": signal.float()}) == {}


def test_a_table_in_the_file_is_used(strange, tmp_path):
    """A factory's network needs neither schedule nor clock where the file has them; what is given still wins."""
    torch.save(LAYOUTS["lucidrains"](), tmp_path / "x.pt")
    with pytest.raises(UsageError, match=r"give --parameterization and --shape too, as in --parameterization v"):
        checkpoints.factory("strange:build", tmp_path / "x.pt")
    predictor = checkpoints.factory("strange:build", tmp_path / "x.pt", parameterization="v", shape=(2,))
    assert predictor.clock == Timesteps(10)
    alpha = predictor.schedule(torch.arange(1, 11, dtype=torch.float64) / 10)[0]
    torch.testing.assert_close(alpha.square().float(), BUFFERS["alphas_cumprod"], rtol=1e-6, atol=0)
    given = {"parameterization": "v", "shape": (2,), "clock": "unit()", "schedule": "vp()"}
    made = checkpoints.factory("strange:build", tmp_path / "x.pt", **given)
    assert (made.clock, made.schedule) == (Unit(), VP())
    assert "ema weights, of ema and raw" in made.notes
    assert not any("betas" in note for note in made.notes)


def test_trained_matrices_called_w_are_among_score_sde_s_averages(tmp_path):
    """NCSN++ calls W the vector of its Fourier features, which is not averaged, and attention's matrices, which are."""
    model = {"sigmas": torch.ones(5), "all_modules.0.W": torch.ones(3), "all_modules.1.NIN_0.W": torch.ones(2, 2)}
    content = {"model": prefixed("module.", model), "ema": {"shadow_params": [torch.zeros(2, 2)]}}
    found = open_container(content, "ema", "x").state
    assert [float(weight.sum()) for weight in found.values()] == [5, 3, 0]


def test_numbered_averages_are_counted_not_spelled():
    """shadow_params.10 comes after shadow_params.9."""
    network = {f"layers.{i}.bias": torch.zeros(2) for i in range(12)}
    averages = numbered({name: torch.full((2,), float(i)) for i, name in enumerate(network)})
    averages = dict(sorted(averages.items()))  # the order of their spelling
    content = LAYOUTS["flow_matching"]() | {"model": prefixed("model.", network) | averages}
    found = open_container(content, "ema", "x")
    assert [float(found.state[name][0]) for name in network] == list(range(12))
    assert (found.container, found.available) == ("flow_matching", ("ema", "raw"))


@pytest.mark.parametrize("place", ["in the file", "beside it"])
def test_a_config_is_used(strange, tmp_path, place):
    model = {"sigma_min": 0.01, "sigma_max": 60, "sigma_data": 0.4, "input_channels": 3, "input_size": [8, 4]}
    (tmp_path / "config.json").write_text(json.dumps({"model": model}))
    inside = place == "in the file"
    torch.save(LAYOUTS["k-diffusion"]() | ({"config": {"model": model}} if inside else {}), tmp_path / "x.pt")
    how = {} if inside else {"original_config": tmp_path / "config.json"}
    predictor = checkpoints.factory("strange:build", tmp_path / "x.pt", **how)
    assert predictor.shape == (3, 8, 4)
    assert spell(predictor.schedule) == "normalized(karras(0.01, 60, 7), 0.4)"
    assert (spell(predictor.parameterization), spell(predictor.clock)) == ("edm(0.4)", "sigma(karras(0.01, 60, 7))")
    torch.save(RAW, tmp_path / "x.pt")
    with pytest.raises(UsageError, match="leave --original-config out"):
        checkpoints.factory("strange:build", tmp_path / "x.pt", original_config=tmp_path / "config.json")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model": {"sigma_min": 0.01, "sigma_max": 60, "sigma_data": 0.4, "input_channels": 3}}, True),
        ({"model": "a name"}, False),
        ([1], False),
        (7, False),
    ],
)
def test_a_config_among_the_metadata_of_a_slim_file_is_used(tmp_path, config, told):
    network = {name: torch.ones(2, 2) for name in ("timestep_embed.weight", "mapping.in_proj.weight", "out.weight")}
    save_file(network, tmp_path / "slim.safetensors", metadata={"config": json.dumps(config)})
    with pytest.raises(CheckpointError, match=r"is a checkpoint of k-diffusion") as raised:
        checkpoints.inspect(tmp_path / "slim.safetensors")
    assert ("with the sigmas of its config" in str(raised.value)) is not told
    assert str(raised.value).count("3 tensors") == 1


def test_a_schedule_is_read_from_its_buffers(tmp_path):
    contents = open_container(LAYOUTS["lucidrains"](), "ema", "x")
    assert contents.table == tuple(BUFFERS["betas"].double().tolist())
    assert open_container(LAYOUTS["LDM"](), "ema", "x").table == contents.table


def test_arguments_of_a_script_are_plain_facts(tmp_path):
    torch.save(LAYOUTS["DiT"](), tmp_path / "x.pt")
    assert read_tensors(tmp_path / "x.pt")["args"] == {"model": "SiT-XL/2", "image_size": 256}


def half(layout: dict) -> dict:
    layout["ema"] = {"first.weight": EMA["first.weight"]}
    return layout


ALIENS = {
    "half an EMA": (lambda: half(LAYOUTS["DiT"]()), "half a network"),
    "half a list": (
        lambda: LAYOUTS["score_sde"]() | {"ema": {"shadow_params": [EMA["first.weight"]]}},
        "half a network",
    ),
    "half of numbered ones": (
        lambda: (
            LAYOUTS["flow_matching"]() | {"model": prefixed("model.", RAW) | {"shadow_params.0": EMA["first.weight"]}}
        ),
        "half a network",
    ),
    "tokens": (lambda: {"model": {"pixel_embedding.embedding_table.weight": torch.ones(2)}}, "flow over tokens"),
    "averaged tokens": (
        lambda: {"model": {"model.pixel_embedding.x": torch.ones(2), "shadow_params.0": torch.ones(2)}},
        "flow over tokens",
    ),
    "LoRA": (lambda: {"unet.down.0.lora_A.weight": torch.ones(2)}, "LoRA adapter.*give its model by --original-config"),
    "VAE": (lambda: {"encoder.conv_in.weight": torch.ones(2), "decoder.conv_in.weight": torch.ones(2)}, "VAE.*latents"),
    "quantised": (lambda: {"a.qweight": torch.ones(2), "a.scales": torch.ones(2)}, "quantised.*unquantised"),
    "text encoder": (lambda: {"text_model.embeddings.weight": torch.ones(2)}, "encoder, not a diffusion network"),
    "ControlNet": (lambda: {"controlnet_cond_embedding.conv_in.weight": torch.ones(2)}, "ControlNet"),
}


@pytest.mark.parametrize("name", ALIENS)
def test_what_is_no_network_is_named(tmp_path, name):
    make, words = ALIENS[name]
    torch.save(make(), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=words) as refusal:
        checkpoints.load(tmp_path / "x.pt")
    assert str(tmp_path / "x.pt") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_half_ema_can_be_left(strange, tmp_path):
    torch.save(half(LAYOUTS["DiT"]()), tmp_path / "x.pt")
    checkpoints.factory("strange:build", tmp_path / "x.pt", weights="raw", **TOLD)
    assert torch.equal(strange.given["first.weight"], RAW["first.weight"])


def test_a_label_is_no_business_of_a_factory(strange, tmp_path):
    torch.save(RAW, tmp_path / "x.pt")
    with pytest.raises(UsageError, match="--label out"):
        checkpoints.factory("strange:build", tmp_path / "x.pt", label=2, **TOLD)


CONDITION = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
    "norm_num_groups": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 4,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 12,
}  # fmt: skip
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def original(name: str) -> str:
    """A name of diffusers' as Stable Diffusion's authors call it, for the U-Net above, one layer a block."""
    layer, _, kind = name.rpartition(".")
    if layer in OUTSIDE:
        return f"{OUTSIDE[layer]}.{kind}"
    part, rest = name.split(".", 1)
    if part == "mid_block":
        block, index, rest = rest.split(".", 2)
        place = f"middle_block.{2 * int(index) if block == 'resnets' else 1}"
    else:
        level, block, index, rest = rest.split(".", 3)
        if block == "downsamplers":
            return f"input_blocks.{2 * int(level) + 2}.0.op.{kind}"
        if block == "upsamplers":
            return f"output_blocks.{2 * int(level) + 1}.1.conv.{kind}"
        number = 2 * int(level) + int(index) + (part == "down_blocks")
        side = "input_blocks" if part == "down_blocks" else "output_blocks"
        place = f"{side}.{number}.{0 if block == 'resnets' else 1}"
    if block == "resnets":
        layer, kind = rest.rsplit(".", 1)
        rest = f"{RESNET[layer]}.{kind}"
    return f"{place}.{rest}"


@pytest.fixture
def stable(tmp_path):
    """A tiny text-to-image U-Net, and a folder with its config and scheduler but without weights."""
    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(**CONDITION).eval()
    network.save_pretrained(tmp_path / "local" / "unet")
    (tmp_path / "local" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    scheduler.save_pretrained(tmp_path / "local" / "scheduler")
    return network, tmp_path / "local"


@pytest.mark.parametrize("form", ["ckpt", "safetensors", "diffusers"])
def test_a_single_file_is_read_with_a_local_description(stable, tmp_path, form):
    network, local = stable
    state, file = network.state_dict(), tmp_path / f"sd.{form.replace('diffusers', 'safetensors')}"
    renamed = {"model.diffusion_model." + original(name): tensor for name, tensor in state.items()}
    assert len(renamed) == len(state)
    others = {"first_stage_model.encoder.conv_in.weight": torch.ones(1), "alphas_cumprod": torch.ones(10) * 0.5}
    if form == "ckpt":
        torch.save({"state_dict": renamed | others, "global_step": 3}, file)
    else:
        save_file(state if form == "diffusers" else renamed | others, file)
    with pytest.raises(CheckpointError, match="--original-config DIR"):
        checkpoints.load(file)
    text = torch.randn(1, 5, 12)
    predictor = checkpoints.load(file, original_config=local, conditioning={"encoder_hidden_states": text})
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.25, 0.9], dtype=torch.float64)
    with torch.no_grad():
        expected = network(x, torch.tensor([249, 899]), text.expand(2, -1, -1)).sample
        torch.testing.assert_close(predictor(x, t), expected, rtol=1e-5, atol=1e-5)
    found = checkpoints.inspect(file, original_config=local)
    assert found.schedule == "scaled_linear(0.00085, 0.012, 1000)"
    if form == "ckpt":
        assert any("first_stage_model" in note and "latents" in note for note in found.notes)
        derivatives_agree(predictor, t)


def test_a_file_of_another_network_is_refused(stable, tmp_path):
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="fit"):
        checkpoints.load(tmp_path / "x.safetensors", original_config=stable[1])


def test_bfloat16_is_said(stable, tmp_path):
    network, local = stable
    save_file({name: tensor.bfloat16() for name, tensor in network.state_dict().items()}, tmp_path / "x.safetensors")
    notes = checkpoints.inspect(tmp_path / "x.safetensors", original_config=local).notes
    assert any("timesteps above 256" in note for note in notes)


def test_the_table_has_every_family_and_fits_the_readme():
    text = family.table()
    for entry in family.FAMILIES:
        assert f"| {entry.name} |" in text
    for name, why in family.UNSUPPORTED.items():
        assert f"{name}; {why}." in text
    assert all(line.count("|") == 6 for line in text.splitlines() if line.startswith("|"))


def test_blocks_like_diffusers_are_not_yet_a_network_of_diffusers():
    """MONAI's DiffusionModelUNet has conv_in and down_blocks too; diffusers' time embedding has names of its own."""
    monai = dict.fromkeys(
        ("conv_in.conv.weight", "time_embed.0.weight", "down_blocks.0.resnets.0.norm1.weight", "out.2.conv.weight"),
        torch.ones(1),
    )
    assert family.recognized(open_container(monai, "ema", "x")).name.startswith("MONAI")
    theirs = diffusers.UNet2DConditionModel(**CONDITION).state_dict()
    assert family.recognized(open_container(theirs, "ema", "x")).name.startswith("Stable Diffusion")
