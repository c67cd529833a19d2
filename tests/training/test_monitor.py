"""A monitor in a loop of one's own: right numbers, a small part of the time, and no trace."""

import copy
import math
import warnings
from contextlib import ExitStack, nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lipdiag
from lipdiag.data.dataset import Array
from lipdiag.diffusion.clock import Timesteps
from lipdiag.diffusion.exact import Gaussian
from lipdiag.diffusion.schedule import Linear
from lipdiag.errors import LipdiagWarning, UsageError
from lipdiag.results.source import open_source
from lipdiag.training import monitor
from lipdiag.training.monitor import Monitor
from lipdiag.watching import budget
from lipdiag.watching.panel import Panel, Reading, Seen, numbers, observe

DATA = torch.linspace(-1, 1, 32 * 16).reshape(32, 1, 4, 4)
TOLD = {"schedule": "linear", "parameterization": "eps", "clock": "timesteps(1000)"}
SMALL = Panel(timesteps=(0, 100, 900), draws=4)


class Net(nn.Module):
    """With dropout, which draws, and with statistics that a forward pass in training mode changes."""

    def __init__(self):
        super().__init__()
        self.inside, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.drop, self.out = nn.Dropout(0.2), nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x, timestep):
        x = x + 0 * torch.rand(())  # it draws a random number, whatever its mode
        h = self.norm(self.inside(x)) * (1 + timestep / 1000)[:, None, None, None].to(x.dtype)
        return self.out(self.drop(torch.tanh(h)))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def train(network, steps=6, watch=None, autocast=False, **told):
    """A plain loop; what it leaves of the network, the optimiser's input and the random numbers."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    torch.manual_seed(1)
    losses = []
    for step in range(1, steps + 1):
        x, t = torch.randn(8, 1, 4, 4), torch.randint(1000, (8,))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = (network(x, t) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if watch is not None:
            watch(step, loss=loss, **told)
        optimizer.step()
        losses.append(loss.item())
    gradients = [weight.grad.clone() for weight in network.parameters()]
    return losses, gradients, [*network.state_dict().values()], torch.get_rng_state()


def same(a, b) -> bool:
    return a[0] == b[0] and all(
        torch.equal(x, y) for x, y in zip([*a[1], *a[2], a[3]], [*b[1], *b[2], b[3]], strict=True)
    )


def test_the_numbers_are_those_of_closed_forms():
    """Of normal data the exact model errs by alpha^2 v / (alpha^2 v + sigma^2), and its Jacobian is a multiple of 1."""
    v, data = 0.25, Array("normal", np.random.default_rng(0).normal(0, 0.5, (4000, 4)).astype(np.float32), (4,))
    seen = observe(Gaussian(torch.zeros(4), torch.full((4,), v), Linear(), Timesteps(1000)), data, Panel(draws=1000))
    alpha2 = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for reading in seen.readings:
        a, s = alpha2[reading.timestep], 1 - alpha2[reading.timestep]
        assert abs(reading.loss - a * v / (a * v + s)) < 5 * reading.loss_standard_error
        assert math.isnan(reading.spectral_norm) == (reading.timestep != 100)
    a, s = alpha2[100], 1 - alpha2[100]
    (norm,) = [r for r in seen.readings if r.timestep == 100]
    assert norm.spectral_norm == pytest.approx(math.sqrt(s) / (a * v + s), rel=1e-5)
    assert norm.spectral_norm <= norm.spectral_norm_upper <= 1.05 * norm.spectral_norm
    assert numbers(seen)["loss/500"] == seen.readings[-2].loss
    assert "jump" not in numbers(seen)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_training_with_a_monitor_is_the_training_without(autocast):
    watched, plain = net(), net()
    hooks = [network.register_forward_hook(lambda *_: None) for network in (watched, plain)]
    watched.out.eval()  # a part that its user keeps still
    plain.out.eval()
    switches = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
    )
    before = [(m.training, dict(m._forward_hooks), dict(m._backward_hooks), set(vars(m))) for m in watched.modules()]
    results = []
    watch = Monitor(watched, DATA, 2, SMALL, on_result=lambda *told: results.append(told), share=1, **TOLD)
    assert same(train(watched, 6, watch, autocast), train(plain, 6, None, autocast))
    assert [step for step, _ in results] == [2, 4, 6]
    assert results[0][1]["loss/100"] != results[1][1]["loss/100"]
    after = [(m.training, dict(m._forward_hooks), dict(m._backward_hooks), set(vars(m))) for m in watched.modules()]
    assert after == before
    assert all(weight.requires_grad for weight in watched.parameters())
    assert switches == (
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision(),
    )  # fmt: skip
    for hook in hooks:
        hook.remove()


def test_under_distributed_data_parallel_too(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        watched, plain = (nn.parallel.DistributedDataParallel(net()) for _ in range(2))
        results = []
        watch = Monitor(watched, DATA, 2, SMALL, on_result=lambda *told: results.append(told), share=1, **TOLD)
        assert same(train(watched, 6, watch), train(plain, 6))
        assert len(results) == 3
    finally:
        torch.distributed.destroy_process_group()


def test_of_several_processes_one_measures(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    watch = Monitor(net(), DATA, 1, SMALL, share=1, **TOLD)
    assert [watch(step) for step in (1, 2, 3)] == [None] * 3


def numbers_of(network, data=DATA, **told) -> dict[str, float]:
    watch = Monitor(network, data, 1, SMALL, share=1, **(told or TOLD))
    watch(1)
    return watch(2)


def test_frozen_compiled_and_half_precision_networks_and_predictors_have_the_same_numbers():
    expected = numbers_of(net())
    assert all(math.isfinite(value) for value in expected.values())
    assert numbers_of(net().requires_grad_(False).eval()) == expected
    assert numbers_of(torch.compile(net(), backend="eager")) == expected
    model = lipdiag.NetworkPredictor(
        net(), Linear(), lipdiag.diffusion.parameterization.eps, Timesteps(1000), (1, 4, 4)
    )
    watch = Monitor(model, DataLoader(TensorDataset(DATA), batch_size=5), 1, SMALL, share=1)
    watch(1)
    assert watch(2) == expected
    half = net().bfloat16()
    assert numbers_of(half) == numbers_of(copy.deepcopy(half).float())
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}


def test_a_network_that_accelerate_wraps_in_autocast_is_measured_as_it_is_written():
    accelerate = pytest.importorskip("accelerate")
    network = net()
    expected = numbers_of(network)
    prepared = accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(network)
    forward = prepared.forward
    assert numbers_of(prepared) == expected
    assert prepared.forward == forward


def test_a_network_that_shares_its_timesteps_tells_its_jumps():
    class Clocked(nn.Module):
        def forward(self, x, timestep):
            return x + (timestep / 1000)[:, None, None, None]

    found = numbers_of(lipdiag.share_timesteps(Clocked(), end=100, blocks=2), **TOLD)
    # between two blocks of 50 timesteps the answer moves by 50/1000 in each of 16 entries
    assert found["jump"] == pytest.approx(4 * 0.05, rel=1e-5)
    assert found["time_difference/0"] == 0


def test_the_folder_is_a_training_that_plot_draws(tmp_path):
    with Monitor(net(), DATA, 2, SMALL, tmp_path / "run", share=1, **TOLD) as watch:
        losses, *_ = train(watch.predictor.network, 7, watch, learning_rate=1e-2, gradient_norm=1.0)
    found = open_source(tmp_path / "run", "training")
    assert found["loss"].values == pytest.approx(losses)
    assert found["measured"].values.tolist() == [2, 4, 6]
    picture = lipdiag.plot(found, figure="training")
    assert {row["variable"] for row in picture.rows} >= {"loss", "time_difference"}
    again = Monitor(net(), DATA, 2, SMALL, tmp_path / "run", share=1, **TOLD)  # gone on with from step 5
    for step in (6, 7, 8):
        again(step, loss=0.5, learning_rate=0.1, gradient_norm=1.0)
    again.close()
    found = open_source(tmp_path / "run", "training")
    assert found["step"].values.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found["measured"].values.tolist() == [2, 4, 8]


def test_a_loop_that_tells_nothing_has_the_loss_of_the_panel_in_its_log(tmp_path):
    with Monitor(net(), DATA, 2, SMALL, tmp_path, share=1, **TOLD) as watch:
        found = [watch(step) for step in range(1, 6)]
    mean = [sum(seen[f"loss/{k}"] for k in SMALL.timesteps) / 3 for seen in found if seen]
    found = open_source(tmp_path, "training")
    assert found["loss"].values.tolist() == pytest.approx(mean)
    drawn = lipdiag.plot([found], figure="training")
    assert {row["variable"] for row in drawn.rows} == {"loss", "time_difference"}


@pytest.mark.parametrize(("step_seconds", "panel_seconds"), [(0.1, 2.0), (0.01, 30.0), (1.0, 0.5)])
def test_panels_take_at_most_a_hundredth_of_the_time_and_it_is_said(monkeypatch, capsys, step_seconds, panel_seconds):
    """On a clock of the test's own, at every moment; what is asked for is held where it costs little enough.

    What is measured at the start, before anything is known, comes on top and is said.
    """
    now = [0.0]

    def look(predictor, data, panel):
        now[0] += panel_seconds * len(panel.timesteps) * panel.draws / (3 * 4)
        return Seen([Reading(0, 1.0, 0.1, 1.0, 0.1)], [])

    for place in (budget, monitor):
        monkeypatch.setattr(place.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(monitor, "observe", look)
    watch = Monitor(net(), DATA, 100, SMALL, **TOLD)
    steps = 40_000
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(1, steps + 1):
            now[0] += step_seconds
            watch(step)
            if step % 100 == 0:
                assert watch.budget.spent <= 0.01 * watch.budget.trained + 1e-9
    afforded = min(steps / 100, 0.01 * steps * step_seconds / panel_seconds)
    assert 0.5 * afforded - 1 <= watch.budget.panels <= afforded
    slow = panel_seconds > 0.01 * 100 * step_seconds
    assert len(caught) == slow
    if slow:
        assert "instead of 100, so that at most 1 % of the training goes into it" in str(caught[0].message)
    none = "no panel was measured: the last step was 40000, and the first panel is due at step"
    with nullcontext() if watch.budget.panels else pytest.warns(LipdiagWarning, match=none):
        watch.close()
    said = capsys.readouterr().err
    assert "panels took" in said
    assert "to begin with" in said


@pytest.mark.parametrize(("first", "measured"), [(0, [3, 6, 9]), (1, [3, 6, 9]), (5, [6, 9]), (6, [9])])
def test_panels_come_at_the_multiples_of_every(first, measured):
    """Also in a training that goes on from some step; afterwards it is known what they took."""
    with Monitor(net(), DATA, 3, SMALL, share=1, **TOLD) as watch:
        assert [step for step in range(first, 11) if watch(step) is not None] == measured
    assert watch.budget.panels == len(measured)


def test_what_fails_is_a_warning_in_a_sentence_and_the_training_goes_on(tmp_path):
    def away(step, numbers):
        raise ConnectionError("the tracker\nis away")

    watched, plain = net(), net()
    watch = Monitor(watched, DATA, 2, SMALL, on_result=away, share=1, **TOLD)
    with pytest.warns(LipdiagWarning, match="on_result failed with ConnectionError.*away; the training goes on"):
        left = train(watched, 6, watch)
    assert same(left, train(plain, 6))
    assert watch.budget.panels == 3

    class Broken(Net):
        def forward(self, x, timestep):
            if not self.training:
                raise RuntimeError("not in eval mode")
            return super().forward(x, timestep)

    network = Broken()
    with pytest.warns(LipdiagWarning, match="the panel failed with .*not in eval mode; the training goes on"):
        train(network, 4, Monitor(network, DATA, 2, SMALL, share=1, **TOLD))
    (tmp_path / "file").write_text("")
    with pytest.warns(LipdiagWarning, match="the panel failed with StorageError"):
        train(watched, 4, Monitor(watched, DATA, 2, SMALL, tmp_path / "file" / "run", share=1, **TOLD))
    assert all(part.training for part in watched.modules())


def test_a_sharded_network_is_not_monitored():
    class FullyShardedDataParallel(nn.Module):
        pass

    with pytest.warns(LipdiagWarning, match="is sharded over processes"):
        watch = Monitor(FullyShardedDataParallel(), DATA, 1, **TOLD)
    assert watch(1) is watch(2) is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"every": 0}, "at least 1 step"),
        ({"share": 0}, "a share in"),
        ({"schedule": None}, r"Net in memory does not tell its schedule: give schedule='linear'"),
        ({"schedule": "line"}, "got 'line'"),
        ({"speed": 3}, "speed cannot be said"),
    ],
)
def test_refusals(words, sentence):
    with pytest.raises(UsageError, match=sentence):
        Monitor(net(), DATA, **{**TOLD, **words})
    with ExitStack() as stack:
        watch = stack.enter_context(Monitor(net(), DATA, **TOLD))
        with pytest.raises(UsageError, match="a step has no speed"):
            watch(1, speed=2)
