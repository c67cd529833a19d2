"""The training loop, against closed forms of its averages and rates, and against itself started again."""

import dataclasses
import itertools
import math

import pytest
import torch

from lipdiag.data.dataset import dataset
from lipdiag.errors import NonFiniteError, RunError, UsageError
from lipdiag.training import learner, loop
from lipdiag.training.batch import draw
from lipdiag.training.loop import LONGEST, Pace, build, learning_rate, train
from lipdiag.training.manner import Manner
from lipdiag.training.objective import loss
from lipdiag.training.recipe import set_fields


def weights(state) -> torch.Tensor:
    """All weights of a state, as they are and averaged, as one vector."""
    both = itertools.chain(state.predictor.network.parameters(), state.ema.network.parameters())
    return torch.cat([weight.detach().flatten() for weight in both])


def twin(recipe):
    """The recipe's E-TSDM model."""
    return dataclasses.replace(recipe, clock="shared(timesteps(1000), 100, 5)")


def test_a_second_run_has_the_same_bits_whatever_the_callers_random_state(recipe):
    torch.manual_seed(1)
    first = [(state.loss, weights(state)) for state in train(recipe)]
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = [(state.loss, weights(state)) for state in train(recipe)]
    assert torch.equal(torch.get_rng_state(), before), "training took the caller's random numbers"
    for (a, u), (b, v) in zip(first, second, strict=True):
        assert a == b
        assert torch.equal(u, v)
    (other,) = itertools.islice(train(dataclasses.replace(recipe, seed=4)), 1)
    assert other.loss != first[0][0]


def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(recipe, device):
    *_, whole = train(recipe, device=device, every=(3,))
    snapshot = next(state.snapshot() for state in train(recipe, device=device, every=(3,)) if state.step == 3)
    *_, resumed = train(recipe, device=device, snapshot=snapshot)
    assert (resumed.step, resumed.loss) == (whole.step, whole.loss)
    assert torch.equal(weights(resumed), weights(whole))


def test_a_snapshot_of_another_model_is_refused(recipe):
    (state,) = itertools.islice(train(recipe), 1)
    other = set_fields(recipe, ["network_config.block_out_channels=[16]"])
    with pytest.raises(RunError, match="another model"):
        next(train(other, snapshot=state.snapshot()))


def test_the_average_has_its_closed_form(recipe):
    # ema_n = w_0 prod_k d_k + sum_j (1 - d_j) prod_(k > j) d_k w_j, with d_k = min(decay, (1 + k) / (10 + k))
    def flat(predictor):
        return torch.cat([weight.detach().double().flatten() for weight in predictor.network.parameters()])

    recipe = dataclasses.replace(recipe, ema_decay=0.3)
    initial = flat(build(recipe))
    history, mean = [], torch.zeros(0)
    for state in train(recipe):
        history.append(flat(state.predictor))
        mean = flat(state.ema)
    decay = [min(0.3, (1 + k) / (10 + k)) for k in range(recipe.steps)]
    expected = math.prod(decay) * initial
    for j, w in enumerate(history):
        expected += (1 - decay[j]) * math.prod(decay[j + 1 :]) * w
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-6)


def test_the_learning_rate_rises_and_falls_as_stated(recipe):
    recipe = dataclasses.replace(recipe, steps=100, warmup=10, learning_rate=0.5)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[4] == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 0.04)) * 0.5)
    assert rates[50] == pytest.approx(0.25)
    assert rates[99] == pytest.approx(0.25 * (1 - math.cos(math.pi / 100)))
    assert rates[9] == max(rates)
    for step, state in enumerate(train(dataclasses.replace(recipe, steps=2))):
        assert state.rows[-1].learning_rate == state.optimizer.param_groups[0]["lr"]
        assert state.step == step + 1


def test_the_twins_differ_in_the_clock_alone(recipe):
    data = dataset("digits")
    ddpm, etsdm = build(recipe), build(twin(recipe))
    for a, b in zip(ddpm.parameters(), etsdm.parameters(), strict=True):
        assert torch.equal(a, b)
    told: dict[str, list[torch.Tensor]] = {"x": [], "timestep": []}

    def listen(module, args):
        told["x"].append(args[0])
        told["timestep"].append(args[1])

    recipe = dataclasses.replace(recipe, batch=200)
    for predictor in (ddpm, etsdm):
        predictor.network.register_forward_pre_hook(listen)
        assert draw(recipe, data, predictor.clock.base, 5).t.equal(draw(recipe, data, ddpm.clock, 5).t)
        loss(predictor, draw(recipe, data, predictor.clock.base, 5))
    (x, y), (k, shared) = told["x"], told["timestep"]
    assert torch.equal(x, y), "the noise level was shared"
    assert torch.equal(shared, torch.where(k < 100, (k / 20).floor() * 20, k))
    assert (k < 100).any()


