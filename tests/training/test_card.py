"""The model card, whose numbers are compared with closed forms."""

import dataclasses
import math

import pytest
import torch

from lipdiag.data.dataset import Array, dataset
from lipdiag.diffusion.clock import Shared, Timesteps
from lipdiag.diffusion.exact import Empirical
from lipdiag.diffusion.schedule import Linear
from lipdiag.training.card import FEWEST_DRAWS, affordable_draws, command, limit, model_card, table
from lipdiag.training.estimate import looked_at
from lipdiag.training.loop import build
from lipdiag.training.recipe import RECIPES, set_fields
from lipdiag.watching.difference import DRAWS, difference, drawn


def point(clock=None) -> tuple[Empirical, Array]:
    """A single point of the data and its exact predictor, eps = (x - alpha x0) / sigma."""
    x0 = torch.linspace(-1, 1, 9, dtype=torch.float64)[None]
    return Empirical(x0, Linear(), clock or Timesteps(1000)), Array("point", x0.float().numpy(), (9,))


@pytest.mark.parametrize("k", [0, 1, 50])
def test_k_is_that_of_a_single_point(k):
    """For one point x = alpha x0 + sigma eps gives (alpha - alpha') x0 / sigma' + (sigma / sigma' - 1) eps, exactly."""
    predictor, data = point()
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    square = torch.cumprod(1 - beta, 0)[k : k + 2]
    alpha, sigma = square.sqrt(), (1 - square).sqrt()
    generator = torch.Generator().manual_seed(0)
    torch.randint(1, (256,), generator=generator)
    noise = torch.randn(256, 9, generator=generator).double()
    exact = (alpha[0] - alpha[1]) * data[0].double() / sigma[1] + (sigma[0] / sigma[1] - 1) * noise
    mean, error, *_ = difference(predictor, *drawn(data, DRAWS), k)[1:]
    assert mean == pytest.approx(exact.norm(dim=1).mean().item(), rel=1e-5)
    assert error == pytest.approx(exact.norm(dim=1).std().item() / 16, rel=1e-4)


def test_the_limit_is_the_one_of_a_point():
    predictor, _ = point()
    exact = 3 * (1 - math.sqrt(1e-4 / (1 - (1 - 1e-4) * (1 - (1e-4 + 0.0199 / 999)))))
    assert limit(predictor) == f" ({exact:.2f} for k = 0)"


def test_edges_of_blocks_are_in_the_table_and_only_there_does_the_output_move():
    predictor, data = point(Shared(Timesteps(1000), 20.0, 2))
    rows = [line.split("|")[1:3] for line in table(predictor, data).splitlines()[2:-2]]
    values = {name.strip(): float(value) for name, value in rows}
    assert values["0"] == values["5"] == 0
    assert values["9 (edge)"] > 0
    assert values["19 (edge)"] > 0


def test_the_command_spells_every_difference_from_the_named_recipe():
    digits = RECIPES["digits"]
    etsdm = dataclasses.replace(digits, clock="shared(timesteps(1000), 100, 5)")
    assert command(digits) == "lipdiag train --recipe digits --out DIR"
    assert command(etsdm) == "lipdiag train --recipe digits --etsdm --out DIR"
    other = dataclasses.replace(etsdm, clock="shared(timesteps(1000), 50, 2)", steps=7, data="x.npy")
    assert command(other) == "lipdiag train --recipe digits --etsdm 50,2 --set 'data=x.npy' --set 'steps=7' --out DIR"
    settings = [word.strip("'") for word in command(other).split() if "=" in word]
    assert dataclasses.replace(set_fields(digits, settings), clock=other.clock) == other


def test_the_k_of_a_card_is_in_float32_and_nothing_is_left_changed():
    predictor, data = point()
    seen, real = set(), predictor.forward
    predictor.forward = lambda *args: (seen.add(precision()), real(*args))[1]
    before = precision()
    assert before[0] == "tf32", "what torch does by itself on a card"
    table(predictor, data, FEWEST_DRAWS)
    assert seen == {("ieee", False, True)}
    assert precision() == before


def precision() -> tuple[str, bool, bool]:
    """What a card's convolutions are told."""
    cudnn = torch.backends.cudnn
    return cudnn.conv.fp32_precision, cudnn.benchmark, cudnn.deterministic


def test_the_card_says_what_is_stored(recipe):
    card = model_card(recipe, build(recipe).eval(), {"loss": 0.125}, dataset("digits"))
    for words in ("license: apache-2.0", "0.12500", recipe.schedule, "CC BY 4.0", "E. Alpaydin", "| 500 |"):
        assert words in card


def test_the_table_takes_a_tenth_of_a_short_training_and_all_its_draws_after_a_long_one(recipe):
    for steps, batch, draws in ((1, 1, FEWEST_DRAWS), (6000, 64, DRAWS), (1000, 22, 100)):
        tried = dataclasses.replace(recipe, steps=steps, batch=batch)
        assert affordable_draws(tried) == draws
        predictor, told = build(tried).eval(), []
        predictor.network.register_forward_pre_hook(lambda module, args, told=told: told.append(len(args[0])))
        if draws < DRAWS:
            assert f"over {draws} draws" in model_card(tried, predictor, {"loss": 0.5}, dataset("digits"))
            assert sum(told) == looked_at(tried, draws) == 2 * draws * 11
