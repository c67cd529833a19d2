"""When the network is compiled, and what becomes of a compiler that fails."""

import dataclasses
import itertools

import pytest
import torch

from lipdiag.errors import UsageError
from lipdiag.training import learner as module
from lipdiag.training import loop
from lipdiag.training.learner import COMPILING, WORTH, Learner
from lipdiag.training.loop import build, train
from lipdiag.training.manner import Manner
from lipdiag.training.recipe import set_fields

HERE = torch.device("cpu")
LEVELS = [
    "network_config.block_out_channels=[8,8]",
    'network_config.down_block_types=["DownBlock2D","DownBlock2D"]',
    'network_config.up_block_types=["UpBlock2D","UpBlock2D"]',
]


class Compiled(torch.nn.Module):
    """A network that went through a compiler that does nothing, or fails when it is first called."""

    failure: Exception | None = None

    def __init__(self, network):
        super().__init__()
        self._orig_mod = network

    def forward(self, *args, **kwargs):
        if self.failure is not None:
            raise self.failure
        return self._orig_mod(*args, **kwargs)


@pytest.fixture
def compiler(monkeypatch):
    """In the place of torch's."""
    kind = type("Kind", (Compiled,), {})
    monkeypatch.setattr(module.torch, "compile", kind)
    return kind


def weights(state) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in state.predictor.parameters()])


def test_a_compiler_that_fails_is_done_without_and_it_is_said_once(recipe, compiler, capsys):
    *_, plain = train(recipe)
    compiler.failure = RuntimeError("InductorError: no C++ compiler\nat line 7")
    *_, state = train(dataclasses.replace(recipe, compile=True))
    assert torch.equal(weights(state), weights(plain))
    assert state.compiled is False
    said = [line for line in capsys.readouterr().err.splitlines() if "cannot be compiled" in line]
    assert len(said) == 1
    assert "no C++ compiler): it is trained as it is written" in said[0]


def test_a_compiler_that_fails_in_another_process_is_done_without_in_this_one(recipe, compiler, monkeypatch, capsys):
    """Each tries by itself, since one that failed while gradients are averaged would leave the others waiting."""
    *_, plain = train(recipe)
    called, real = [], module.together
    monkeypatch.setattr(module, "together", lambda *told: (called.append(told), real(*told))[1])
    monkeypatch.setattr(module.distributed, "anywhere", lambda flag: True)
    *_, state = train(dataclasses.replace(recipe, compile=True))
    assert torch.equal(weights(state), weights(plain))
    assert state.compiled is False
    assert "cannot be compiled (in another process): it is trained" in capsys.readouterr().err
    tried = [averaged for network, averaged in called if isinstance(network, Compiled)]
    assert tried == [False] * recipe.accumulate
    assert any(averaged for _, averaged in called)


def test_a_compiled_network_is_called_and_leaves_no_trace_in_the_snapshot(recipe, compiler):
    plain, compiled = (next(train(dataclasses.replace(recipe, compile=flag))) for flag in (False, True))
    assert compiled.compiled
    assert compiled.loss == plain.loss
    assert set(compiled.snapshot()) == set(plain.snapshot())
    with pytest.raises(UsageError, match="compile"):
        next(train(dataclasses.replace(recipe, compile=True, penalty=1.0)))


def test_memory_that_runs_out_is_no_fault_of_the_compiler(recipe, compiler, capsys):
    compiler.failure = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        next(train(dataclasses.replace(recipe, compile=True)))
    assert "cannot be compiled" not in capsys.readouterr().err


def learner(recipe) -> Learner:
    return Learner(build(recipe), recipe, HERE, Manner("float32", None, 1.0))


def test_a_short_training_is_not_compiled(recipe, compiler, capsys):
    found = learner(recipe)
    assert not found.consider(0.1, 10)
    assert found.compiled is False
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("seconds", [0.5, 1.5])
def test_a_long_training_is_compiled_where_that_is_faster(recipe, compiler, capsys, seconds):
    found = learner(recipe)
    assert found.consider(1.0, int(WORTH * COMPILING) + 1), "the pace is another from now on"
    assert isinstance(found.called.network, Compiled)
    assert found.compiled is None, "it is on trial"
    assert "takes a minute or two" in capsys.readouterr().err, "which is said before it begins"
    slower = seconds > 1
    assert found.consider(seconds, 1000) == slower
    assert found.compiled == (not slower)
    assert isinstance(found.called.network, Compiled) != slower
    assert f"{seconds:.2f}"[:3] in capsys.readouterr().err
    assert not found.consider(9.0, 10**9), "decided once"


def test_what_was_decided_is_kept_in_the_snapshot(recipe, compiler, monkeypatch):
    monkeypatch.setattr(loop, "manner", lambda *told: Manner("float32", None, 0.0))
    monkeypatch.setattr(module, "WORTH", 0)
    states = {state.step: state.snapshot() for state in train(recipe)}
    decided = [int(states[step]["compiled"]) for step in sorted(states)]
    assert decided[0] == -1
    assert decided[-1] in (0, 1)
    for compiled in (True, False):
        told = states[2] | {"compiled": torch.tensor(int(compiled))}
        assert next(train(recipe, snapshot=told)).compiled is compiled
    old = {name: tensor for name, tensor in states[2].items() if name != "compiled"}
    assert next(train(recipe, snapshot=old)).step == 3


def test_what_torch_compiles_gives_the_same_losses(recipe, monkeypatch):
    """Through its tracer and its graphs of both passes; the code that it would write of them is left out.

    The tracer warns of the layer that enlarges pictures, which goes nowhere.
    """
    real = torch.compile
    monkeypatch.setattr(module.torch, "compile", lambda network: real(network, backend="aot_eager"))
    recipe = set_fields(recipe, ["network_config.dropout=0", "steps=2", "precision=bfloat16", *LEVELS])
    plain, compiled = (
        list(itertools.islice(train(dataclasses.replace(recipe, compile=flag)), 2)) for flag in (False, True)
    )
    assert compiled[-1].compiled is True
    assert [s.loss for s in compiled] == pytest.approx([s.loss for s in plain], rel=2e-2)