def test_a_batch_is_data_noise_and_every_timestep_alike(recipe):
    # 8000 timesteps in 20 bins: chi-square with 19 degrees of freedom exceeds 49.6 with probability 1.6e-4.
    recipe, data = dataclasses.replace(recipe, batch=8000), dataset("digits")
    x0, noise, t, _ = draw(recipe, data, build(recipe).clock, 0)
    k = t * 1000 - 1
    torch.testing.assert_close(k, k.round(), rtol=0, atol=1e-9)
    assert 0 <= k.min().round() <= k.max().round() <= 999
    counts = torch.histc(k, 20, -0.5, 999.5)
    assert ((counts - 400) ** 2 / 400).sum() < 49.6
    assert abs(noise.double().var().item() - 1) < 5 * math.sqrt(2 / noise.numel())
    every = torch.stack([data[i] for i in range(len(data))])
    assert abs((x0.mean() - every.mean()).item()) < 5 * (every.mean((1, 2, 3)).std() / math.sqrt(8000)).item()
    other = draw(recipe, data, build(recipe).clock, 1)
    assert not torch.equal(noise, other.noise)


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "velocity", "score"])
def test_the_loss_is_the_squared_error_of_what_the_network_predicts(recipe, kind):
    """Against the textbook formula of each prediction, for a network that returns a constant."""
    recipe = dataclasses.replace(recipe, parameterization=kind, batch=50)
    batch = draw(recipe, dataset("digits"), build(recipe).clock, 0)
    predictor = build(recipe)
    with torch.no_grad():
        for name, weight in predictor.network.named_parameters():
            if name.startswith("conv_out"):
                weight.fill_(0.25 if name.endswith("bias") else 0)
    t = batch.t.view(-1, 1, 1, 1)
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    square = torch.cumprod(1 - beta, 0)[(t * 1000 - 1).round().long()]
    alpha, sigma = square.sqrt(), (1 - square).sqrt()
    rates = predictor.schedule.rates(t)
    target = {
        "eps": batch.noise,
        "x0": batch.x0,
        "v": alpha * batch.noise - sigma * batch.x0,
        "velocity": rates[0] * batch.x0 + rates[1] * batch.noise,
        "score": -batch.noise / sigma,
    }[kind]
    expected = (0.25 - target).square().mean()
    assert loss(predictor, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_prediction_without_signal_is_learned_too(recipe):
    # At zero terminal SNR the noise says nothing of v, so v must not be made of it.
    recipe = set_fields(recipe, ["schedule=zero_terminal_snr(linear())", "parameterization=v"])
    batch = draw(recipe, dataset("digits"), build(recipe).clock, 0)._replace(t=torch.ones(4, dtype=torch.float64))
    assert loss(build(recipe), batch).isfinite()


def test_continuous_clocks_are_trained_at_times_between_the_ends(recipe):
    recipe = dataclasses.replace(recipe, schedule="straight()", parameterization="velocity", clock="unit()", batch=1000)
    t = draw(recipe, dataset("digits"), build(recipe).clock, 0).t
    assert 0 < t.min() < 0.02  # each fails with probability 2e-9
    assert 0.98 < t.max() < 1
    *_, last = train(dataclasses.replace(recipe, batch=4))
    assert math.isfinite(last.loss)


def test_the_loss_falls(recipe):
    recipe = set_fields(recipe, ["steps=40", "batch=16", "learning_rate=2e-2", "network_config.dropout=0"])
    losses = [state.loss for state in train(recipe)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_training_that_diverges_says_so(recipe):
    from lipdiag.data.dataset import Data

    class Broken(Data):
        name, shape, fingerprint = "broken", (1, 8, 8), ""

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return torch.full((1, 8, 8), torch.inf)

    with pytest.raises(NonFiniteError, match="step 1"):
        next(train(recipe, Broken()))


@pytest.mark.parametrize(
    "setting", ["network=Transformer", "network_config.layers=3", "schedule=linea()", "clock=linear()", "data=nowhere"]
)
def test_a_recipe_that_cannot_be_built_is_a_usage_error(recipe, setting):
    with pytest.raises(UsageError):
        next(train(set_fields(recipe, [setting])))


def one_look(monkeypatch, patience: float = 1e9) -> None:
    """Let the steps be looked at as on a card, whose patience never ends here."""
    monkeypatch.setattr(loop, "manner", lambda *told: Manner("float32", False, patience))


def test_steps_that_are_looked_at_together_are_those_that_were_looked_at_one_by_one(recipe, monkeypatch):
    recipe = dataclasses.replace(recipe, steps=11)
    alone = list(train(recipe))
    rows, last = [state.rows[0] for state in alone], weights(alone[-1])
    one_look(monkeypatch)
    states = [(state.step, state.rows) for state in train(recipe, every=(4,))]
    assert [step for step, _ in states] == [1, 4, 8, 11], "after the first one, where asked for, and at the end"
    assert [row for _, found in states for row in found] == rows
    *_, end = train(recipe)
    assert torch.equal(weights(end), last)


def test_the_step_at_which_it_diverged_is_named_when_it_is_seen(recipe, monkeypatch):
    calls = []

    def broken(*told):
        calls.append(1)
        return loss(*told) * (torch.nan if len(calls) >= 4 else 1)

    monkeypatch.setattr(learner, "loss", broken)
    one_look(monkeypatch)
    states = train(recipe)
    first = next(states)
    assert (first.step, first.holds) == (1, True)
    with pytest.raises(NonFiniteError, match="step 4 "):
        next(states)
    assert len(calls) == 6
    assert not first.holds, "the weights have gone on"


def test_looks_come_as_often_as_patience_wants():
    pace = Pace(1.0, (1000,))
    assert pace.due(1, 1)
    pace.look(20.0, 1)  # which loads libraries, and is not its pace
    assert pace.length == 1
    pace.look(0.1, 1)
    assert (pace.length, pace.seconds) == (10, 0.1)
    assert not pace.due(11, 9)
    assert pace.due(12, 10)
    pace.look(0.5, 10)
    assert (pace.length, pace.seconds) == (20, 0.05)
    pace.look(1e-6, 20)
    assert pace.length == LONGEST
    assert pace.due(2000, 1)
    pace.start(anew=True)
    assert (pace.length, pace.looks, pace.seconds) == (1, 0, math.inf)
    assert Pace(0.0).due(7, 1)
