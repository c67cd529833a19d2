"""OpenAI's U-Nets, written as their scripts write them, compared with azula's own class built from the true flags."""

import json

import pytest
import torch
from torch import Tensor

from lipdiag import checkpoints
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.schedule import SquaredCosine
from lipdiag.errors import CheckpointError
from lipdiag.formats import openai, published
from lipdiag.formats.networks import NETWORKS
from tests.formats.agreement import derivatives_agree

pytest.importorskip("azula")
T = torch.tensor([0.25, 0.9], dtype=torch.float64)
SHAPES = {
    "plain": {"channel_mult": (1, 2), "attention_resolutions": (2,), "out_channels": 6},
    "guided": {
        "channel_mult": (1, 1, 2), "attention_resolutions": (2, 4), "out_channels": 6, "resblock_updown": True,
        "use_scale_shift_norm": True, "use_new_attention_order": True, "num_res_blocks": 2, "num_head_channels": 16,
    },
    "classes": {"channel_mult": (1, 2), "attention_resolutions": (1,), "out_channels": 3, "num_classes": 5},
    "no attention outside": {"channel_mult": (1, 1), "attention_resolutions": (), "out_channels": 3},
    "one level": {"channel_mult": (1,), "attention_resolutions": (1,), "out_channels": 3, "num_res_blocks": 2},
    "half": {"channel_mult": (0.5, 1), "attention_resolutions": (2,), "out_channels": 3, "model_channels": 64},
}  # fmt: skip
FLAGS_OF_CM = {"image_size": 8, "num_heads": 2, "sigma_min": 0.002, "sigma_max": 80}
FLAGS = {"image_size": 8, "num_heads": 2, "noise_schedule": "linear", "diffusion_steps": 1000}


def unet(**changes) -> torch.nn.Module:
    torch.manual_seed(0)
    arguments = {"image_size": 8, "in_channels": 3, "model_channels": 32, "num_res_blocks": 1, "num_heads": 2} | changes
    network = NETWORKS["UNetModel"]()(**arguments).eval()
    with torch.no_grad():  # its last layers start at zero
        for weight in network.parameters():
            weight.add_(0.03 * torch.randn(weight.shape))
    return network


@pytest.fixture
def written(tmp_path):
    """Writes a network's state dict and the flags of its training; returns both paths."""

    def write(network, flags=FLAGS, wrap=lambda state: state):
        torch.save(wrap(network.state_dict()), tmp_path / "ema_0.9999.pt")
        (tmp_path / "flags.json").write_text(json.dumps(flags))
        return tmp_path / "ema_0.9999.pt", tmp_path / "flags.json"

    return write


def noise(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SHAPES)
def test_the_shape_is_read_from_the_names(written, name):
    arguments = SHAPES[name]
    network = unet(**arguments)
    flags = FLAGS | {k: v for k, v in arguments.items() if k in ("use_new_attention_order", "num_head_channels")}
    predictor = checkpoints.load(written(network, flags)[0], original_config=written(network, flags)[1])
    classes = {"y": torch.zeros(2, dtype=torch.long)} if "num_classes" in arguments else {}
    with torch.no_grad():
        expected = network(noise(), torch.tensor([249.0, 899.0]), **classes)[:, :3]
        torch.testing.assert_close(predictor(noise(), T), expected, rtol=1e-5, atol=1e-5)
    found = openai.architecture(network.state_dict(), "x")
    assert {key: found[key] for key in arguments if key in found} == {k: v for k, v in arguments.items() if k in found}
    if name in ("guided", "classes"):
        derivatives_agree(predictor, T)


@pytest.mark.parametrize("given", ["cosine", "linear"])
def test_schedules_steps_and_rescaled_timesteps_are_those_of_the_flags(written, given):
    network = unet(**SHAPES["plain"])
    flags = FLAGS | {"noise_schedule": given, "diffusion_steps": 4000, "rescale_timesteps": True}
    file, config = written(network, flags)
    predictor = checkpoints.load(file, original_config=config)
    k = torch.arange(4000, dtype=torch.float64)
    beta = torch.linspace(1e-4 / 4, 0.02 / 4, 4000, dtype=torch.float64)
    if given == "cosine":
        bar = torch.cos((torch.arange(4001, dtype=torch.float64) / 4000 + 0.008) / 1.008 * torch.pi / 2) ** 2
        beta = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    square = (1 - beta).cumprod(0)
    torch.testing.assert_close(predictor.schedule((k + 1) / 4000)[0] ** 2, square, rtol=1e-6, atol=1e-9)
    with torch.no_grad():  # the network is told k * 1000 / 4000
        expected = network(noise(1), torch.tensor([999.0 * 0.25]))[:, :3]
        t = torch.tensor([0.25], dtype=torch.float64)
        torch.testing.assert_close(predictor(noise(1), t), expected, rtol=1e-5, atol=1e-5)


