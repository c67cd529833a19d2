"""What happens inside a network, of one whose modules' derivatives are had by finite differences in float64."""

import numpy as np
import pytest
import torch
from torch import nn

import lipdiag
from lipdiag.design.plan import Plan
from lipdiag.diffusion.clock import Clock, Shared, Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Linear
from lipdiag.errors import CheckpointError, RunError
from lipdiag.findings.modules import Modules, modules
from lipdiag.quantities import draw
from lipdiag.quantities.modules import listed, verify_method
from lipdiag.results.run import read

SHAPE = (2, 4, 4)
DATA = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype("float32").astype(float)
TIMES = (3.0, 300.0)
BOTH = ("modules", "modules_x")


class Block(nn.Module):
    """A residual block that is told the time, with an activation that writes over its input."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv1, self.conv2 = nn.GroupNorm(1, 2), nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.time, self.act = nn.Linear(3, 4), nn.SiLU(inplace=True)

    def forward(self, x, e):
        h = self.conv1(self.norm(x)) + self.time(e)[:, :, None, None]
        return x + self.conv2(self.act(h))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.first, self.second = nn.Linear(1, 3), Block(), Block()
        self.unused = nn.Linear(2, 2)

    def forward(self, x, timestep):
        e = torch.sin(self.embed(torch.log1p(timestep)[:, None].to(x.dtype)))
        return self.second(self.first(x, e), e=e)


def small() -> Small:
    torch.manual_seed(0)
    return Small().double()


def measured(network: nn.Module, clock: Clock = Timesteps(), quantities=BOTH, draws: int = 2, device="cpu"):  # noqa: B008
    model = NetworkPredictor(network, Linear(), eps, clock, SHAPE)
    plan = Plan(timesteps=TIMES, draws=draws, dtype="float64", quantities=quantities, seed=0)
    return lipdiag.measure(model, DATA, plan, progress=False, probe=False, device=str(device))


def inside(network: nn.Module, **options) -> dict[str, Modules]:
    return {m.of: m for m in modules(read([measured(network, **options)])[0])}


def answers(network: nn.Module, x, timestep) -> dict[str, list[torch.Tensor]]:
    """What every module is given and returns, copied before anything is written over."""
    kept: dict[str, list[torch.Tensor]] = {}
    handles = []
    for name, module in network.named_modules():
        name = name or "whole network"

        def before(_, args, kwargs, name=name):
            kept[f"{name} input"] = [z.detach().clone() for z in (*args, *kwargs.values())]

        def after(_, args, output, name=name):
            kept[f"{name} output"] = [output.detach().clone()]

        handles += [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after),
        ]
    network(x, timestep)
    for handle in handles:
        handle.remove()
    return kept


def norm(parts) -> float:
    return float(torch.cat([z.flatten() for z in parts]).norm())


@pytest.mark.parametrize("of", ["the timestep", "x"])
def test_derivatives_of_every_module_are_those_of_finite_differences(of, device):
    network = small()
    run = measured(network, device=device)
    m = {found.of: found for found in modules(read([run])[0])}[of]
    assert m.names == [
        "whole network", "embed", *(f"{b}{part}" for b in ("first", "second")
                                    for part in ("", ".norm", ".conv1", ".time", ".act", ".conv2")),
    ]  # fmt: skip
    h = 1e-5
    for i, k in enumerate(TIMES):
        alpha, sigma = Linear()(torch.tensor([(k + 1) / 1000], dtype=torch.float64))
        for d in range(2):
            x0 = torch.from_numpy(DATA[draw.data_index(0, d, 4)])[None]
            x = alpha * x0 + sigma * draw.noise(0, d, SHAPE)[None]
            v = draw.direction(0, "perturbation", d, 32).reshape(x.shape) if of == "x" else torch.zeros_like(x)
            step = h if of == "the timestep" else 0.0
            told = torch.tensor([k], dtype=torch.float64)
            later, earlier = answers(network, x + h * v, told + step), answers(network, x - h * v, told - step)
            here = answers(network, x, told)
            for j, name in enumerate(m.names):
                for side, values in (("input", m.input), ("output", m.output)):
                    both = zip(later[f"{name} {side}"], earlier[f"{name} {side}"], strict=True)
                    expected = norm([(a - b) / (2 * h) for a, b in both])
                    assert values[i, j, d] == pytest.approx(expected, rel=1e-6, abs=1e-9), (name, side)
                    size = m.values(f"module_{side}_norm")[i, j, d]
                    assert size == pytest.approx(norm(here[f"{name} {side}"]), rel=1e-10)


def test_a_layer_that_multiplies_by_thirty_is_named():
    for name in ("first.conv2", "second.conv1", "second.time"):
        network = small()
        with torch.no_grad():
            network.get_submodule(name).weight *= 30
        found = inside(network)
        for m in found.values():
            if m.of == "x" and name.endswith("time"):
                continue  # which x does not pass
            assert m.names[m.amplifier] == name
            words, grown = m.sentence()
            assert f"a change of {m.of} grows most in {name}, by a factor of {grown} draws (geometric mean " in words
            assert m.when in words
            assert all(f"{k:g}" in m.when for k in m.run.timestep)
            assert grown.low <= grown.value <= grown.high


@pytest.mark.parametrize("name", ["embed", "first.time", "second.conv2"])
def test_where_a_change_dies_is_named(name):
    network = small()
    assert all(not m.graves for m in inside(network).values())
    with torch.no_grad():
        network.get_submodule(name).weight.zero_()
    found = inside(network)
    assert found["the timestep"].graves == [name]
    assert found["x"].graves == ([name] if name == "second.conv2" else [])
    if name == "second.conv2":
        assert found["x"].sentence()[0].endswith("; it dies in second.conv2.")


def test_a_shared_timestep_does_not_hide_the_network():
    """Inside a block nothing moves with t, and yet the network answers to what it is told: 3 as 0 here."""
    told = inside(small(), clock=Shared(Timesteps(), 100, 5), quantities=("modules",))["the timestep"].output
    assert (told > 0)[:, 0].all()


def test_a_model_without_modules_is_refused_in_a_sentence():
    exact = Gaussian(torch.zeros(4), torch.ones(4), Linear(), Timesteps())
    with pytest.raises(CheckpointError, match="is a Gaussian and no network of modules; leave quantities='modules'"):
        lipdiag.measure(exact, None, Plan(timesteps=TIMES, draws=1, quantities=("modules",)), progress=False)


def test_a_network_without_forward_mode_is_refused_in_a_sentence():
    verify_method({"loss"}, "double backward")
    with pytest.raises(CheckpointError, match="takes forward mode, and it has double backward alone; leave --quantity"):
        verify_method({"loss", "modules_x"}, "double backward")


def test_a_network_is_listened_to_once_and_its_hooks_are_gone():
    network = small()
    model = NetworkPredictor(network, Linear(), eps, Timesteps(), SHAPE)
    first = listed(model)
    network.forward = None  # would fail if it were called
    assert listed(model) == first
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_run_that_does_not_name_its_modules_is_damaged():
    run = measured(small(), quantities=("modules",))
    run["module_output_derivative"].attrs["modules"] = ["one"]
    with pytest.raises(RunError, match="does not name its modules; measure it again"):
        modules(read([run])[0])[0].sentence()


def test_every_statement_stands_in_the_report_and_in_the_terminal():
    from lipdiag.pages.page import page
    from lipdiag.pages.tables import table
    from lipdiag.pages.verdict import verdicts

    run = measured(small())
    said = [verdict.words for verdict in verdicts(read([run])[0])]
    assert sum("Inside the network a change of" in words for words in said) == 2
    assert all(words in page([run]) for words in said)
    lines = table([run]).splitlines()
    assert sum("Inside the network a change of" in line for line in lines) == 2
    assert "timestep" not in [line.strip() for line in lines]  # no axis without a number on it
    assert max(map(len, lines)) <= 80
