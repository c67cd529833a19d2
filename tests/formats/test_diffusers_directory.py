"""Folders that diffusers itself saved, compared with diffusers' own networks and schedulers."""

import json
import resource
import shutil
import time

import diffusers
import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file

from lipdiag import checkpoints
from lipdiag.checkpoints.save import save
from lipdiag.diffusion.spelling import spell
from lipdiag.errors import CheckpointError
from lipdiag.formats.diffusers_directory import STEM
from lipdiag.sampling.sampler import sample

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
    predictor = checkpoints.load(folder)
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
        {"beta_schedule": "laplace", "thresholding": True, "timestep_spacing": "trailing"},
    ],
    ids=lambda options: " ".join(f"{key}={value}" for key, value in options.items()) or "defaults",
)
def test_the_schedule_is_the_scheduler_s(saved, options):
    folder, _, scheduler = saved(**options)
    predictor = checkpoints.load(folder)
    square = scheduler.alphas_cumprod.double()
    k = torch.arange(len(square), dtype=torch.float64)
    t = predictor.clock.time(k)
    torch.testing.assert_close(predictor.clock(t), k, rtol=0, atol=0)
    # diffusers multiplies up to 1000 factors in float32
    torch.testing.assert_close(predictor.schedule(t)[0] ** 2, square, rtol=1e-3, atol=2e-6)
    assert predictor.clock.count == len(square)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "clip(1)"),
        ({"clip_sample_range": 2.5}, "clip(2.5)"),
        ({"clip_sample": False}, None),
        ({"thresholding": True, "sample_max_value": 1.5}, "dynamic(0.995, 1.5)"),
    ],
    ids=str,
)
def test_samples_are_kept_in_the_range_that_the_scheduler_keeps_them_in(saved, tmp_path, options, told):
    """Drawn by diffusers' sampler from the same noise, with the config of the scheduler that lies in the folder."""
    folder, network, scheduler = saved(**options)
    predictor = checkpoints.load(folder)
    assert checkpoints.inspect(folder).limit == told
    scheduler = diffusers.DDIMScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(10)
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    x = noise
    with torch.no_grad():
        for k in scheduler.timesteps:
            x = scheduler.step(network(x, k).sample, k, x).prev_sample
    torch.testing.assert_close(sample(predictor, noise=noise.double(), steps=10), x, rtol=2e-3, atol=2e-3)
    save(tmp_path / "again.pt", predictor)
    assert checkpoints.load(tmp_path / "again.pt").limit == predictor.limit


def test_a_bare_model_takes_the_scheduler_beside_it(saved, tmp_path):
    folder, network, _ = saved(beta_schedule="squaredcos_cap_v2")
    x, k, t = inputs(3, 700)
    with torch.no_grad():
        torch.testing.assert_close(checkpoints.load(folder / "unet")(x, t), network(x, k).sample, **TOLERANCE)
    assert checkpoints.inspect(folder / "unet").kind == "diffusers model"
    assert checkpoints.inspect(folder / "unet").schedule == "squared_cosine(1000, 0.999)"
    shutil.copytree(folder / "unet", tmp_path / "alone" / "unet")
    found = checkpoints.inspect(tmp_path / "alone" / "unet")
    assert found.unknown == ("schedule", "parameterization", "clock")
    with pytest.raises(CheckpointError, match="--schedule"):
        checkpoints.load(tmp_path / "alone" / "unet")
    given = checkpoints.load(
        tmp_path / "alone" / "unet", schedule="linear()", parameterization="eps", clock="timesteps(1000)"
    )
    with torch.no_grad():
        torch.testing.assert_close(given(x, t), network(x, k).sample, **TOLERANCE)