def test_whether_4000_timesteps_are_rescaled_is_asked(written):
    """By default improved-diffusion does, and guided-diffusion does not."""
    file, config = written(unet(**SHAPES["plain"]), FLAGS | {"diffusion_steps": 4000})
    with pytest.raises(CheckpointError, match="give rescale_timesteps too"):
        checkpoints.load(file, original_config=config)
    file, config = written(unet(**SHAPES["plain"]), FLAGS | {"diffusion_steps": 4000, "rescale_timesteps": False})
    assert checkpoints.read(file, checkpoints.Reading(original_config=config)).timestep_factor == 1


PUBLISHED = (32, (1, 2), 1, (2,), 6, None, False, False)


def test_a_published_shape_needs_no_flags_and_says_so(monkeypatch, written):
    network = unet(**SHAPES["plain"])
    entry = "somebody's model", published.GUIDED | {"image_size": 8, "num_heads": 2}
    monkeypatch.setitem(published.PUBLISHED, PUBLISHED, entry)
    found = checkpoints.inspect(written(network)[0])
    assert (found.kind, found.shape, found.schedule) == ("OpenAI file", (3, 8, 8), "linear(0.0001, 0.02, 1000)")
    assert found.unknown == ()
    assert any("published for somebody's model, whose shape this is: " in note for note in found.notes)
    assert "a learned variance was left out" in found.notes
    file, config = written(network, {"num_heads": 1, "noise_schedule": "cosine"})
    checkpoint = checkpoints.read(file, checkpoints.Reading(original_config=config))
    assert (checkpoint.network_config["num_heads"], checkpoint.convention.schedule) == (1, SquaredCosine(1000))
    assert any(
        note.endswith("diffusion_steps 1000, rescale_timesteps False, image_size 8") for note in checkpoint.notes
    )


def test_of_two_published_models_of_one_shape_the_user_says_which(monkeypatch, written):
    """consistency_models' denoisers and consistency functions differ in no weight's shape; from the others they do."""
    network = unet(**SHAPES["plain"])
    entry = "a zoo's model", {"image_size": 8, "num_head_channels": 32}
    monkeypatch.setitem(published.CONSISTENCY, PUBLISHED, entry)

    def over_pictures(state):
        return {k: w[..., None] if "qkv.w" in k or "proj_out.w" in k else w for k, w in state.items()}

    with pytest.raises(CheckpointError, match=r'consistency_models, .*"training_mode": "edm"'):
        checkpoints.load(written(network, wrap=over_pictures)[0])
    for mode, kind in (("edm", "edm(0.5)"), ("consistency_training", "consistency(0.5, 0.002)")):
        file, config = written(network, {"training_mode": mode}, over_pictures)
        found = checkpoints.read(file, checkpoints.Reading(original_config=config))
        assert (found.convention.spelled["parameterization"], found.shape) == (kind, (3, 8, 8))
        assert found.network_config["use_new_attention_order"] is True
        checkpoints.load(file, original_config=config)
    file, config = written(network, FLAGS)  # another code's model of that shape: nothing of the published one is taken
    found = checkpoints.read(file, checkpoints.Reading(original_config=config))
    assert (found.convention.parameterization, found.network_config.get("num_head_channels")) == (eps, None)
    file, config = written(network, {"training_mode": "cm"})
    with pytest.raises(CheckpointError, match="training_mode cm; it is one of edm"):
        checkpoints.load(file, original_config=config)


@pytest.mark.parametrize(("mode", "least"), [("edm", 0.0), ("consistency_distillation", 0.002)])
def test_a_consistency_model_is_told_250_log_sigma(written, mode, least):
    """D = c_skip x + c_out F(c_in x, 250 log sigma), with EDM's c_in; the others see the noise above the least one."""
    network = unet(**SHAPES["no attention outside"] | {"use_new_attention_order": True})
    predictor = checkpoints.load(
        *written(network)[:1], original_config=written(network, FLAGS_OF_CM | {"training_mode": mode})[1]
    )
    sigma = torch.tensor([0.5, 20.0])
    t = predictor.schedule.time(-2 * sigma.double().log())
    s, x = sigma.view(-1, 1, 1, 1), noise() * sigma.view(-1, 1, 1, 1)
    c_in, r = 1 / (s**2 + 0.25).sqrt(), s - least
    with torch.no_grad():
        D = 0.25 / (r**2 + 0.25) * x + 0.5 * r * c_in * network(c_in * x, 250 * sigma.log())
        torch.testing.assert_close(predictor(c_in * x, t), (x - D) / s, rtol=1e-4, atol=1e-4)


def test_torchcfm_s_flow_runs_from_noise_to_data(written):
    """Its networks are OpenAI's, told t with 0 = noise, and say x1 - x0 = data - noise."""
    network, average = (
        unet(**SHAPES["classes"] | {"num_classes": None}),
        unet(channel_mult=(1, 2), attention_resolutions=(1,), out_channels=3),
    )
    with torch.no_grad():
        average.out[2].bias.add_(1)
    file, config = written(
        network, {"image_size": 8, "num_heads": 2},
        lambda state: {"net_model": state, "ema_model": average.state_dict(), "sched": {}, "optim": {}, "step": 3},
    )  # fmt: skip
    for weights, true in (("ema", average), ("raw", network)):
        predictor = checkpoints.load(file, weights, original_config=config)
        with torch.no_grad():
            velocity = true(noise(), (1 - T).float())
            expected = noise() - (1 - T).float().view(-1, 1, 1, 1) * velocity
            torch.testing.assert_close(predictor(noise(), T), expected, rtol=1e-5, atol=1e-5)
    assert checkpoints.inspect(file, original_config=config).available == ("ema", "raw")


