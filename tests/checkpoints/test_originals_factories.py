"""Families whose networks only their own code has: files written by that code, measured as the README says to.

Each test writes a module of the user's with nothing but the network's class and load_state_dict.
"""

import copy
import importlib
import json
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import lipdiag
from lipdiag import checkpoints
from lipdiag.cli import main
from lipdiag.errors import CheckpointError
from lipdiag.study.resolve import resolve_model
from tests.formats.agreement import derivatives_agree
from tests.formats.originals import clone, importable

T = torch.tensor([0.25, 0.9], dtype=torch.float64)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def perturbed(network: nn.Module) -> nn.Module:
    """Its last layers start at zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in (w for w in network.parameters() if w.requires_grad):
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return network


@pytest.fixture
def user(tmp_path, monkeypatch):
    """Writes the user's module; the current folder is where it lies."""
    monkeypatch.chdir(tmp_path)

    def write(code: str) -> None:
        (tmp_path / "mymodel.py").write_text(code)
        monkeypatch.delitem(sys.modules, "mymodel", raising=False)

    return write


def measured(*options: str) -> dict:
    """What `lipdiag measure --json` prints after two timesteps of two draws."""
    arguments = ["measure", *options, "--timesteps", "log:2", "--draws", "2", "--quantity", "time_difference", "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def refusal(path) -> str:
    """What lipdiag says of a file without a factory."""
    with pytest.raises(CheckpointError) as refused:
        lipdiag.load(path)
    return str(refused.value)


ABSENT = ("torchvision", "torchvision.transforms", "torchvision.utils", "accelerate")


@pytest.mark.parametrize(
    ("objective", "spelled", "schedule"),
    [("pred_v", "v", "sigmoid"), ("pred_noise", "eps", "linear"), ("pred_x0", "x0", "cosine")],
)
def test_lucidrains(user, tmp_path, objective, spelled, schedule):
    """Its Trainer's file tells schedule, time and objective: the network and the shape are all there is to say."""
    folder = clone("denoising-diffusion-pytorch")
    pytest.importorskip("einops")
    with importable(folder, *ABSENT):
        original = importlib.import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
        torch.manual_seed(0)
        unet = perturbed(original.Unet(dim=8, dim_mults=(1, 2), channels=1, attn_dim_head=8))
        diffusion = original.GaussianDiffusion(unet, image_size=8, objective=objective, beta_schedule=schedule)
        ema = original.EMA(diffusion, beta=0.9, update_every=1)
        perturbed(ema.ema_model)
        accelerator = SimpleNamespace(
            is_local_main_process=True, get_state_dict=lambda model: model.state_dict(), scaler=None
        )
        trainer = SimpleNamespace(
            accelerator=accelerator, step=7, model=diffusion, opt=torch.optim.Adam(diffusion.parameters()), ema=ema,
            results_folder=tmp_path,
        )  # fmt: skip
        original.Trainer.save(trainer, 1)
        user(
            "from denoising_diffusion_pytorch.denoising_diffusion_pytorch import Unet\n"
            "def build(state):\n"
            "    network = Unet(dim=8, dim_mults=(1, 2), channels=1, attn_dim_head=8)\n"
            "    network.load_state_dict(state)\n"
            "    return network\n"
        )
        found = resolve_model("model-1.pt", checkpoints.Reading(factory="mymodel:build", shape=(1, 8, 8)))
        predictor = lipdiag.load("model-1.pt", factory="mymodel:build", shape=(1, 8, 8))
        raw = lipdiag.load("model-1.pt", "raw", factory="mymodel:build", shape=(1, 8, 8))
        built = lipdiag.load("model-1.pt", shape=(1, 8, 8))  # by the package itself
    assert predictor.parameterization.__name__ == spelled
    x, k = noise(2, 1, 8, 8), torch.tensor([249, 899])
    with torch.no_grad():
        for made, true in ((predictor, ema.ema_model), (raw, diffusion)):
            expected = true.eval().model_predictions(x, k).pred_noise
            torch.testing.assert_close(made(x, T), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(built(x, T), predictor(x, T))
        torch.testing.assert_close(predictor.output(x, k.double()), ema.ema_model.model(x, k), rtol=1e-5, atol=1e-5)
    steps = torch.arange(1000)
    alpha = predictor.schedule((steps.double() + 1) / 1000)[0]
    torch.testing.assert_close(alpha.float(), diffusion.sqrt_alphas_cumprod, rtol=1e-4, atol=1e-6)
    assert f"objective {objective}, by the weights of its loss" in found.notes
    assert {"ema weights, of ema and raw", "schedule and clock from the 1000 betas in the file"} <= set(found.notes)
    assert any("[-1, 1]" in note for note in found.notes)
    words = refusal("model-1.pt")
    assert "lipdiag measure model-1.pt --factory my_network:build --shape 1,H,W`" in words
    if objective == "pred_v":
        assert measured("model-1.pt", "--factory", "mymodel:build", "--shape", "1,8,8", "--out", "a.zarr")
        derivatives_agree(predictor, T)


ARGUMENTS = (
    {"dim": 8, "dim_mults": (1, 2), "channels": 1},
    {"dim": 8, "dim_mults": (2, 3, 5), "channels": 3, "self_condition": True, "init_dim": 16},
    {"dim": 16, "dim_mults": (1, 2), "channels": 2, "learned_variance": True, "attn_heads": (2, 3)},
    {"dim": 8, "dim_mults": (1, 2), "channels": 1, "attn_dim_head": (8, 16), "full_attn": (True, False)},
    {"dim": 8, "dim_mults": (1,), "channels": 1, "random_fourier_features": True, "learned_sinusoidal_dim": 6},
)


@pytest.mark.parametrize("told", ARGUMENTS, ids=str)
def test_the_shapes_of_lucidrains_u_net_tell_its_arguments(tmp_path, told):
    with importable(clone("denoising-diffusion-pytorch"), *ABSENT):
        original = importlib.import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
        torch.manual_seed(0)
        network = perturbed(original.Unet(**told))
        torch.save(network.state_dict(), tmp_path / "unet.pt")
        conventions = {"schedule": "linear", "parameterization": "eps", "clock": "timesteps"}
        shape = (told["channels"], 8, 8)
        predictor = lipdiag.load(tmp_path / "unet.pt", shape=shape, **conventions)
        x = noise(2, *shape)
        with torch.no_grad():
            expected = network(x, predictor.clock(T).float())[:, : shape[0]]
            torch.testing.assert_close(predictor(x, T), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["elucidated", "linear", "cosine", "v"])
def test_lucidrains_in_continuous_time(tmp_path, kind, monkeypatch):
    """Files that keep no schedule: ElucidatedDiffusion's is known, the others are told as the refusal says."""
    monkeypatch.chdir(tmp_path)
    with importable(clone("denoising-diffusion-pytorch"), *ABSENT):
        package = importlib.import_module("denoising_diffusion_pytorch")
        torch.manual_seed(0)
        unet = perturbed(package.Unet(dim=8, dim_mults=(1, 2), channels=1, learned_sinusoidal_cond=True))
        about = {"image_size": 8}
        if kind == "elucidated":
            diffusion = package.ElucidatedDiffusion(unet, channels=1, **about)
        elif kind == "v":
            diffusion = package.VParamContinuousTimeGaussianDiffusion(unet, channels=1, **about)
        else:
            diffusion = package.ContinuousTimeGaussianDiffusion(unet, channels=1, noise_schedule=kind, **about)
        torch.save({"step": 1, "model": diffusion.state_dict(), "version": "2"}, "model-1.pt")
        if kind != "elucidated":
            said = refusal("model-1.pt")
            assert "does not tell its schedule, its parameterization, its clock and the shape of its samples" in said
            words = said.partition(", as --")[2]
            assert all(part in words for part in ("vp(0, 20)", "log_snr(", "unnormalized_cosine", "VParam"))
        schedule = "vp(0, 20)" if kind == "linear" else "unnormalized_cosine"
        told = {
            "schedule": schedule,
            "parameterization": "v" if kind == "v" else "eps",
            "clock": f"log_snr({schedule})",
        }
        predictor = lipdiag.load("model-1.pt", shape=(1, 8, 8), **({} if kind == "elucidated" else told))
        x0, eps = noise(2, 1, 8, 8), noise(2, 1, 8, 8, seed=2)
        alpha, sigma = (part.float().view(-1, 1, 1, 1) for part in predictor.schedule(T))
        x = alpha * x0 + sigma * eps
        with torch.no_grad():
            if kind == "elucidated":
                level = (sigma / alpha).flatten()
                denoised = diffusion.preconditioned_network_forward(x / alpha, level)
                expected = (x / alpha - denoised) / level.view(-1, 1, 1, 1)
            else:
                log_snr = diffusion.log_snr(T.float())
                torch.testing.assert_close(log_snr.double(), predictor.schedule.logsnr(T), rtol=1e-3, atol=1e-3)
                y = unet(x, predictor.schedule.logsnr(T).float())
                expected = alpha * y + sigma * x if kind == "v" else y
            torch.testing.assert_close(predictor(x, T), expected, rtol=1e-4, atol=1e-4)


def score_network(config):
    """A network of score_sde's, as its run_lib makes it, with averages apart from it, and its file."""
    tools = importlib.import_module("models.utils")
    torch.manual_seed(0)
    model = perturbed(tools.create_model(config))
    average = importlib.import_module("models.ema").ExponentialMovingAverage(model.parameters(), decay=0.99)
    optimizer = importlib.import_module("losses").get_optimizer(config, model.parameters())
    importlib.import_module("utils").save_checkpoint(
        "checkpoint_1.pth", {"optimizer": optimizer, "model": perturbed(model), "ema": average, "step": 3}
    )
    averaged = copy.deepcopy(model)
    average.copy_to(averaged.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), averaged.parameters(), strict=True))
    return tools, averaged.eval()


