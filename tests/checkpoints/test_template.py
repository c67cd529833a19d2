"""Factories that are begun for the user, and classes of theirs that are one, from files as trainers write them."""

import ast
import shlex
import sys

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import lipdiag
from lipdiag import checkpoints
from lipdiag.cli import main
from lipdiag.errors import CheckpointError, UsageError

PROJECT = '''
import torch
from torch import nn


class MyNetwork(nn.Module):
    def __init__(self, width, depth=1):
        super().__init__()
        self.inside = nn.Conv2d(1, width, 3, padding=1)
        self.outside = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for _ in range(depth))

    def forward(self, x, t):
        return sum(layer(torch.tanh(self.inside(x) * t.view(-1, 1, 1, 1) / 1000)) for layer in self.outside)


class Trainer(nn.Module):
    """As a LightningModule is: what it trains is a part of it."""

    def __init__(self, width, depth, rate):
        super().__init__()
        self.rate = rate
        self.net, self.net_ema = MyNetwork(width, depth), MyNetwork(width, depth)

    @classmethod
    def load_from_checkpoint(cls, path):
        raise AssertionError("it would run the code in the file")


def arguments_too(state, hyper_parameters):
    network = MyNetwork(hyper_parameters["width"], hyper_parameters["depth"])
    network.load_state_dict(state)
    return network
'''
CONVENTIONS = {"schedule": "linear", "parameterization": "eps", "clock": "timesteps(1000)", "shape": (1, 8, 8)}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The user's own package, and the checkpoint of a training by Lightning, with averages; returns both networks."""
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "model.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    for name in ("my_project", "my_project.model", "my_network"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    from my_project.model import MyNetwork

    torch.manual_seed(0)
    raw, averaged = MyNetwork(4, 2), MyNetwork(4, 2)
    state = {f"net.{name}": tensor for name, tensor in raw.state_dict().items()}
    state |= {f"net_ema.{name}": tensor for name, tensor in averaged.state_dict().items()}
    kept = {"width": 4, "depth": 2, "rate": 1e-3}
    torch.save({"pytorch-lightning_version": "2.4", "hyper_parameters": kept, "state_dict": state}, "lit.ckpt")
    yield raw, averaged
    for name in ("my_project", "my_project.model", "my_network"):
        sys.modules.pop(name, None)


def noise(predictor):
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.9], dtype=torch.float64)
    return x, predictor.clock(t), predictor(x, t)


def test_a_factory_that_was_begun_and_completed_is_the_network(project, tmp_path):
    refused = CliRunner().invoke(main, ["inspect", "lit.ckpt"])
    begin = refused.stderr.partition("`lipdiag ")[2].partition("`")[0]
    assert CliRunner().invoke(main, shlex.split(begin)).exit_code == 0
    text = (tmp_path / "my_network.py").read_text()
    assert "inside.weight" in text
    assert "(4, 1, 3, 3)" in text
    completed = text.replace("    'rate': 0.001,\n", "")
    assert completed != text
    (tmp_path / "my_network.py").write_text(completed)
    command = next(line for line in text.splitlines() if "lipdiag measure" in line).strip("# ")
    for gap, told in (("schedule", "linear"), ("parameterization", "eps"), ("clock", "timesteps")):
        command = command.replace(f"--{gap} ...", f"--{gap} {told}")
    command = command.replace("1,H,W", "1,8,8") + " --timesteps 0,500 --draws 2 --quantity loss --quiet --json"
    result = CliRunner().invoke(main, shlex.split(command)[1:])
    assert result.exit_code == 0, result.stderr
    x, timestep, found = noise(lipdiag.load("lit.ckpt", factory="my_network:build", **CONVENTIONS))
    assert torch.equal(found, project[1](x, timestep.float()))


@pytest.mark.parametrize("factory", ["Trainer", "arguments_too"])
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_the_arguments_that_the_trainer_kept_make_the_network(project, factory, weights):
    predictor = lipdiag.load("lit.ckpt", factory=f"my_project.model:{factory}", weights=weights, **CONVENTIONS)
    x, timestep, found = noise(predictor)
    assert torch.equal(found, project[weights == "ema"](x, timestep.float()))


