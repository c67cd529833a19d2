"""EDM's preconditioners: the measured raw network is the denoiser that the paper's table 1 defines, and converting."""

import json
import pickle
import sys

import pytest
import torch
from click.testing import CliRunner

from lipdiag import checkpoints
from lipdiag.checkpoints import unpickle
from lipdiag.cli import main
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.errors import CheckpointError, UsageError
from lipdiag.formats import edm
from tests.formats.agreement import derivatives_agree

CODE = '''
import math
import torch
from torch import nn


class Raw(nn.Module):
    """A network with the interface of EDM's: (x, c_noise, class_labels)."""

    def __init__(self, width, label_dim=0):
        super().__init__()
        self.init_kwargs = {"width": width, "label_dim": label_dim}
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.time = nn.Linear(2, width)
        self.label = nn.Linear(label_dim, width) if label_dim else None
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x, noise_labels, class_labels=None):
        h = self.time(torch.stack([noise_labels.sin(), (noise_labels / 50).cos()], -1).to(x.dtype))
        if self.label is not None:
            h = h + self.label(class_labels)
        return self.last(torch.tanh(self.first(x) + h[:, :, None, None]))


class VPPrecond(nn.Module):
    def __init__(self):
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = 8, 3, 0
        self.beta_d, self.beta_min, self.M = 19.9, 0.1, 1000
        self.sigma_min, self.sigma_max = 0.0063, 152.0
        self.model = Raw(4)

    def sigma_inv(self, sigma):
        return ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min) / self.beta_d

    def forward(self, x, sigma):
        s = sigma.reshape(-1, 1, 1, 1)
        return x - s * self.model(x / (s**2 + 1).sqrt(), (self.M - 1) * self.sigma_inv(sigma))


class VEPrecond(VPPrecond):
    def forward(self, x, sigma):
        return x + sigma.reshape(-1, 1, 1, 1) * self.model(x, (0.5 * sigma).log())


class iDDPMPrecond(VPPrecond):
    def __init__(self):
        super().__init__()
        self.C_1, self.C_2 = 0.001, 0.008
        u = torch.zeros(self.M + 1, dtype=torch.float64)
        bar = lambda j: math.sin(0.5 * math.pi * j / self.M / (self.C_2 + 1)) ** 2
        for j in range(self.M, 0, -1):
            u[j - 1] = ((u[j] ** 2 + 1) / max(bar(j - 1) / bar(j), self.C_1) - 1) ** 0.5
        self.register_buffer("u", u)

    def forward(self, x, sigma):
        s = sigma.reshape(-1, 1, 1, 1)
        index = (self.u[:-1] - sigma.double()[:, None]).abs().argmin(1)
        return x - s * self.model(x / (s**2 + 1).sqrt(), (self.M - 1 - index).to(x.dtype))


class EDMPrecond(VPPrecond):
    def __init__(self):
        super().__init__()
        self.sigma_min, self.sigma_max, self.sigma_data, self.label_dim = 0, float("inf"), 0.5, 4
        self.model = Raw(4, 4)

    def forward(self, x, sigma, labels):
        s, d = sigma.reshape(-1, 1, 1, 1), self.sigma_data
        F = self.model(x / (s**2 + d**2).sqrt(), sigma.log() / 4, labels)
        return d**2 / (s**2 + d**2) * x + s * d / (s**2 + d**2).sqrt() * F


class Precond(EDMPrecond):
    def __init__(self):
        super().__init__()
        self.unet = self.model
        del self.model

    def forward(self, x, sigma, labels):
        self.model = self.unet
        try:
            return super().forward(x, sigma, labels)
        finally:
            del self.model
'''
NAMES = ("VPPrecond", "VEPrecond", "iDDPMPrecond", "EDMPrecond", "Precond")
SIGMAS = {"iDDPMPrecond": (100, 700)}


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The stranger's module, importable as `strange_edm` in the test and by the converter through its folder."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "strange_edm.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "strange_edm", raising=False)
    import strange_edm

    yield strange_edm
    sys.modules.pop("strange_edm", None)


