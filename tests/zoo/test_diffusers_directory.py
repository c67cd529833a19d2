"""Folders that diffusers itself saved, compared with diffusers' own networks and schedulers."""

import json
import shutil

import diffusers
import pytest
import torch

from lipdiag import zoo
from lipdiag.errors import CheckpointError
from lipdiag.zoo.diffusers_directory import STEM

UNET = {
    "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1, "attention_head_dim": 8, "norm_num_groups": 4,
}  # fmt: skip
TOLERANCE = {"rtol": 1e-6, "atol": 2e-6}


def unet(**changes) -> diffusers.UNet2DModel:
    """A tiny network with weights that are not near zero anywhere."""
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**(UNET | changes)).eval()


@pytest.fixture
def saved(tmp_path):
    """Saves a tiny pipeline with the given scheduler arguments; returns its folder, network and scheduler."""

    def save(network=None, **options):
        network, scheduler = network or unet(), diffusers.DDPMScheduler(**options)
        diffusers.DDPMPipeline(network, scheduler).save_pretrained(tmp_path / "pipe")
        return tmp_path / "pipe", network, scheduler

    return save


def inputs(*timesteps: int):
    """Samples, timesteps as diffusers takes them, and the same as times of a table of 1000."""
    k = torch.tensor(timesteps)
    x = torch.randn(len(k), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, k, (k.double() + 1) / 1000


def diffusers_noise(scheduler, output, x, k):
    """The noise, by the formulas inside diffusers' DDIM scheduler."""
    square = scheduler.alphas_cumprod.double()[k].view(-1, 1, 1, 1)
    alpha, sigma, output, x = square.sqrt(), (1 - square).sqrt(), output.double(), x.double()
    prediction = scheduler.config.prediction_type
    if prediction == "sample":
        return (x - alpha * output) / sigma
    return alpha * output + sigma * x if prediction == "v_prediction" else output


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_pipeline_predicts_the_noise_that_diffusers_does(saved, prediction):
    folder, network, scheduler = saved(prediction_type=prediction)
    predictor = zoo.load(folder)
    x, k, t = inputs(50, 400, 999)
    with torch.no_grad():
        expected = diffusers_noise(scheduler, network(x, k).sample, x, k).float()
        torch.testing.assert_close(predictor(x, t), expected, rtol=1e-4, atol=2e-6 if prediction == "epsilon" else 5e-5)
    assert (predictor.shape, predictor.training) == ((3, 8, 8), False)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_schedule": "linear", "beta_start": 0.0015, "beta_end": 0.0195},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "sigmoid"},
        {"beta_schedule": "linear", "num_train_timesteps": 250},
        {"trained_betas": [0.1, 0.2, 0.3, 0.25], "num_train_timesteps": 4},
        {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
    ],
    ids=lambda options: " ".join(f"{key}={value}" for key, value in options.items()) or "defaults",
)
def test_the_schedule_is_the_scheduler_s(saved, options):
    folder, _, scheduler = saved(**options)
    predictor = zoo.load(folder)
    square = scheduler.alphas_cumprod.double()
    k = torch.arange(len(square), dtype=torch.float64)
    t = predictor.clock.time(k)
    torch.testing.assert_close(predictor.clock(t), k, rtol=0, atol=0)
    # diffusers multiplies up to 1000 factors in float32
    torch.testing.assert_close(predictor.schedule(t)[0] ** 2, square, rtol=1e-3, atol=2e-6)
    assert predictor.clock.count == len(square)


def test_a_bare_model_takes_the_scheduler_beside_it(saved, tmp_path):
    folder, network, _ = saved(beta_schedule="squaredcos_cap_v2")
    x, k, t = inputs(3, 700)
    with torch.no_grad():
        torch.testing.assert_close(zoo.load(folder / "unet")(x, t), network(x, k).sample, **TOLERANCE)
    assert zoo.inspect(folder / "unet").kind == "diffusers model"
    assert zoo.inspect(folder / "unet").schedule == "squared_cosine(1000, 0.999)"
    shutil.copytree(folder / "unet", tmp_path / "alone" / "unet")
    found = zoo.inspect(tmp_path / "alone" / "unet")
    assert found.unknown == ("schedule", "parameterization", "clock")
    with pytest.raises(CheckpointError, match="--schedule"):
        zoo.load(tmp_path / "alone" / "unet")
    given = zoo.load(tmp_path / "alone" / "unet", schedule="linear()", parameterization="eps", clock="timesteps(1000)")
    with torch.no_grad():
        torch.testing.assert_close(given(x, t), network(x, k).sample, **TOLERANCE)


