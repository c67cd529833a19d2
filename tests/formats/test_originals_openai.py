"""OpenAI's own code, torchcfm's, flow_matching's: files as their scripts save them, the published models' commands."""

import argparse
import json
import re
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from lipdiag import checkpoints
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.parameterization import eps
from lipdiag.errors import CheckpointError
from lipdiag.formats import openai
from lipdiag.formats.networks import NETWORKS
from lipdiag.weights.container import Contents
from tests.formats.agreement import derivatives_agree
from tests.formats.originals import clone, importable

pytest.importorskip("azula")
ABSENT = ("mpi4py", "blobfile", "piq", "torchvision", "torchvision.transforms")
T = torch.tensor([0.25, 0.9], dtype=torch.float64)  # timesteps 249 and 899 of 1000
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class FlashAttention(nn.Module):
    """softmax(q k' / sqrt(d)) v, for a package that needs a GPU and half precision."""

    def __init__(self, attention_dropout, device=None, dtype=None):
        super().__init__()

    def forward(self, qkv, **unused):
        q, k, v = qkv.unbind(2)
        weights = torch.einsum("bshd,bthd->bhst", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        return torch.einsum("bhst,bthd->bshd", weights, v), None


@pytest.fixture
def code(request, monkeypatch):
    """A clone, importable."""
    flash = ModuleType("flash_attn.flash_attention")
    flash.FlashAttention = FlashAttention
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, "flash_attn.flash_attention", flash)
    with importable(clone(request.param), *ABSENT):
        yield clone(request.param)


def original(name):
    return pytest.mark.parametrize("code", [name], indirect=True)


def trained(network):
    """The network with every weight moved: many start at zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.03 * torch.randn(weight.shape))
    return network.eval().requires_grad_(False)


def loaded(network, tmp_path, flags, wrap=lambda state: state):
    """The file of averaged weights that a TrainLoop saves, read with the command's flags."""
    torch.save(wrap(network.state_dict()), tmp_path / "ema_0.9999_200000.pt")
    (tmp_path / "flags.json").write_text(json.dumps(flags))
    return checkpoints.load(tmp_path / "ema_0.9999_200000.pt", original_config=tmp_path / "flags.json")


SMALL = {"num_channels": 32, "num_res_blocks": 1}
DIFFUSION = {"diffusion_steps": 1000, "noise_schedule": "linear"}
GUIDED = {
    "legacy order": {"num_heads": 2, "learn_sigma": True},
    "new order": {"num_heads": 2, "use_new_attention_order": True, "class_cond": True},
    "resampling blocks": {"num_head_channels": 16, "resblock_updown": True, "learn_sigma": True},
    "shifts alone": {"num_heads": 4, "use_scale_shift_norm": False, "noise_schedule": "cosine"},
    "x0, rescaled": {"num_heads": 1, "predict_xstart": True, "rescale_timesteps": True, "diffusion_steps": 4000},
}


@original("guided-diffusion")
@pytest.mark.parametrize("name", GUIDED)
def test_guided_diffusion_says_the_same(code, tmp_path, name):
    from guided_diffusion.script_util import create_model_and_diffusion, model_and_diffusion_defaults

    flags = {"image_size": 8, "channel_mult": "1,2", "attention_resolutions": "4"} | SMALL | DIFFUSION | GUIDED[name]
    network, diffusion = create_model_and_diffusion(**model_and_diffusion_defaults() | flags)
    predictor = loaded(trained(network), tmp_path, flags)
    says_the_same(predictor, network, diffusion)
    if name == "new order":
        derivatives_agree(predictor, T)