def test_a_network_that_takes_its_time_first_is_recognized_and_said(project, tmp_path):
    code = "from my_project.model import MyNetwork\n\nclass Turned(MyNetwork):\n"
    code += "    def forward(self, t, x):\n        return super().forward(x, t)\n\n"
    code += "def function(state):\n    return lambda time, x: Turned(4, 2).eval()(time, x) * 0 + x\n"
    (tmp_path / "my_network.py").write_text(code)
    predictor = lipdiag.load("lit.ckpt", factory="my_network:Turned", **CONVENTIONS)
    x, timestep, found = noise(predictor)
    assert torch.equal(found, project[1](x, timestep.float()))
    assert "the network is called as (t, x), as the names of its parameters tell" in predictor.notes
    assert torch.equal(noise(lipdiag.load("lit.ckpt", factory="my_network:function", **CONVENTIONS))[2], x)
    straight = lipdiag.load("lit.ckpt", factory="my_project.model:MyNetwork", **CONVENTIONS)
    assert not any("called as" in note for note in straight.notes)


def test_a_class_without_the_file_s_names_is_refused(project):
    torch.save({"other.weight": torch.ones(2, 2)}, "other.pt")
    with pytest.raises(UsageError, match=r"failed with TypeError: .*missing 3 required"):
        lipdiag.load("other.pt", factory="my_project.model:Trainer", **CONVENTIONS)
    torch.save({"state_dict": {"a.w": torch.ones(2), "b.w": torch.ones(2)}, "hyper_parameters": {"width": 2}}, "x.pt")
    with pytest.raises(
        UsageError, match=r"neither MyNetwork nor a part of it has the 2 names in the file, such as 'a.w'"
    ):
        lipdiag.load("x.pt", factory="my_project.model:MyNetwork", **CONVENTIONS)


def test_texts_of_the_file_cannot_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = ["a\nimport os", 'b"""\nraise SystemExit', "c\r\x0c\x85\u2028import sys", "{d}", "e\\"]
    kept = {name: [name, {name: 1.5}, float("nan"), True, None] for name in evil}
    kept["text"] = evil[1]
    state = {f"{name}.w": torch.ones(2, 1, 3) for name in evil}
    torch.save({"state_dict": state, "hyper_parameters": kept}, "evil\n.pt")
    checkpoints.write_factory("evil\n.pt", "my_evil.py")
    tree = ast.parse((tmp_path / "my_evil.py").read_bytes())
    assert [type(part).__name__ for part in tree.body] == ["ImportFrom", "Assign", "FunctionDef"]
    found = ast.literal_eval(tree.body[1].value)
    assert found == {name: [name, {name: 1.5}, True, None] for name in evil} | {"text": evil[1]}


def test_many_tensors_are_told_by_the_parts_of_the_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = nn.ModuleList(nn.ModuleList(nn.Linear(2, 2) for _ in range(3)) for _ in range(60))
    torch.save(network.state_dict(), "many.pt")
    checkpoints.write_factory("many.pt", "many.py")
    lines = (tmp_path / "many.py").read_text().splitlines()
    assert ["#", "0.0.", "2", "tensors,", "from", "(2,", "2)"] in [line.split() for line in lines]
    assert any(line.startswith("#     and 140 more parts") for line in lines)


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        ("my-network.py", UsageError, "is no name of a Python module: give one such as my_network.py"),
        ("my_network", UsageError, "is no name of a Python module"),
        ("there.py", UsageError, "there.py exists: give another name"),
        ("text.py", CheckpointError, "cannot use"),
    ],
)
def test_what_cannot_be_begun_ends_in_a_sentence(tmp_path, monkeypatch, out, error, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.py").write_text("mine")
    torch.save(nn.Linear(2, 2).state_dict(), "net.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(error, match=words):
        checkpoints.write_factory("text.pt" if out == "text.py" else "net.pt", out)
    assert (tmp_path / "there.py").read_text() == "mine"
    assert not (tmp_path / "text.py").exists()