@pytest.mark.parametrize("form", ["bin", "shards", "bin shards"])
def test_every_file_form_of_the_weights_gives_the_same_network(tmp_path, form):
    network = unet()
    network.save_pretrained(
        tmp_path / "m",
        safe_serialization=not form.startswith("bin"),
        **({"max_shard_size": "60KB"} if "shards" in form else {}),
    )
    files = [file.name for file in (tmp_path / "m").iterdir()]
    assert ("shards" in form) == any("index" in name for name in files)
    assert form.startswith("bin") == any(name.endswith(".bin") for name in files)
    predictor = zoo.load(tmp_path / "m", schedule="linear()", parameterization="eps", clock="timesteps(1000)")
    for name, tensor in predictor.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])


def test_half_precision_is_read_and_said(tmp_path):
    unet().half().save_pretrained(tmp_path / "m", variant="fp16")
    assert zoo.inspect(tmp_path / "m").dtype == "float16"
    predictor = zoo.load(tmp_path / "m", schedule="linear()", parameterization="eps", clock="timesteps()")
    weights = unet().half().state_dict()
    for name, tensor in predictor.network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, weights[name].float())


def test_averaged_weights_in_a_folder_of_their_own_are_taken(saved):
    folder, _, _ = saved()
    averaged = unet()
    with torch.no_grad():
        averaged.conv_out.bias.add_(1)
    averaged.save_pretrained(folder / "unet_ema")
    difference = zoo.load(folder).network.conv_out.bias - zoo.load(folder, "raw").network.conv_out.bias
    torch.testing.assert_close(difference, torch.ones(3))
    assert zoo.inspect(folder).available == ("ema", "raw")


def test_a_learned_variance_is_left_out_and_a_class_is_given(saved):
    folder, network, _ = saved(unet(out_channels=6, num_class_embeds=4))
    x, k, t = inputs(10, 900)
    with torch.no_grad():
        expected = network(x, k, class_labels=torch.zeros(2, dtype=torch.long)).sample[:, :3]
        torch.testing.assert_close(zoo.load(folder)(x, t), expected, **TOLERANCE)
    assert zoo.inspect(folder).notes == ("conditioned on class_labels = 0 throughout",)


def test_a_text_to_image_network_is_told_an_empty_text(tmp_path):
    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12, attention_head_dim=4,
    ).eval()  # fmt: skip
    network.save_pretrained(tmp_path / "unet")
    diffusers.DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(tmp_path / "scheduler")
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.1, 1.0], dtype=torch.float64)
    with torch.no_grad():
        expected = network(x, torch.tensor([99, 999]), torch.zeros(2, 77, 12)).sample
        torch.testing.assert_close(zoo.load(tmp_path / "unet")(x, t), expected, **TOLERANCE)


def test_a_transformer_is_told_the_class_that_stands_for_none(tmp_path):
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10, norm_num_groups=4,
    ).eval()  # fmt: skip
    network.save_pretrained(tmp_path / "transformer")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.1, 1.0], dtype=torch.float64)
    with torch.no_grad():
        expected = network(x, torch.tensor([99, 999]), torch.tensor([10, 10])).sample[:, :4]
        torch.testing.assert_close(zoo.load(tmp_path / "transformer")(x, t), expected, **TOLERANCE)


def test_a_flow_s_noise_is_the_end_of_its_straight_path(tmp_path):
    torch.manual_seed(0)
    network = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=12, out_channels=4,
        pos_embed_max_size=8,
    ).eval()  # fmt: skip
    network.save_pretrained(tmp_path / "transformer")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.save_pretrained(tmp_path / "scheduler")
    predictor = zoo.load(tmp_path / "transformer")
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.9], dtype=torch.float64)
    blank = {"encoder_hidden_states": torch.zeros(2, 77, 16), "pooled_projections": torch.zeros(2, 12)}
    with torch.no_grad():
        velocity = network(x, timestep=1000 * t.float(), **blank).sample
        torch.testing.assert_close(predictor(x, t), x + (1 - t).float().view(-1, 1, 1, 1) * velocity, **TOLERANCE)
    # diffusers noises with x_t = (1 - sigma) x0 + sigma noise at the timestep 1000 sigma
    scheduler.set_timesteps(10)
    x0, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    step = scheduler.timesteps[3:4]
    alpha, sigma = predictor.schedule(predictor.clock.time(step.double()))
    torch.testing.assert_close(
        alpha.float().item() * x0 + sigma.float().item() * noise, scheduler.scale_noise(x0, step, noise), **TOLERANCE
    )


