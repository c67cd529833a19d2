"""EDM's and EDM2's own code: files as their training loops write them, through `convert`, against D(x, sigma)."""

import json
import pickle
import sys

import pytest
import torch
from click.testing import CliRunner
from torch.autograd import Function

from lipdiag import checkpoints
from lipdiag.checkpoints import unpickle
from lipdiag.cli import main
from lipdiag.errors import CheckpointError
from lipdiag.formats import edm
from lipdiag.linalg.linearize import linearize
from tests.formats.agreement import derivatives_agree
from tests.formats.originals import clone, importable

SMALL = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
NETWORKS = {  # DDPM++, NCSN++, ADM; heads of ADM's are 64 channels wide
    "DDPM++": SMALL | {"model_type": "SongUNet", "augment_dim": 9, "label_dropout": 0.1},
    "NCSN++": SMALL
    | {"model_type": "SongUNet", "embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual"}
    | {"resample_filter": [1, 3, 3, 1]},
    "ADM": SMALL | {"model_type": "DhariwalUNet", "model_channels": 64},
}
PRECONDITIONERS = ("VPPrecond", "VEPrecond", "iDDPMPrecond", "EDMPrecond")
PAIRS = [(wrapper, name) for wrapper in PRECONDITIONERS for name in ("DDPM++", "ADM")]
PAIRS += [("VEPrecond", "NCSN++"), ("EDMPrecond", "NCSN++")]


@pytest.fixture
def code(request):
    """The clone, importable, as it is in a process of its own."""
    folder = clone(getattr(request, "param", "edm"))
    with importable(folder):
        yield folder


