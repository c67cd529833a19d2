"""What a step is trained on, against finite differences, textbook formulas and the same thing done otherwise."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from lipdiag.data.dataset import dataset
from lipdiag.diffusion.parameterization import eps
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.errors import UsageError
from lipdiag.training.batch import draw
from lipdiag.training.loop import build, train
from lipdiag.training.objective import derivative_in_time, loss
from lipdiag.training.recipe import set_fields


def double(recipe) -> tuple[NetworkPredictor, torch.Tensor, torch.Tensor]:
    """The recipe's first model in float64 with larger weights, and where to look at it."""
    predictor = build(set_fields(recipe, ["network_config.dropout=0"])).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in predictor.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(5, 1, 8, 8, generator=generator, dtype=torch.float64)
    return predictor, x, torch.tensor([2, 4, 9, 21, 61], dtype=torch.float64) / 1000


def test_the_derivative_in_time_is_that_of_differences_and_so_is_its_gradient(recipe):
    predictor, x, t = double(recipe)
    # Fourth-order differences at steps that float32 holds exactly: the network's embedding of time is in float32.
    h = 1 / 8 / 1000
    with torch.no_grad():
        near = predictor(x, t + h) - predictor(x, t - h)
        far = predictor(x, t + 2 * h) - predictor(x, t - 2 * h)
    expected = (8 * near - far) / (12 / 8)
    value, derivative = derivative_in_time(predictor, x, t)
    torch.testing.assert_close(derivative.detach(), expected, rtol=0, atol=1e-3 * expected.abs().max().item())
    torch.testing.assert_close(value.detach(), predictor(x, t).detach())
    derivative.square().mean().backward()
    generator = torch.Generator().manual_seed(1)
    for weight in list(predictor.parameters())[::12]:
        v = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        slopes = (weight.grad * v).sum().item() if weight.grad is not None else 0.0
        found = []
        for side in (1e-5, -1e-5):
            with torch.no_grad():
                weight.add_(side * v)
                found.append(derivative_in_time(predictor, x, t)[1].square().mean().item())
                weight.sub_(side * v)
        assert slopes == pytest.approx((found[0] - found[1]) / 2e-5, rel=1e-4, abs=1e-9)


def test_the_penalty_is_added_with_its_weight(recipe):
    predictor, _, _ = double(recipe)
    batch = draw(recipe, dataset("digits"), predictor.clock, 0)
    batch = batch._replace(x0=batch.x0.double(), noise=batch.noise.double())
    x = [c.view(-1, 1, 1, 1) for c in predictor.schedule(batch.t)]
    _, derivative = derivative_in_time(predictor, x[0] * batch.x0 + x[1] * batch.noise, batch.t)
    plain, penalised = loss(predictor, batch), loss(predictor, batch, 3.0)
    assert (penalised - plain).item() == pytest.approx(3 * derivative.square().mean().item(), rel=1e-9)


def test_the_penalty_lowers_the_derivative_of_a_trained_model(recipe):
    fields = ["steps=60", "batch=16", "learning_rate=1e-2", "network_config.dropout=0"]
    recipe = set_fields(recipe, fields)
    measured = []
    for penalty in (0.0, 1e4):
        *_, last = train(dataclasses.replace(recipe, penalty=penalty))
        batch = draw(dataclasses.replace(recipe, batch=64), dataset("digits"), last.predictor.clock, 0)
        h = 0.5 / 1000
        alpha, sigma = (c.float().view(-1, 1, 1, 1) for c in last.predictor.schedule(batch.t))
        x = alpha * batch.x0 + sigma * batch.noise
        with torch.no_grad():
            measured.append((last.ema(x, batch.t + h) - last.ema(x, batch.t - h)).square().mean().item())
    assert measured[1] < 0.2 * measured[0]


def test_masked_attention_is_refused_with_a_penalty():
    from lipdiag.training.objective import attention

    with pytest.raises(UsageError, match="penalty"):
        attention(*[torch.ones(1, 2, 3)] * 3, is_causal=True)


def test_a_schedule_that_starts_flat_and_a_clock_of_log_snr_are_trained(recipe):
    """The paper's other alternatives: alpha'(0) = 0, and a network that is told the log signal-to-noise ratio."""
    flat = set_fields(recipe, ["schedule=shifted_cosine(1)", "clock=unit(1000)"])
    zero = torch.full((1,), 1e-9, dtype=torch.float64)  # at 0 itself the other's sigma' is infinite
    assert build(flat).schedule.rates(zero)[0].abs().item() < 1e-8
    assert build(recipe).schedule.rates(zero)[0].item() < -0.04
    remapped = set_fields(recipe, ["clock=log_snr(linear(0.0001, 0.02, 1000))"])
    told = []
    for changed in (flat, remapped):
        predictor = build(changed)
        predictor.network.register_forward_pre_hook(lambda module, args: told.append(args[1]))
        batch = draw(changed, dataset("digits"), predictor.clock, 3)
        loss(predictor, batch).backward()
        *_, last = train(changed)
        assert np.isfinite(last.loss)
    # alpha = exp(-B/2) of the continuous linear schedule is within 2e-3 of the table's spline at these times.
    alpha, sigma = build(remapped).schedule(draw(remapped, dataset("digits"), build(remapped).clock, 3).t)
    torch.testing.assert_close(told[-1].double(), 2 * (alpha / sigma).log(), rtol=1e-5, atol=1e-5)