SAMPLERS = (
    "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler",
    "TCDScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # in diffusers' own schedulers
@pytest.mark.parametrize("name", SAMPLERS)
def test_how_a_scheduler_steps_changes_nothing(saved, name):
    folder, _, _ = saved()
    scheduler = getattr(diffusers, name)(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing"
    )
    scheduler.save_pretrained(folder / "scheduler")
    found = checkpoints.inspect(folder)
    assert (found.schedule, found.parameterization) == ("scaled_linear(0.00085, 0.012, 1000)", "eps")
    assert found.clock == "timesteps(1000)"
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    torch.testing.assert_close(scheduler.alphas_cumprod, (1 - betas).cumprod(0), rtol=1e-5, atol=0)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # in diffusers' own schedulers
@pytest.mark.parametrize(
    ("name", "options"), [("UnCLIPScheduler", {}), ("HeunDiscreteScheduler", {"beta_schedule": "exp"})]
)
def test_a_table_without_a_name_or_a_rare_one_is_the_scheduler_s(saved, name, options):
    folder, _, _ = saved()
    scheduler = getattr(diffusers, name)(**options)
    scheduler.save_pretrained(folder / "scheduler")
    square = checkpoints.load(folder).schedule((torch.arange(1000.0, dtype=torch.float64) + 1) / 1000)[0] ** 2
    torch.testing.assert_close(square, scheduler.alphas_cumprod.double(), rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize(("prediction", "scale"), [("epsilon", 0.5), ("epsilon", 1.0), ("v_prediction", 1.0)])
def test_a_network_inside_edm_s_preconditioner(saved, name, prediction, scale):
    """The noise is that of the scheduler's own preconditioner: (x - D) / sigma."""
    folder, network, _ = saved()
    scheduler = getattr(diffusers, name)(sigma_data=scale, sigma_max=120.0, prediction_type=prediction)
    scheduler.save_pretrained(folder / "scheduler")
    predictor = checkpoints.load(folder)
    sigma = torch.tensor([0.05, 3.0], dtype=torch.float64)
    t, sigmas = predictor.schedule.time(-2 * sigma.log()), sigma.view(-1, 1, 1, 1)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64) * (1 + sigmas)
    with torch.no_grad():
        seen = scheduler.precondition_inputs(x, sigmas)
        output = network(seen.float(), scheduler.precondition_noise(sigma).float()).sample
        denoised = scheduler.precondition_outputs(x, output.double(), sigmas)
        found = predictor(seen.float(), t)
    torch.testing.assert_close(found.double(), (x - denoised) / sigmas, rtol=1e-4, atol=1e-5)


def test_a_consistency_model_s_network(saved):
    """Its time is the scheduler's, its scalings are those without the boundary condition, and that is said."""
    folder, network, _ = saved()
    scheduler = diffusers.CMStochasticIterativeScheduler()
    scheduler.save_pretrained(folder / "scheduler")
    predictor = checkpoints.load(folder)
    sigma = torch.tensor([0.05, 3.0], dtype=torch.float64)
    t, sigmas = predictor.schedule.time(-2 * sigma.log()), sigma.view(-1, 1, 1, 1)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64) * (1 + sigmas)
    seen = (x / (sigmas**2 + 0.25).sqrt()).float()
    told = torch.from_numpy(scheduler.sigma_to_t(sigma.numpy()))
    torch.testing.assert_close(predictor.clock(t), told, rtol=1e-9, atol=0)
    skip, out = scheduler.get_scalings(sigmas)
    with torch.no_grad():
        denoised = out * network(seen, told.float()).sample.double() + skip * x
        found = predictor(seen, t)
    torch.testing.assert_close(found.double(), (x - denoised) / sigmas, rtol=1e-4, atol=1e-4)
    assert any("boundary" in note for note in checkpoints.inspect(folder).notes)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
