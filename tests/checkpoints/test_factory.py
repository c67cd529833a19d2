"""Models from the user's own function, compared with the network that the function made."""

import pytest
import torch

from lipdiag import checkpoints
from lipdiag.diffusion.clock import Timesteps, Unit
from lipdiag.errors import CheckpointError, UsageError
from tests.formats.agreement import derivatives_agree

CODE = """
import torch
from torch import nn
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
    def forward(self, x, t):
        return self.layer(x) + t[:, None]

class Group:
    net = Net

def from_file(content):
    net = Net()
    net.load_state_dict(content["weights"])
    return net

def function():
    return lambda x, t: 2 * x + t[:, None]

def network_predictor():
    return NetworkPredictor(Net(), Linear(), eps, Timesteps(1000), (3,))

def gaussian():
    return Gaussian(torch.zeros(3), torch.ones(3), Linear(), Timesteps(1000))

def nothing():
    return 3

def failing():
    raise KeyError("lost")

number = 3
"""
TOLD = {"schedule": "linear()", "parameterization": "eps", "clock": "timesteps(1000)", "shape": (3,)}
X, T = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([0.001, 0.5], dtype=torch.float64)


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """A module of the user's in the current folder."""
    (tmp_path / "mymodel.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "mymodel", raising=False)


def test_a_function_gets_the_tensors_of_the_file(tmp_path):
    state = {"layer.weight": torch.eye(3) * 2, "layer.bias": torch.ones(3)}
    torch.save({"weights": state, "epoch": 7}, tmp_path / "x.pt")
    predictor = checkpoints.factory("mymodel:from_file", tmp_path / "x.pt", **TOLD)
    expected = 2 * X + 1 + torch.tensor([[0.0], [499.0]])
    torch.testing.assert_close(predictor(X, T), expected)
    assert (predictor.clock, predictor.shape, predictor.training) == (Timesteps(1000), (3,), False)
    with pytest.raises(CheckpointError, match="no file"):
        checkpoints.factory("mymodel:from_file", tmp_path / "y.pt", **TOLD)


def test_a_bare_function_and_a_nested_name_will_do():
    torch.testing.assert_close(
        checkpoints.factory("mymodel:function", **TOLD)(X, T), 2 * X + torch.tensor([[0.0], [499.0]])
    )
    assert checkpoints.factory("mymodel:Group.net", **TOLD).shape == (3,)


def test_a_predictor_is_taken_as_it_is_but_for_what_is_given():
    assert checkpoints.factory("mymodel:network_predictor").clock == Timesteps(1000)
    assert checkpoints.factory("mymodel:network_predictor", clock=Unit()).clock == Unit()
    assert type(checkpoints.factory("mymodel:gaussian")).__name__ == "Gaussian"


@pytest.mark.parametrize(
    ("spec", "given", "word"),
    [
        ("mymodel", {}, "package.module:function"),
        ("my model:x", {}, "package.module:function"),
        ("nowhere_at_all:x", {}, "cannot be imported .ModuleNotFoundError"),
        ("mymodel:absent", {}, "AttributeError"),
        ("mymodel:number", {}, "not a function"),
        ("mymodel:failing", {}, "KeyError: 'lost'"),
        ("mymodel:nothing", TOLD, "returned a int"),
        ("mymodel:function", {"schedule": "linear()"}, "--parameterization and --clock and --shape"),
        ("mymodel:gaussian", {"clock": "unit()"}, "its own clock"),
        ("mymodel:function", TOLD | {"clock": "clock()"}, "clock"),
    ],
)
def test_a_factory_that_makes_no_model_is_refused(spec, given, word):
    with pytest.raises(UsageError, match=word):
        checkpoints.factory(spec, **given)


AZULA = """
import torch
from azula.denoise import KarrasDenoiser, SimpleDenoiser
from azula.noise import VESchedule
from torch import nn

class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x, t):
        return torch.tanh(self.layer(torch.cat((x, t[:, None]), 1)))

def denoiser(kind):
    torch.manual_seed(0)
    return kind(Backbone(), VESchedule(0.01, 50))

def karras():
    return denoiser(KarrasDenoiser)

def simple():
    return denoiser(SimpleDenoiser)
"""


@pytest.mark.parametrize("kind", ["karras", "simple"])
def test_azula_s_denoisers_say_the_same(tmp_path, kind, monkeypatch):
    """Its posterior's mean at its own amplitudes: eps = (x - alpha mean) / sigma."""
    azula = pytest.importorskip("azula.noise")
    (tmp_path / "with_azula.py").write_text(AZULA)
    monkeypatch.delitem(__import__("sys").modules, "with_azula", raising=False)
    told = {"schedule": "ve(0.01, 50)", "parameterization": "x0", "clock": "unit()", "shape": (3,)}
    predictor = checkpoints.factory(f"with_azula:{kind}", **told).double()
    alpha, sigma = (c[:, None] for c in azula.VESchedule(0.01, 50)(T))
    torch.testing.assert_close(predictor.schedule(T)[1], sigma[:, 0], rtol=1e-12, atol=0)
    x = alpha * X + sigma
    with torch.no_grad():
        mean = getattr(__import__("with_azula"), kind)().double()(x, T).mean
        torch.testing.assert_close(predictor(x, T), (x - alpha * mean) / sigma, rtol=1e-5, atol=1e-5)
    derivatives_agree(predictor, T)