def test_flow_matching_s_flow_is_told_no_class(written):
    """Its networks are OpenAI's with one class more, of pictures whose class was dropped; the flow is torchcfm's."""
    network, average = (unet(**SHAPES["classes"]) for _ in range(2))
    with torch.no_grad():
        average.out[2].bias.add_(1)

    def wrap(state):
        model = {f"model.{name}": weight for name, weight in state.items()} | {"num_updates": torch.tensor(7)}
        model |= {f"shadow_params.{i}": weight for i, weight in enumerate(average.parameters())}
        return {"model": model, "optimizer": {}, "lr_schedule": {}, "epoch": 3, "scaler": {}, "args": {}}

    file, config = written(network, {"image_size": 8, "num_heads": 2}, wrap)
    for weights, label, true in (("ema", None, average), ("raw", None, network), ("ema", 1, average)):
        predictor = checkpoints.load(file, weights, original_config=config, label=label)
        y = torch.full((2,), 4 if label is None else label)
        with torch.no_grad():
            velocity = true(noise(), (1 - T).float(), y=y)
            expected = noise() - (1 - T).float().view(-1, 1, 1, 1) * velocity
            torch.testing.assert_close(predictor(noise(), T), expected, rtol=1e-5, atol=1e-5)
    found = checkpoints.inspect(file, original_config=config)
    assert found.kind == "flow_matching file"
    assert "conditioned on y = 4, no class, throughout" in found.notes


def test_heads_that_are_not_known_are_asked_for(written):
    file, config = written(unet(**SHAPES["plain"]), {"heads": 3})
    with pytest.raises(CheckpointError, match=r"--original-config FILE\.json with num_heads"):
        checkpoints.load(file)
    with pytest.raises(CheckpointError, match="'heads'"):
        checkpoints.load(file, original_config=config)


def test_flags_of_another_model_are_refused_and_those_without_a_meaning_are_not(written):
    network = unet(**SHAPES["plain"])
    whole = FLAGS | {"num_channels": 32, "class_cond": False, "learn_sigma": True, "dropout": 0.1, "use_fp16": True}
    file, config = written(network, whole)
    assert checkpoints.read(file, checkpoints.Reading(original_config=config)).shape == (3, 8, 8)
    for flag, value in (("learn_sigma", False), ("num_channels", 64), ("class_cond", True), ("resblock_updown", True)):
        file, config = written(network, whole | {flag: value})
        with pytest.raises(CheckpointError, match=f"{flag} .* by its weights, and {value} by the flags"):
            checkpoints.load(file, original_config=config)


def test_upsamplers_and_classifiers_are_named_and_refused(written):
    """An upsampler's input is x and a small picture, side by side; a classifier is half a U-Net."""
    for outputs in (3, 6):
        with pytest.raises(CheckpointError, match="upsampler"):
            checkpoints.load(written(unet(**SHAPES["plain"] | {"in_channels": 6, "out_channels": outputs}))[0])
    plain = unet(**SHAPES["plain"] | {"in_channels": 6, "out_channels": 6})
    file, config = written(plain, FLAGS | {"learn_sigma": False})
    assert checkpoints.load(file, original_config=config).shape == (6, 8, 8)
    with pytest.raises(CheckpointError, match="6 channels in and 5 out"):
        checkpoints.load(written(unet(**SHAPES["plain"] | {"in_channels": 6, "out_channels": 5}))[0])
    half = {k: v for k, v in unet(**SHAPES["plain"]).state_dict().items() if not k.startswith("output_blocks")}
    with pytest.raises(CheckpointError, match="classifier"):
        checkpoints.load(written(unet(**SHAPES["plain"]), wrap=lambda state: half)[0])


def test_without_azula_one_sentence_says_what_to_install(written, monkeypatch):
    file, config = written(unet(**SHAPES["plain"]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install --no-deps azula"):
        checkpoints.load(file, original_config=config)


@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_prefixes_are_dropped_and_said(written, wrap):
    network = unet(**SHAPES["plain"])
    file, config = written(network, FLAGS, lambda state: {wrap + name: tensor for name, tensor in state.items()})
    found = checkpoints.inspect(file, original_config=config)
    assert f"the prefix {wrap} was dropped from every name" in found.notes
    with torch.no_grad():
        expected = network(noise(), torch.tensor([249.0, 899.0]))[:, :3]
        predictor = checkpoints.load(file, original_config=config)
        torch.testing.assert_close(predictor(noise(), T), expected, rtol=1e-5, atol=1e-5)