SMALL = """
from configs.{config} import get_config
from models import ddpm, ncsnpp, utils
def small():
    config = get_config()
    config.model.update(nf={nf}, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), init_scale=1.0, dropout=0.0)
    config.data.image_size = 8
    return config
def build(state):
    config = small()
    network = utils.get_model(config.model.name)(config)
    network.load_state_dict(state)
    return network
"""
SDES = {
    # config, width, SDE and its class, what the reader types
    "VE": ("ve.cifar10_ncsnpp_continuous", 8, "VESDE", {"sigma_min": 0.01, "sigma_max": 50},
           ("ve(0.01, 50)", "score", "sigma(ve(0.01, 50))")),
    "VP": ("vp.ddpm.cifar10_continuous", 32, "VPSDE", {"beta_min": 0.1, "beta_max": 20},
           ("vp(0.1, 20)", "eps", "unit(999)")),
    "VP, NCSN++": ("vp.cifar10_ncsnpp_continuous", 8, "VPSDE", {"beta_min": 0.1, "beta_max": 20},
                   ("vp(0.1, 20)", "eps", "unit(999)")),
    "sub-VP": ("subvp.cifar10_ddpm_continuous", 32, "subVPSDE", {"beta_min": 0.1, "beta_max": 20},
               ("sub_vp(0.1, 20)", "eps", "unit(999)")),
}  # fmt: skip