def test_a_continuous_v_network_is_told_log_sigma(saved):
    folder, network, _ = saved()
    scheduler = diffusers.EulerDiscreteScheduler(
        timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.002, sigma_max=700.0,
        use_karras_sigmas=True,
    )  # fmt: skip
    scheduler.save_pretrained(folder / "scheduler")
    scheduler.set_timesteps(10)
    predictor = checkpoints.load(folder)
    sigma, told = scheduler.sigmas[3:5].double(), scheduler.timesteps[3:5]
    t = predictor.schedule.time(-2 * sigma.log())
    torch.testing.assert_close(predictor.clock(t).float(), told, rtol=1e-5, atol=1e-6)
    x, sigmas = torch.randn(2, 3, 8, 8) * (1 + sigma.float().view(-1, 1, 1, 1)), sigma.float().view(-1, 1, 1, 1)
    seen = x / (sigmas**2 + 1).sqrt()  # scheduler.scale_model_input
    with torch.no_grad():
        output = network(seen, told).sample
        # the scheduler's step: x0 = -sigma / sqrt(sigma^2 + 1) v + x / (sigma^2 + 1)
        denoised = -sigmas / (sigmas**2 + 1).sqrt() * output + x / (sigmas**2 + 1)
        torch.testing.assert_close(predictor(seen, t), (x - denoised) / sigmas, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), {}),
        (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), {"mu": 0.8}),
        (diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0), {}),
    ],
    ids=["shift", "dynamic shift", "Heun"],
)
def test_a_shift_moves_a_flow_s_steps_and_not_its_noise(tmp_path, scheduler, options):
    """At every timestep of the sampler its sigma is that of the straight path."""
    diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=12, out_channels=4,
        pos_embed_max_size=8,
    ).save_pretrained(tmp_path / "transformer")  # fmt: skip
    scheduler.save_pretrained(tmp_path / "scheduler")
    predictor = checkpoints.load(tmp_path / "transformer")
    scheduler.set_timesteps(10, **options)
    alpha, sigma = predictor.schedule(predictor.clock.time(scheduler.timesteps.double()))
    torch.testing.assert_close(sigma.float(), scheduler.sigmas[: len(sigma)].float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alpha + sigma, torch.ones_like(alpha))


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old(name: str) -> str:
    for new, former in OLD.items():
        name = name.replace(f".{new}.", f".{former}.")
    return name


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_the_first_versions_names_of_attention_are_understood(saved, form):
    """The folders of the DDPM and NCSN++ papers still have them; diffusers itself reads them as they are read here."""
    folder, network, _ = saved()
    state = {old(name): tensor for name, tensor in network.state_dict().items()}
    assert sum("proj_attn" in name for name in state) == 8
    (folder / "unet" / f"{STEM}.safetensors").unlink()
    if form == "bin":
        torch.save(state, folder / "unet" / f"{STEM}.bin")
    else:
        save_file(state, folder / "unet" / f"{STEM}.safetensors")
    theirs = diffusers.UNet2DModel.from_pretrained(folder / "unet", use_safetensors=form == "safetensors").eval()
    x, k, t = inputs(30, 800)
    with torch.no_grad():
        torch.testing.assert_close(checkpoints.load(folder)(x, t), theirs(x, k).sample, **TOLERANCE)
        torch.testing.assert_close(theirs(x, k).sample, network(x, k).sample, **TOLERANCE)


@pytest.mark.parametrize("norm", ["ada_norm_zero", "ada_norm_single"])
def test_the_first_versions_class_of_transformers_is_understood(tmp_path, norm):
    """As DiT's and PixArt's own folders name it; diffusers itself maps it to the classes of today."""
    torch.manual_seed(0)
    options = {"num_attention_heads": 2, "in_channels": 4, "out_channels": 8, "num_layers": 1, "sample_size": 8}
    if norm == "ada_norm_zero":
        network = diffusers.DiTTransformer2DModel(
            **options, attention_head_dim=8, patch_size=2, num_embeds_ada_norm=10, norm_num_groups=4
        )
    else:
        network = diffusers.PixArtTransformer2DModel(
            **options, attention_head_dim=12, patch_size=2, cross_attention_dim=24, caption_channels=12,
            use_additional_conditions=False,
        )  # fmt: skip
    network.save_pretrained(tmp_path / "transformer")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    change(
        tmp_path / "transformer" / "config.json",
        _class_name="Transformer2DModel",
        norm_type=norm,
        num_vector_embeds=None,
    )
    theirs = diffusers.Transformer2DModel.from_pretrained(tmp_path / "transformer").eval()
    assert type(theirs) is type(network)
    found = checkpoints.inspect(tmp_path / "transformer", label=None)
    assert found.network == type(network).__name__
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.1, 1.0], dtype=torch.float64)
    with torch.no_grad():
        if norm == "ada_norm_zero":
            expected = theirs(x, torch.tensor([99, 999]), torch.tensor([10, 10])).sample[:, :4]
        else:
            added = {"resolution": None, "aspect_ratio": None}
            expected = theirs(
                x, torch.zeros(2, 120, 12), timestep=torch.tensor([99, 999]), added_cond_kwargs=added
            ).sample[:, :4]
        torch.testing.assert_close(checkpoints.load(tmp_path / "transformer")(x, t), expected, **TOLERANCE)