def compare(predictor: NetworkPredictor, net, name: str) -> None:
    """eps of the predictor at c_in x equals (x - D(x; sigma)) / sigma."""
    sigma = net.u[list(SIGMAS[name])] if name in SIGMAS else torch.tensor([0.3, 12.0], dtype=torch.float64)
    t = predictor.schedule.time(-2 * sigma.log())
    s = sigma.view(-1, 1, 1, 1)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * s
    c_in = predictor.schedule(t)[0].view(-1, 1, 1, 1)  # in these coordinates alpha is c_in itself
    d = {"VEPrecond": 0 * s**2 + 1, "EDMPrecond": s**2 + 0.25, "Precond": s**2 + 0.25}.get(name, s**2 + 1)
    torch.testing.assert_close(c_in, d**-0.5, rtol=1e-6, atol=0)
    labels = (torch.zeros(2, 4, dtype=torch.float64),) if name in ("EDMPrecond", "Precond") else ()
    with torch.no_grad():
        D = net.double()(x, sigma, *labels)
        got = predictor.double()(c_in * x, t)
    torch.testing.assert_close(got, (x - D) / s, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_raw_network_is_the_preconditioner_s_denoiser(code, name):
    torch.manual_seed(0)
    net = getattr(code, name)().double()
    raw = net.unet if name == "Precond" else net.model
    arguments = {w: getattr(net, w) for w in ("beta_d", "beta_min", "M", "sigma_data", "C_1", "C_2") if hasattr(net, w)}
    arguments |= {"sigma_min": 0.02, "sigma_max": 100.0}
    used = edm.convention(name, arguments).whole
    inputs = {"class_labels": torch.zeros(1, 4, dtype=torch.float64)} if hasattr(net, "sigma_data") else None
    predictor = NetworkPredictor(raw, *used, (3, 8, 8), inputs)
    compare(predictor, net, name)
    derivatives_agree(predictor, torch.tensor([0.3, 0.8], dtype=torch.float64))


def test_what_is_unknown_is_said():
    with pytest.raises(UsageError, match="VPPrecond, VEPrecond"):
        edm.convention("NewPrecond", {})
    with pytest.raises(UsageError, match="C_2"):
        edm.convention("iDDPMPrecond", {"C_2": 0.01})


def test_a_pickle_is_converted_in_a_process_of_its_own(code, tmp_path):
    torch.manual_seed(0)
    net = code.EDMPrecond()
    file, out = tmp_path / "edm.pkl", tmp_path / "out"
    file.write_bytes(pickle.dumps({"ema": net, "loss_fn": None, "dataset_kwargs": {}}, protocol=2))
    with pytest.raises(CheckpointError, match="lipdiag convert"):
        checkpoints.load(file)
    command = ["convert", str(file), "--code-dir", str(tmp_path / "code"), "--out", str(out)]
    refused = CliRunner().invoke(main, command)
    assert (refused.exit_code, out.exists()) == (2, False)
    assert "--unsafe-pickle" in refused.output
    done = CliRunner().invoke(main, [*command, "--unsafe-pickle"])
    assert done.exit_code == 0, done.output
    assert "this runs any code stored in the file" in done.output
    config = json.loads((out / "config.json").read_text())
    assert (config["preconditioner"], config["network"]["class"]) == ("EDMPrecond", "Raw")
    with pytest.raises(CheckpointError, match="--factory strange_edm:Raw, in the folder of that code"):
        checkpoints.load(out)
    compare(checkpoints.factory("strange_edm:Raw", out), net, "EDMPrecond")
    labelled = checkpoints.factory("strange_edm:Raw", out, label=2).conditioning["class_labels"]
    assert labelled.tolist() == [[0, 0, 1, 0]]
    with pytest.raises(UsageError, match="4 classes"):
        checkpoints.factory("strange_edm:Raw", out, label=4)


def test_a_folder_s_arguments_reach_nothing_but_networks(tmp_path):
    """A folder may name a program in the place of a class, and users copy the command that it asks for."""
    touched = tmp_path / "touched"
    network = {"module": "subprocess", "class": "run", "arguments": {"args": ["touch", str(touched)]}}
    config = {"preconditioner": "EDMPrecond", "arguments": {}, "network": network, "shape": [3, 8, 8], "label_dim": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for spec in ("subprocess:run", "subprocess:Popen"):
        with pytest.raises(CheckpointError, match=r"needs the class of its network, and \w+ is no nn.Module"):
            checkpoints.factory(spec, tmp_path)
    assert not touched.exists()


def test_a_file_that_is_no_network_or_no_pickle_is_refused(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps({"ema": 3}))
    with pytest.raises(SystemExit, match="no preconditioner"):
        unpickle.main(str(tmp_path / "edm.pkl"), str(tmp_path / "code"), str(tmp_path))
    with pytest.raises(UsageError, match="--code-dir"):
        edm.convert(tmp_path / "edm.pkl", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CheckpointError, match="no file"):
        edm.convert(tmp_path / "gone.pkl", tmp_path / "code", tmp_path / "out")