def test_a_score_network_is_told_sigma(tmp_path):
    """diffusers' ScoreSdeVePipeline gives sigma_t as the time and steps along the output itself, the score."""
    network = unet(time_embedding_type="fourier")
    network.save_pretrained(tmp_path / "unet")
    diffusers.ScoreSdeVeScheduler(sigma_max=50.0).save_pretrained(tmp_path / "scheduler")
    predictor = zoo.load(tmp_path / "unet")
    t = torch.tensor([0.2, 0.8], dtype=torch.float64)
    sigma = (0.01 * (50.0 / 0.01) ** t).float()
    x = torch.randn(2, 3, 8, 8) * sigma.view(-1, 1, 1, 1)
    with torch.no_grad():
        expected = -sigma.view(-1, 1, 1, 1) * network(x, sigma).sample
        torch.testing.assert_close(predictor(x, t), expected, rtol=1e-4, atol=1e-5)


def change(file, **changes):
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def test_an_argument_of_another_version_is_ignored_and_said(saved):
    folder, _, _ = saved()
    change(folder / "unet" / "config.json", novelty=3)
    assert zoo.inspect(folder).notes == ("arguments that this diffusers does not know were ignored: novelty",)
    zoo.load(folder)


@pytest.mark.parametrize(
    ("options", "unknown", "word"),
    [
        ({"beta_schedule": "laplace"}, ("schedule",), "laplace"),
        ({"prediction_type": "novel"}, ("parameterization",), "novel"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, ("parameterization",), "EDMEuler"),
        (
            {"_class_name": "UnCLIPScheduler", "beta_schedule": ..., "beta_start": ...},
            ("schedule", "parameterization", "clock"), "UnCLIP",
        ),
    ],
)  # fmt: skip
def test_what_a_scheduler_does_not_tell_is_said_to_be_unknown(saved, options, unknown, word):
    folder, _, _ = saved()
    change(folder / "scheduler" / "scheduler_config.json", **options)
    found = zoo.inspect(folder)
    assert found.unknown == unknown
    assert word in " ".join(found.notes)
    with pytest.raises(CheckpointError, match=f"--{unknown[0]}"):
        zoo.load(folder)


DAMAGE = {
    "no weights": (lambda d: (d / "unet" / f"{STEM}.safetensors").unlink(), "lacks"),
    "cut weights": (lambda d: cut(d / "unet" / f"{STEM}.safetensors"), "cut short"),
    "no network": (lambda d: shutil.rmtree(d / "unet"), "without a folder unet or transformer"),
    "class": (lambda d: change(d / "unet" / "config.json", _class_name="Evil"), "'Evil'"),
    "value": (lambda d: change(d / "unet" / "config.json", norm_num_groups=7), "can be built"),
    "other": (lambda d: change(d / "unet" / "config.json", layers_per_block=2), "lacks"),
    "json": (lambda d: (d / "unet" / "config.json").write_text("{"), "JSON"),
    "beta": (lambda d: change(d / "scheduler" / "scheduler_config.json", beta_end=7), "no schedule that can be used"),
    "count": (lambda d: change(d / "scheduler" / "scheduler_config.json", num_train_timesteps="many"), "no schedule"),
    "shape": (lambda d: change(d / "unet" / "config.json", sample_size=None), "shape"),
    "escape": (lambda d: escape(d / "unet"), "not beside it"),
    "shard": (lambda d: shards(d / "unet"), "tensors that its index says"),
}


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def escape(folder):
    (folder / f"{STEM}.safetensors").unlink()
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret"}}))


def shards(folder):
    (folder / f"{STEM}.safetensors").rename(folder / "part.safetensors")
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused(saved, name):
    folder, _, _ = saved()
    damage, word = DAMAGE[name]
    damage(folder)
    with pytest.raises(CheckpointError, match=word) as refusal:
        zoo.load(folder)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)