@pytest.mark.parametrize("form", ["bin", "shards", "bin shards", "bf16", "fp16 shards"])
def test_every_file_form_of_the_weights_gives_the_same_network(tmp_path, form):
    network, variant = unet(), next((kind for kind in ("fp16", "bf16") if kind in form), None)
    if variant:
        network = network.half().float() if variant == "fp16" else network.bfloat16().float()
    network.save_pretrained(
        tmp_path / "m",
        variant=variant,
        safe_serialization=not form.startswith("bin"),
        **({"max_shard_size": "60KB"} if "shards" in form else {}),
    )
    files = [file.name for file in (tmp_path / "m").iterdir()]
    assert ("shards" in form) == any("index" in name for name in files)
    assert form.startswith("bin") == any(name.endswith(".bin") for name in files)
    predictor = checkpoints.load(tmp_path / "m", schedule="linear()", parameterization="eps", clock="timesteps(1000)")
    for name, tensor in predictor.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])


def test_half_precision_is_read_and_said(tmp_path):
    unet().half().save_pretrained(tmp_path / "m", variant="fp16")
    assert checkpoints.inspect(tmp_path / "m").dtype == "float16"
    predictor = checkpoints.load(tmp_path / "m", schedule="linear()", parameterization="eps", clock="timesteps()")
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
    difference = checkpoints.load(folder).network.conv_out.bias - checkpoints.load(folder, "raw").network.conv_out.bias
    torch.testing.assert_close(difference, torch.ones(3))
    assert checkpoints.inspect(folder).available == ("ema", "raw")


def test_a_learned_variance_is_left_out_and_a_class_is_given(saved):
    folder, network, _ = saved(unet(out_channels=6, num_class_embeds=4))
    x, k, t = inputs(10, 900)
    with torch.no_grad():
        expected = network(x, k, class_labels=torch.zeros(2, dtype=torch.long)).sample[:, :3]
        torch.testing.assert_close(checkpoints.load(folder)(x, t), expected, **TOLERANCE)
    assert checkpoints.inspect(folder).notes == ("conditioned on class_labels = 0 throughout",)


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
        torch.testing.assert_close(checkpoints.load(tmp_path / "unet")(x, t), expected, **TOLERANCE)


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
        torch.testing.assert_close(checkpoints.load(tmp_path / "transformer")(x, t), expected, **TOLERANCE)


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
    predictor = checkpoints.load(tmp_path / "transformer")
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
    predictor = checkpoints.load(tmp_path / "unet")
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
    assert checkpoints.inspect(folder).notes == ("arguments that this diffusers does not know were ignored: novelty",)
    checkpoints.load(folder)