def test_pieces_of_a_batch_add_up(recipe):
    recipe = set_fields(recipe, ["network_config.dropout=0", "batch=8"])
    whole, pieces = (next(train(dataclasses.replace(recipe, accumulate=n))) for n in (1, 4))
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-5)
    assert pieces.rows[-1].gradient_norm == pytest.approx(whole.rows[-1].gradient_norm, rel=1e-5)
    for a, b in zip(whole.predictor.parameters(), pieces.predictor.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)
    with pytest.raises(UsageError, match="choose a batch that 3 divides"):
        next(train(dataclasses.replace(recipe, accumulate=3)))


def test_bfloat16_rounds_the_passes_and_not_the_weights(recipe):
    recipe = set_fields(recipe, ["network_config.dropout=0", "batch=32", "penalty=1"])
    (exact,), (rounded,) = (
        itertools.islice(train(dataclasses.replace(recipe, precision=name)), 1) for name in ("float32", "bfloat16")
    )
    assert rounded.loss != exact.loss
    assert rounded.loss == pytest.approx(exact.loss, rel=2e-2)  # bfloat16 has 8 bits
    assert {weight.dtype for weight in rounded.predictor.parameters()} == {torch.float32}


def test_mirroring_touches_half_of_the_samples_and_nothing_else(recipe):
    # 400 samples: outside 140..260 with probability 1e-9.
    recipe, data = dataclasses.replace(recipe, batch=400), dataset("digits")
    clock = build(recipe).clock
    plain = draw(recipe, data, clock, 0)
    mirrored = draw(dataclasses.replace(recipe, flip=True), data, clock, 0)
    assert torch.equal(plain.noise, mirrored.noise)
    assert torch.equal(plain.t, mirrored.t)
    same = (plain.x0 == mirrored.x0).flatten(1).all(1)
    back = (plain.x0.flip(-1) == mirrored.x0).flatten(1).all(1)
    assert (same | back).all()
    assert 140 < back.sum() < 260


def test_parts_of_a_batch_are_those_of_the_whole(recipe):
    data, clock = dataset("digits"), build(recipe).clock
    recipe = dataclasses.replace(recipe, batch=6, flip=True)
    whole = draw(recipe, data, clock, 2)
    parts = [draw(recipe, data, clock, 2, slice(start, start + 2)) for start in (0, 2, 4)]
    for i in range(3):
        assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])
    assert torch.equal(torch.cat([piece.t for piece in whole.pieces(3)]), whole.t)


def test_classes_are_told_where_the_network_takes_them(recipe, tmp_path):
    values = np.random.default_rng(0).standard_normal((7, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", images=values, labels=np.arange(7) % 3)
    recipe = set_fields(recipe, [f"data={tmp_path / 'x.npz'}", "network_config.num_class_embeds=3", "batch=5"])
    data, predictor = dataset(tmp_path / "x.npz"), build(recipe)
    told = []
    predictor.network.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs["class_labels"]), with_kwargs=True
    )
    batch = draw(recipe, data, predictor.clock, 0)
    loss(predictor, batch)
    expected = [next(i for i in range(7) if torch.equal(data[i], x)) % 3 for x in batch.x0]
    assert told[0].tolist() == expected
    *_, last = train(recipe)
    x, t = torch.zeros(2, 1, 8, 8), torch.full((2,), 0.5, dtype=torch.float64)
    with torch.no_grad():
        first = last.ema(x, t)
        second = NetworkPredictor(
            last.ema.network, last.ema.schedule, eps, last.ema.clock, (1, 8, 8), {"class_labels": torch.tensor([1])}
        )(x, t)
    assert not torch.equal(first, second)
    for few, words in ((2, "labels up to 2"), (3, "without labels")):
        with pytest.raises(UsageError, match=words):
            next(
                train(
                    set_fields(recipe, [f"network_config.num_class_embeds={few}"]),
                    data if few == 2 else dataset("digits"),
                )
            )


def test_a_table_and_its_clock_have_the_same_length(recipe):
    with pytest.raises(UsageError, match="500 timesteps"):
        build(set_fields(recipe, ["schedule=linear(0.0001, 0.02, 500)"]))