def trained(network):
    """The network with every weight moved: many start at zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    return network.eval().requires_grad_(False)


def written(network, file, **more):
    """The pickle that training_loop.py saves."""
    content = {"ema": network, "loss_fn": None, "augment_pipe": None, "dataset_kwargs": {"path": "x.zip"}} | more
    file.write_bytes(pickle.dumps(content))
    return file


def sigmas(network):
    """Two noise levels; where the preconditioner rounds, two that it does not move."""
    return network.u[[0, 700]] if hasattr(network, "u") else torch.tensor([0.3, 12.0])


def agrees(predictor, network, label=None):
    """eps equals (x - D) / sigma at what the wrapper itself tells its network, and that is what lipdiag tells it."""
    sigma = sigmas(network)
    t = predictor.schedule.time(-2 * sigma.double().log())
    s, c_in = (z.float().view(-1, 1, 1, 1) for z in (sigma, predictor.schedule(t)[0]))
    x = s * torch.randn(2, *predictor.shape, generator=torch.Generator().manual_seed(0))
    labels = None if label is None else torch.eye(network.label_dim)[[label, label]]
    raw, seen = getattr(network, "model", None) or network.unet, []
    with torch.no_grad(), raw.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs)):
        expected = (x - network(x, sigma, labels)) / s
        torch.testing.assert_close(c_in * x, seen[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(predictor.clock(t), seen[1].double(), rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(predictor.conditioned(seen[0], t, seen[1]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("label_dim", [0, 4])
@pytest.mark.parametrize(("preconditioner", "name"), PAIRS)
def test_eps_is_that_of_the_original_s_denoiser(code, tmp_path, preconditioner, name, label_dim):
    from training import networks

    torch.manual_seed(0)
    arguments = {"img_resolution": 8, "img_channels": 3, "label_dim": label_dim, "use_fp16": True, **NETWORKS[name]}
    network = trained(getattr(networks, preconditioner)(**arguments))
    out = tmp_path / "out"
    out.mkdir()
    unpickle.main(str(written(network, tmp_path / "x.pkl")), str(code), str(out))
    sys.path.remove(str(code))
    config = json.loads((out / "config.json").read_text())
    kind = NETWORKS[name]["model_type"]
    assert (config["network"]["module"], config["network"]["class"]) == ("training.networks", kind)
    assert config["difference"] < 1e-4
    label = 2 if label_dim else None
    predictor = checkpoints.factory(f"training.networks:{kind}", out, label=label)
    agrees(predictor, network, label)
    if label_dim:
        agrees(checkpoints.factory(f"training.networks:{kind}", out), network)
    elif name != "NCSN++" or preconditioner in (
        "VEPrecond",
        "EDMPrecond",
    ):  # its Fourier features turn 100 times a timestep
        derivatives_agree(predictor, torch.tensor([0.4, 0.8], dtype=torch.float64))


@pytest.mark.parametrize("code", ["edm2"], indirect=True)
@pytest.mark.parametrize("label_dim", [0, 4])
def test_edm2_too(code, tmp_path, monkeypatch, label_dim):
    from training.networks_edm2 import Precond

    torch.manual_seed(0)
    network = Precond(8, 4, label_dim, **SMALL | {"model_channels": 64}, logvar_channels=16)
    network = trained(network).to(torch.float16)  # as snapshots are
    out = tmp_path / "out"
    out.mkdir()
    unpickle.main(str(written(network, tmp_path / "x.pkl", encoder=None)), str(code), str(out))
    sys.path.remove(str(code))
    label = 2 if label_dim else None
    predictor = checkpoints.factory("training.networks_edm2:UNet", out, label=label)
    agrees(predictor, network.float(), label)  # stored in float16 its gains, and they alone, are rounded once more
    text = (code / "training" / "networks_edm2.py").read_text().replace("float32", "float64")
    (tmp_path / "edm2_in_float64.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "edm2_in_float64", raising=False)
    predictor = checkpoints.factory("edm2_in_float64:UNet", out, label=label)
    derivatives_agree(predictor, torch.tensor([0.4, 0.8], dtype=torch.float64))


def test_as_a_user_does_it(code, tmp_path, monkeypatch):
    """The command line from the clone's folder: convert, be told what is missing, measure."""
    from training.networks import EDMPrecond

    torch.manual_seed(0)
    network = trained(EDMPrecond(8, 3, 4, model_type="SongUNet", **SMALL))
    file, out, run = written(network, tmp_path / "x.pkl"), tmp_path / "out", tmp_path / "run.zarr"
    monkeypatch.chdir(code)
    command = ["convert", "--unsafe-pickle", str(file), "--code-dir", str(code), "--out", str(out)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert f"PYTHONPATH={code} lipdiag measure {out} --factory training.networks:SongUNet" in done.output
    with pytest.raises(CheckpointError, match=r"--factory training\.networks:SongUNet, in the folder of that code"):
        checkpoints.load(out)
    quick = ["--timesteps", "log:2", "--draws", "2", "--out", str(run), "--quantity", "time_derivative"]
    done = CliRunner().invoke(main, ["measure", str(out), "--factory", "training.networks:SongUNet", *quick])
    assert done.exit_code == 0, done.output
    assert "AttentionOp has no forward mode of its own" in done.output


def test_attention_s_own_function_gets_a_forward_mode_and_keeps_its_reverse(code):
    """Without it products come from double backward, which costs more; both are the same derivative."""
    from training.networks import AttentionOp, SongUNet

    network = trained(SongUNet(8, 3, 3, **SMALL))

    def f(x, t):
        return network(x, t, None)

    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 7.0])
    before = linearize(f, x, t)
    slow, value = before.jvp(x, t), before.output
    assert before.method == "double backward"
    assert [name for module in edm.modules(network) for name in edm.open_functions(module)] == ["AttentionOp"]
    after = linearize(f, x, t)
    torch.testing.assert_close(after.jvp(x, t), slow, rtol=1e-4, atol=1e-5)
    assert after.method == "forward mode"
    assert torch.equal(after.output, value)
    q = torch.randn(2, 4, 5, requires_grad=True)
    assert AttentionOp.apply(q, q).grad_fn.name() == "AttentionOpBackward"
    assert Function.apply.__func__ is not edm.through


def test_code_that_computes_something_else_is_refused(code, tmp_path):
    """The class found in the code is another one than the pickle's: same weights, another function."""
    from training import networks

    torch.manual_seed(0)
    network = trained(networks.EDMPrecond(8, 3, model_type="SongUNet", **SMALL))
    written(network, tmp_path / "x.pkl")
    own = tmp_path / "own" / "training"
    own.mkdir(parents=True)
    text = (code / "training" / "networks.py").read_text().replace("x = x * self.skip_scale", "x = x * 0.7")
    (own / "__init__.py").touch()
    (own / "changed.py").write_text(text)
    (tmp_path / "out").mkdir()
    for name in ("training.networks", "training"):
        sys.modules.pop(name)
    with pytest.raises(SystemExit, match="differs from its own denoiser by 0"):
        unpickle.main(str(tmp_path / "x.pkl"), str(tmp_path / "own"), str(tmp_path / "out"))
    sys.path.remove(str(tmp_path / "own"))
    assert not (tmp_path / "out" / "config.json").exists()