@pytest.mark.parametrize(
    ("options", "unknown", "word"),
    [
        ({"beta_schedule": "novel"}, ("schedule",), "novel"),
        ({"_class_name": "CogVideoXDDIMScheduler", "snr_shift_scale": 4.0}, ("schedule",), "snr_shift_scale"),
        ({"prediction_type": "novel"}, ("parameterization",), "novel"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, ("parameterization",), "EDMEuler"),
        (
            {"_class_name": "SCMScheduler", "beta_schedule": ..., "beta_start": ...},
            ("schedule", "parameterization", "clock"), "SCM",
        ),
    ],
)  # fmt: skip
def test_what_a_scheduler_does_not_tell_is_said_to_be_unknown(saved, options, unknown, word):
    folder, _, _ = saved()
    change(folder / "scheduler" / "scheduler_config.json", **options)
    found = checkpoints.inspect(folder)
    assert found.unknown == unknown
    assert word in " ".join(found.notes)
    with pytest.raises(CheckpointError, match=f"--{unknown[0]}"):
        checkpoints.load(folder)


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
        checkpoints.load(folder)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_half_precision_weights_are_measured_in_the_arithmetic_of_the_plan(tmp_path):
    """bfloat16 weights are widened, not rounded again: float32 agrees with float64, and the timestep 999 is told."""
    from lipdiag.design.plan import Plan
    from lipdiag.study.measure import prepared

    network = unet().bfloat16()
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "pipe")
    assert checkpoints.inspect(tmp_path / "pipe").dtype == "bfloat16"
    outputs, sizes = [], []
    x, told = torch.randn(1, 3, 8, 8), []
    for dtype in ("float32", "float64"):
        plan = Plan(timesteps="999", draws=2, quantities=("time_derivative",), dtype=dtype)
        with prepared(tmp_path / "pipe", x.numpy().repeat(2, 0), plan, device="cpu") as ready:
            assert any("timesteps above 256" in note for note in ready.notes)
            sizes.append(ready.memory)
            predictor = ready.predictor
            hook = predictor.network.register_forward_pre_hook(lambda _, given: told.append(given[1]))
            with torch.no_grad():
                outputs.append(predictor(x.to(plan.torch_dtype), torch.ones(1, dtype=torch.float64)).double())
            hook.remove()
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert [t.item() for t in told] == [999.0, 999.0]
    assert 1.7 < sizes[1] / sizes[0] < 2.3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("WanTransformer3DModel", "video"),
        ("UNetSpatioTemporalConditionModel", "video"),
        ("AudioLDM2UNet2DConditionModel", "sound"),
        ("PriorTransformer", "stage"),
        ("AutoencoderKL", "autoencoder"),
        ("ControlNetModel", "adapter"),
        ("HunyuanDiT2DModel", "not among"),
    ],
)
def test_what_a_network_is_that_is_not_on_the_list(saved, name, words):
    folder, _, _ = saved()
    assert hasattr(diffusers, name)
    change(folder / "unet" / "config.json", _class_name=name)
    with pytest.raises(CheckpointError, match=f"{name}.*{words}.*--factory"):
        checkpoints.load(folder)


def config(folder, **changes) -> None:
    """Change the config in a folder; None takes a key away."""
    file = folder / "config.json"
    told = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))


@pytest.mark.parametrize("silent", [None, "unet", "unet_ema"])
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_network_and_its_averages_are_shared_alike(saved, silent, weights):
    """EMAModel keeps the config that the network had when the averages were begun, perhaps before it was shared."""
    folder, network, _ = saved()
    network.save_pretrained(folder / "unet_ema")
    for part in ("unet", "unet_ema"):
        config(folder / part, shared_timesteps=None if part == silent else [0, 20, 40])
    for place in (folder, folder / ("unet_ema" if weights == "ema" else "unet")):
        assert checkpoints.inspect(place, weights).clock == "shared(timesteps(1000), 40, 2)"
    config(folder / "unet_ema", shared_timesteps=[0, 20])
    config(folder / "unet", shared_timesteps=[0, 20, 40])
    with pytest.raises(CheckpointError, match="tells other shared_timesteps than"):
        checkpoints.inspect(folder, weights)