@pytest.mark.parametrize("name", SDES)
def test_score_sde(user, monkeypatch, name):
    """Its own score function, times minus the standard deviation, is the noise."""
    config, width, sde, numbers, (schedule, kind, clock) = SDES[name]
    folder = clone("score_sde_pytorch")
    pytest.importorskip("ml_collections")
    monkeypatch.setattr("torch.utils.cpp_extension.load", MagicMock(name="compiled kernels, not used on the CPU"))
    importlib.import_module("torch._dynamo")  # what torch's optimizers import looks for real packages
    with importable(folder, "tensorflow", "tensorflow_datasets", "tensorflow_gan", "tensorflow_hub"):
        user(SMALL.format(config=config, nf=width))
        monkeypatch.syspath_prepend(".")
        tools, network = score_network(importlib.import_module("mymodel").small())
        told = {"schedule": schedule, "parameterization": kind, "clock": clock, "shape": (3, 8, 8)}
        predictor = lipdiag.load("checkpoint_1.pth", factory="mymodel:build", **told)
        sde = getattr(importlib.import_module("sde_lib"), sde)(N=1000, **numbers)
        sigma = predictor.schedule(T)[1].float().reshape(-1, 1, 1, 1)
        x = noise(2, 3, 8, 8) * sigma.clamp(min=1)
        with torch.no_grad():
            score = tools.get_score_fn(sde, network, continuous=True)(x, T.float())
            expected = -sigma * score
            # Its sigma(t) is rounded to float32 before frequencies of a hundred multiply it.
            size = (1e-4 if name == "VE" else 1e-5) * float(expected.abs().max())
            torch.testing.assert_close(predictor(x, T), expected, rtol=1e-5, atol=size)
            k = predictor.clock(T)
            own = network(x, k.float())
            torch.testing.assert_close(predictor.output(x, k), own, rtol=1e-5, atol=1e-5 * float(own.abs().max()))
        blur = importlib.import_module("models.up_or_down_sampling")
        plain = blur.upfirdn2d  # its kernels are float32 whatever x is, and derivatives are compared in float64
        monkeypatch.setattr(blur, "upfirdn2d", lambda x, k, **how: plain(x, k.to(x.dtype), **how))
    if name == "VE":  # steps are parts of the whole range of sigma: too wide at its low end, which is looked at alone
        derivatives_agree(predictor, torch.tensor([0.9, 0.97], dtype=torch.float64))
        low = {"schedule": "ve(0.01, 1)", "clock": "sigma(ve(0.01, 1))"}
        predictor = lipdiag.load("checkpoint_1.pth", factory="mymodel:build", **(told | low))
    derivatives_agree(predictor, T)
    if name == "VP":
        options = ["--schedule", schedule, "--parameterization", kind, "--clock", clock, "--shape", "3,8,8"]
        assert measured("checkpoint_1.pth", "--factory", "mymodel:build", *options, "--out", "a.zarr")
    words = refusal("checkpoint_1.pth")
    for text in (
        '--schedule "ve(0.01, 50)" --parameterization "score" --clock "sigma(ve(0.01, 50))" --shape C,H,W',
        '--schedule "vp(0.1, 20)" --parameterization "eps" --clock "unit(999)"',
        "sub_vp(0.1, 20)",
    ):
        assert text in words