def says_the_same(predictor, network, diffusion):
    """eps at two timesteps, through the original's own respacing and rescaling, and its schedule at all of them."""
    count = diffusion.num_timesteps
    k = torch.tensor([count // 4 - 1, count * 9 // 10 - 1])
    labels = {"y": torch.zeros(2, dtype=torch.long)} if hasattr(network, "label_emb") else {}
    with torch.no_grad():
        said = diffusion._wrap_model(network)(X, k, **labels)[:, :3]
        if diffusion.model_mean_type.name == "START_X":
            said = diffusion._predict_eps_from_xstart(X, k, said)
        torch.testing.assert_close(predictor(X, T), said, rtol=1e-5, atol=1e-5)
    square = predictor.schedule(torch.arange(1, count + 1, dtype=torch.float64) / count)[0] ** 2
    torch.testing.assert_close(square.numpy(), diffusion.alphas_cumprod, rtol=1e-6, atol=1e-9)


IMPROVED = {
    "default": {"num_heads": 4},
    "shifts alone": {"num_heads": 2, "use_scale_shift_norm": False},
    "other heads upwards": {"num_heads": 2, "num_heads_upsample": 4, "num_classes": 1000},
}


@original("improved-diffusion")
@pytest.mark.parametrize("name", IMPROVED)
def test_improved_diffusion_says_the_same(code, tmp_path, name):
    """Its attention splits heads before q, k and v, it has no resampling blocks, and it rescales its timesteps."""
    from improved_diffusion.script_util import create_gaussian_diffusion
    from improved_diffusion.unet import UNetModel

    arguments = {"use_scale_shift_norm": True} | IMPROVED[name]
    network = UNetModel(3, 32, 6, 1, (1, 2), channel_mult=(1, 2), **arguments)
    told = {"noise_schedule": "cosine", "rescale_timesteps": True}
    diffusion = create_gaussian_diffusion(steps=4000, learn_sigma=True, **told)
    heads = {key: value for key, value in arguments.items() if "heads" in key}
    flags = {"image_size": 8, "diffusion_steps": 4000, **told, **heads}
    predictor = loaded(trained(network), tmp_path, flags)
    says_the_same(predictor, network, diffusion)
    if name == "default":
        derivatives_agree(predictor, T)


@original("consistency_models")
@pytest.mark.parametrize("mode", ["edm", "consistency_distillation"])
def test_consistency_models_say_the_same(code, tmp_path, mode):
    """D of its KarrasDenoiser, a denoiser's or a consistency function's; attention over pictures, in the new order."""
    from cm.script_util import create_model_and_diffusion, model_and_diffusion_defaults

    flags = {"image_size": 8, "channel_mult": "1,2", "attention_resolutions": "4", "class_cond": True} | SMALL
    flags |= {"num_head_channels": 16, "resblock_updown": True}
    network, denoiser = create_model_and_diffusion(
        **model_and_diffusion_defaults() | flags, distillation="consistency" in mode
    )
    predictor = loaded(trained(network), tmp_path, flags | {"training_mode": mode})
    sigma = torch.tensor([0.1, 20.0])
    s, t = sigma.view(-1, 1, 1, 1), predictor.schedule.time(-2 * sigma.double().log())
    x = s * X
    with torch.no_grad():
        D = denoiser.denoise(network, x, sigma, y=torch.zeros(2, dtype=torch.long))[1]
        told = 250 * sigma.log()  # in float32, as it is told
        got = predictor.conditioned(predictor.schedule(t)[0].float().view(-1, 1, 1, 1) * x, t, told)
        torch.testing.assert_close(got, (x - D) / s, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(predictor.clock(t), told.double(), rtol=1e-6, atol=1e-4)
    if mode != "edm":
        derivatives_agree(predictor, T)


@original("consistency_models")
def test_the_attention_of_consistency_models_has_one_order(code):
    """Its fallback without flash attention, in float16, splits q, k and v as flash attention does."""
    from cm.unet import QKVAttentionLegacy, QKVFlashAttention

    qkv = torch.randn(2, 3 * 2 * 16, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(QKVAttentionLegacy(2)(qkv), QKVFlashAttention(32, 2)(qkv), rtol=1e-2, atol=1e-2)


@original("conditional-flow-matching")
def test_torchcfm_s_velocity_is_the_same(code, tmp_path):
    """Data minus noise, at a time that is 1 at the data."""
    package = ModuleType("torchcfm")  # whose own __init__ wants optimal transport
    package.__path__ = [str(code / "torchcfm")]
    sys.modules["torchcfm"] = package
    try:
        from torchcfm.models.unet.unet import UNetModelWrapper

        arguments = {"dim": (3, 8, 8), "num_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2]}
        arguments |= {"num_heads": 4, "num_head_channels": 16, "attention_resolutions": "4", "dropout": 0.1}
        raw, average = trained(UNetModelWrapper(**arguments)), trained(UNetModelWrapper(**arguments))
        average.out[2].bias.add_(1)

        def wrap(state):
            optim = torch.optim.Adam([nn.Parameter(torch.zeros(3))])
            sched = torch.optim.lr_scheduler.LambdaLR(optim, lr_lambda=lambda step: 1.0)
            content = {"net_model": raw.state_dict(), "ema_model": state, "step": 400000}
            return content | {"sched": sched.state_dict(), "optim": optim.state_dict()}

        predictor = loaded(average, tmp_path, {"image_size": 8, "num_heads": 4, "num_head_channels": 16}, wrap)
        told = (1 - T).float()
        with torch.no_grad():
            torch.testing.assert_close(predictor.output(X, told), average(told, X), rtol=1e-5, atol=1e-5)
            # x = (1 - t) data + t noise and v = data - noise, so that noise = x - (1 - t) v
            expected = X - told.view(-1, 1, 1, 1) * average(told, X)
            torch.testing.assert_close(predictor(X, T), expected, rtol=1e-5, atol=1e-5)
        derivatives_agree(predictor, T)
        full = UNetModelWrapper(dim=(3, 32, 32), num_res_blocks=2, num_channels=128, channel_mult=[1, 2, 2, 2],
                                num_heads=4, num_head_channels=64, attention_resolutions="16", dropout=0.1)  # fmt: skip
        held(full, tmp_path, {"image_size": 32}, container="torchcfm")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchcfm"]:
            del sys.modules[name]


def flow_matching(code, architecture, small=None):
    """Its network of a name in its own table, or a small one, with averages that were moved away from it."""
    from models.ema import EMA
    from models.model_configs import MODEL_CONFIGS
    from models.unet import UNetModel

    network = UNetModel(**MODEL_CONFIGS[architecture] | (small or {}))
    return EMA(model=network)


@original("flow_matching")
@pytest.mark.parametrize("architecture", ["cifar10", "imagenet"])
def test_flow_matching_s_velocity_is_the_same(code, tmp_path, architecture):
    """Along its own path, at a time that is 1 at the data, without a class; averages come from its own list."""
    small = {"model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2), "attention_resolutions": [2]}
    small |= {"num_classes": 5} if architecture == "imagenet" else {}
    with importable(code / "examples" / "image"):
        from flow_matching.path import CondOTProbPath

        whole = flow_matching(code, architecture, small | {"num_head_channels": 16})
        trained(whole.model)
        whole.model.requires_grad_(True)
        whole.update_ema()
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(3))])
        content = {
            "model": whole.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "scaler": {},
            "lr_schedule": torch.optim.lr_scheduler.ConstantLR(optimizer).state_dict(),
            "args": argparse.Namespace(dataset=architecture, use_ema=True, optimizer_betas=[0.9, 0.95]),
        }  # fmt: skip
        flags = {"image_size": 8, "num_head_channels": 16, "use_new_attention_order": True}
        torch.save(content, tmp_path / "checkpoint.pth")
        (tmp_path / "flags.json").write_text(json.dumps(flags))
        told = (1 - T).float()
        data, noise = X, X.flip(0)
        point = CondOTProbPath().sample(t=told, x_0=noise, x_1=data)
        for weights in ("raw", "ema"):
            if weights == "ema":
                whole.train(False)  # which puts the averages in the network's place
            predictor = checkpoints.load(tmp_path / "checkpoint.pth", weights, original_config=tmp_path / "flags.json")
            with torch.no_grad():
                velocity = whole.model.eval()(point.x_t, told, extra={})
                torch.testing.assert_close(predictor.output(point.x_t, told), velocity, rtol=1e-5, atol=1e-5)
                # were the velocity the path's own, eps would be its noise
                true = point.x_t - told.view(-1, 1, 1, 1) * point.dx_t
                torch.testing.assert_close(true, noise, rtol=1e-5, atol=1e-5)
                expected = point.x_t - told.view(-1, 1, 1, 1) * velocity
                torch.testing.assert_close(predictor(point.x_t, T), expected, rtol=1e-5, atol=1e-5)
        derivatives_agree(predictor, T)


# The published models, from the command lines of the READMEs


def values(line, defaults):
    """The flags of a command line, typed as the scripts type them."""
    typed = {}
    for name, text in re.findall(r"--(\w+) (\S+)", line):
        if name in defaults:
            kind = type(defaults[name])
            typed[name] = text == "True" if kind is bool else kind(text)
    return typed


def held(network, tmp_path, args, mode=None, container="", sized=True):
    """What is read from the weights' shapes alone: the network has the original's shapes and heads."""
    (tmp_path / "file.pt").write_text("whose weights are given beside it")
    config = None
    if mode is not None:
        config = tmp_path / "mode.json"
        config.write_text(json.dumps({"training_mode": mode}))
    contents = Contents(dict(network.state_dict()), "as stored", ("as stored",), container)
    found = openai.read(contents, tmp_path / "file.pt", config)
    with torch.device("meta"):
        ours = NETWORKS["UNetModel"]()(**found.network_config)
    shapes = {name: tuple(weight.shape) for name, weight in ours.state_dict().items()}
    assert shapes == {name: tuple(weight.shape) for name, weight in found.state.items()}
    assert heads(ours) == heads(network)
    assert found.shape == ((3, args["image_size"], args["image_size"]) if sized else None)
    return found


def heads(network):
    return {name: part.num_heads for name, part in network.named_modules() if type(part).__name__ == "AttentionBlock"}


def is_told(found, args):
    """The schedule, the number of steps, the timesteps that the network is told, the order of q, k and v."""
    steps, cosine = args["diffusion_steps"], args["noise_schedule"] == "cosine"
    beta = f"{0.1 / steps:g}, {20 / steps:g}"
    assert found.convention.spelled["schedule"] == (
        f"squared_cosine({steps}, 0.999)" if cosine else f"linear({beta}, {steps})"
    )
    assert (found.convention.parameterization, found.convention.clock) == (eps, Timesteps(steps))
    assert found.timestep_factor == (1000 / steps if args["rescale_timesteps"] else 1.0)
    assert found.network_config.get("use_new_attention_order", False) == args.get("use_new_attention_order", False)


@original("guided-diffusion")
def test_the_published_models_of_guided_diffusion(code, tmp_path):
    from guided_diffusion import script_util

    text = (code / "README.md").read_text()
    commands = re.findall(r'MODEL_FLAGS="([^"]*)"\npython (\w+)\.py .*?models/(\w+)\.pt', text)
    assert len(commands) == 9
    for line, script, _ in commands:
        with torch.device("meta"):
            if script == "super_res_sample":
                defaults = script_util.sr_model_and_diffusion_defaults()
                args = {**defaults, **values(line, defaults)}
                network, _ = script_util.sr_create_model_and_diffusion(**args)
                with pytest.raises(CheckpointError, match="upsampler"):
                    held(network, tmp_path, args)
                continue
            defaults = script_util.model_and_diffusion_defaults()
            args = {**defaults, **values(line, defaults)}
            network, _ = script_util.create_model_and_diffusion(**args)
        is_told(held(network, tmp_path, args), args)
    for size, depth, pool in ((64, 4, "attention"), (256, 2, "attention"), (128, 2, "spatial"), (128, 2, "adaptive")):
        told = {"image_size": size, "classifier_depth": depth, "classifier_pool": pool}
        with torch.device("meta"):
            classifier = script_util.create_classifier(**script_util.classifier_defaults() | told)
        with pytest.raises(CheckpointError, match="classifier"):
            held(classifier, tmp_path, told)


@original("flow_matching")
@pytest.mark.parametrize("architecture", ["cifar10", "imagenet"])
def test_the_published_models_of_flow_matching(code, tmp_path, architecture):
    with importable(code / "examples" / "image"), torch.device("meta"):
        whole = flow_matching(code, architecture)
        sized = architecture == "cifar10"  # ImageNet's network at 32 and 64 pixels is one
        found = held(whole.model, tmp_path, {"image_size": 32}, container="flow_matching", sized=sized)
        assert found.network_config["use_new_attention_order"] is True
        assert tuple(found.convention.spelled.values()) == (
            "straight()",
            "data_velocity",
            "reversed(unit(1))",
        )


@original("improved-diffusion")
def test_the_published_models_of_improved_diffusion(code, tmp_path):
    from improved_diffusion import script_util

    text = (code / "README.md").read_text()
    commands = re.findall(r'march-2021/(\w+)\.pt.*?MODEL_FLAGS="([^"]*)"\nDIFFUSION_FLAGS="([^"]*)"', text, re.DOTALL)
    assert len(commands) == 8
    for name, model, diffusion in commands:
        defaults = script_util.model_and_diffusion_defaults()
        args = {**defaults, **values(model + " " + diffusion, defaults)}
        with torch.device("meta"):
            if name.startswith("upsample"):
                defaults = script_util.sr_model_and_diffusion_defaults()
                args = {**defaults, **values(model + " " + diffusion, defaults)}
                network, _ = script_util.sr_create_model_and_diffusion(**args)
                with pytest.raises(CheckpointError, match="upsampler"):
                    held(network, tmp_path, args)
                continue
            network, _ = script_util.create_model_and_diffusion(**args)
        is_told(held(network, tmp_path, args), args)


@original("consistency_models")
def test_the_published_models_of_consistency_models(code, tmp_path):
    from cm import script_util

    text = (code / "scripts" / "launch.sh").read_text()
    lines = re.findall(r"image_sample\.py .*?--training_mode (\w+) (.*)", text)
    defaults = script_util.model_and_diffusion_defaults()
    commands = {
        (mode, args["image_size"]): args for mode, line in lines for args in [defaults | values(line, defaults)]
    }
    assert len(commands) == 5
    for (mode, _), args in commands.items():
        with torch.device("meta"):
            network, _ = script_util.create_model_and_diffusion(**args)
        with pytest.raises(CheckpointError, match='"training_mode": "edm"'):
            held(network, tmp_path, args)
        found = held(network, tmp_path, args, mode)
        assert found.convention.spelled["parameterization"] == (
            "edm(0.5)" if mode == "edm" else "consistency(0.5, 0.002)"
        )
        assert found.network_config["use_new_attention_order"] is True