def test_what_diffusers_training_scripts_leave_is_a_model_and_its_averages(saved):
    """Folders of accelerate's save_state with the hooks of those scripts: no pipeline, and no weights of its own."""
    folder, network, _ = saved()
    (folder / "model_index.json").unlink()
    torch.save({}, folder / "optimizer.bin")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)
    network.save_pretrained(folder / "unet_ema")
    found = {weights: checkpoints.load(folder, weights) for weights in ("ema", "raw")}
    assert checkpoints.inspect(folder).available == ("ema", "raw")
    for name, parameter in network.named_parameters():
        assert torch.equal(found["ema"].network.get_parameter(name), parameter)
        assert torch.equal(found["raw"].network.get_parameter(name), 2 * parameter)


TRANSFORMER = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "sample_size": 8}
ABSURD = {
    "text of 10^7": (
        "PixArtTransformer2DModel", TRANSFORMER | {"cross_attention_dim": 16, "caption_channels": 8, "in_channels": 4},
        {"caption_channels": 10**7},
    ),
    "text of 10^12": (
        "Lumina2Transformer2DModel",
        {"sample_size": 8, "in_channels": 4, "hidden_size": 24, "num_layers": 1, "num_refiner_layers": 1,
         "num_attention_heads": 2, "num_kv_heads": 1, "cap_feat_dim": 8, "axes_dim_rope": (4, 4, 4),
         "axes_lens": (8, 8, 8)},
        {"cap_feat_dim": 10**12},
    ),
    "places of 10^8": (
        "Lumina2Transformer2DModel",
        {"sample_size": 8, "in_channels": 4, "hidden_size": 24, "num_layers": 1, "num_refiner_layers": 1,
         "num_attention_heads": 2, "num_kv_heads": 1, "cap_feat_dim": 8, "axes_dim_rope": (4, 4, 4),
         "axes_lens": (8, 8, 8)},
        {"axes_lens": [10**8] * 3},
    ),
    "conditions of 10^7": (
        "FluxTransformer2DModel",
        {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 8, "pooled_projection_dim": 8, "axes_dims_rope": (4, 4, 8)},
        {"joint_attention_dim": 10**7},
    ),
    "a billion layers": ("UNet2DModel", UNET, {"layers_per_block": 10**9}),
}  # fmt: skip


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_sizes_are_refused_before_they_take_memory(tmp_path, name):
    kind, arguments, change = ABSURD[name]
    getattr(diffusers, kind)(**arguments).save_pretrained(tmp_path)
    diffusers.DDPMScheduler().save_pretrained(tmp_path)
    checkpoints.load(tmp_path)
    config(tmp_path, **change)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match="many times larger than the weights"):
        checkpoints.load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
    assert time.process_time() - began < 5


@pytest.fixture
def training(saved, tmp_path):
    """A training's folder as diffusers' scripts leave it: the pipeline, and a state with averages; both networks."""
    folder, network, _ = saved(beta_schedule="squaredcos_cap_v2")
    averages = EMAModel(network.parameters(), decay=0.9, model_cls=diffusers.UNet2DModel, model_config=network.config)
    averaged = unet()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.5)
    averages.step(network.parameters())
    averages.copy_to(averaged.parameters())
    state = folder / "checkpoint-500"
    network.save_pretrained(state / "unet")
    averages.save_pretrained(state / "unet_ema")
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
        (state / name).write_bytes(b"not opened")
    return state, network, averaged


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_state_of_a_training_has_its_scheduler_one_folder_up(training, weights):
    state, raw, averaged = training
    predictor = checkpoints.load(state, weights=weights)
    assert spell(predictor.schedule) == "squared_cosine(1000, 0.999)"
    x, k, t = inputs(50, 999)
    with torch.no_grad():
        torch.testing.assert_close(predictor(x, t), {"ema": averaged, "raw": raw}[weights](x, k).sample, **TOLERANCE)


def test_a_folder_of_states_names_the_last_one(tmp_path):
    for name in ("checkpoint-500", "checkpoint-1000", "checkpoint-99"):
        (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="a model of its own, give what is in it, such as checkpoint-1000:"):
        checkpoints.load(tmp_path / "run")
    (tmp_path / "run" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors"):
        checkpoints.load(tmp_path / "run")