K_ABSENT = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "clip", "torchsde", "skimage",
            "cleanfid", "cleanfid.inception_torchscript")  # fmt: skip
K_CONFIG = {
    "model": {
        "type": "image_v1", "input_channels": 3, "input_size": [8, 8], "mapping_out": 16, "depths": [1, 1],
        "channels": [8, 16], "self_attn_depths": [False, True], "sigma_data": 0.4, "sigma_min": 0.01, "sigma_max": 60,
        "sigma_sample_density": {"type": "lognormal", "mean": -1.2, "std": 1.2},
    },
    "dataset": {"type": "imagefolder"},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrapped", [True, False])
def test_k_diffusion(user, wrapped):
    """Its Denoiser's D(x, sigma) gives the noise (x - D) / sigma; the network is shown c_in x."""
    folder = clone("k-diffusion")
    pytest.importorskip("dctorch")
    with importable(folder, *K_ABSENT):
        K = importlib.import_module("k_diffusion")
        small = copy.deepcopy(K_CONFIG)
        small["model"]["augment_wrapper"] = wrapped
        config = K.config.load_config(small)
        torch.manual_seed(0)
        model = K.config.make_denoiser_wrapper(config)(perturbed(K.config.make_model(config)))
        average = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(model.parameters())
        schedule, averages = torch.optim.lr_scheduler.ConstantLR(optimizer), K.utils.EMAWarmup(power=0.6667)
        K.utils.ema_update(perturbed(model), average, averages.get_value())
        perturbed(average)
        torch.save(  # the dictionary of train.py's save()
            {
                "config": config, "model": model.inner_model.state_dict(),
                "model_ema": average.inner_model.state_dict(), "opt": optimizer.state_dict(),
                "sched": schedule.state_dict(), "ema_sched": averages.state_dict(), "epoch": 1, "step": 2,
                "gns_stats": None, "ema_stats": {}, "demo_gen": torch.Generator().get_state(), "elapsed": 3.0,
            },
            "name_00000002.pth",
        )  # fmt: skip
        torch.save(average.inner_model.state_dict(), "slim.pth")
        with open("config.json", "w") as file:
            json.dump(small | {"model": small["model"] | {"augment_wrapper": False}}, file)
        user(
            "import k_diffusion as K\n"
            "def build(state):\n"
            "    network = K.config.make_model(K.config.load_config('config.json'))\n"
            + ("    network.mapping_cond = __import__('torch').nn.Linear(9, 16, bias=False)\n" if wrapped else "")
            + "    network.load_state_dict(state)\n"
            "    return network\n"
        )
        predictor = lipdiag.load("name_00000002.pth", factory="mymodel:build")
        slim = lipdiag.load("slim.pth", factory="mymodel:build", original_config="config.json")
    sigma = torch.tensor([0.3, 20.0])
    t = predictor.schedule.time(-2 * sigma.double().log())
    s = sigma.reshape(-1, 1, 1, 1)
    x = noise(2, 3, 8, 8) * s
    with torch.no_grad():
        expected = (x - average.eval()(x, sigma)) / s
        for made in (predictor, slim):
            torch.testing.assert_close(made(x / (s**2 + 0.16).sqrt(), t), expected, rtol=1e-5, atol=1e-5)
    assert predictor.shape == (3, 8, 8)
    assert measured("name_00000002.pth", "--factory", "mymodel:build", "--out", "a.zarr")
    derivatives_agree(predictor, T)
    words = refusal("slim.pth")
    for text in ('--schedule "normalized(karras(0.002, 80, 7), 0.5)"', '"edm(0.5)"', '"sigma(karras(0.002, 80, 7))"'):
        assert text in words
    np.testing.assert_allclose(sigma.numpy(), predictor.clock(t).numpy(), rtol=1e-6)
