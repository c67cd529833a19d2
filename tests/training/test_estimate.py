"""What recipes cost, against published sizes and against the passes themselves."""

import dataclasses

import pytest
import torch

from lipdiag.training.estimate import estimate, kept_for_backward, parameters
from lipdiag.training.loop import build
from lipdiag.training.recipe import RECIPES, set_fields

PUBLISHED = {"cifar10": 35.7e6, "full256": 113.7e6}  # of Ho, Jain & Abbeel, 2020, as their checkpoints have them

CONVOLUTIONAL = [
    'network_config.down_block_types=["DownBlock2D"]',
    'network_config.up_block_types=["UpBlock2D"]',
    "network_config.add_attention=false",
]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_and_its_network_keeps_the_shape(name):
    recipe = RECIPES[name]
    count = parameters(recipe)
    if name in PUBLISHED:
        assert count == pytest.approx(PUBLISHED[name], rel=0.01)
    with torch.device("meta"):
        network = build(recipe).network
        assert network(torch.zeros(2, *recipe.shape), torch.zeros(2)).sample.shape == (2, *recipe.shape)


@pytest.mark.parametrize("name", ["mnist", "emoji"])
def test_recipes_of_middling_size_are_trained_on_by_one_step(name, tmp_path):
    import numpy as np

    from lipdiag.training.loop import train

    recipe = set_fields(RECIPES[name], ["batch=2"])
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (3, *recipe.shape), dtype=np.uint8))
    state = next(train(dataclasses.replace(recipe, data=str(tmp_path / "x.npy"))))
    assert state.loss == pytest.approx(1, abs=0.5)  # of a network whose last layer has not learned anything


def test_counts_on_tensors_without_contents_are_those_of_real_ones(recipe):
    recipe = set_fields(recipe, CONVOLUTIONAL)
    for samples in (1, 3):
        assert kept_for_backward(recipe, "meta", samples) == kept_for_backward(recipe, "cpu", samples)


def test_operations_are_those_of_a_convolution_counted_by_hand(recipe):
    recipe = set_fields(recipe, CONVOLUTIONAL)
    expected = 0
    with torch.device("meta"):
        network = build(recipe).network

        def count(module, args, output):
            nonlocal expected
            per_output = module.weight[0].numel()  # one multiplication and one addition each
            expected += 2 * per_output * output.numel()

        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(count)
        network(torch.zeros(1, *recipe.shape), torch.zeros(1))
    assert kept_for_backward(recipe)[1] == expected


def test_an_estimate_adds_up(recipe):
    facts = estimate(dataclasses.replace(recipe, batch=64))
    assert facts["parameters"] == sum(weight.numel() for weight in build(recipe).parameters())
    assert facts["memory_gib"] == pytest.approx(facts["weights_gib"] + facts["activations_gib"], rel=0.1)
    assert facts["weights_gib"] == pytest.approx(20 * facts["parameters"] / 2**30, rel=0.05)
    assert facts["hours"] == pytest.approx(facts["step_seconds"] * recipe.steps / 3600, rel=0.1)
    assert estimate(RECIPES["full256"])["step_seconds"] is None
    whole, pieces = (estimate(dataclasses.replace(RECIPES["cifar10"], accumulate=n)) for n in (1, 4))
    assert pieces["activations_gib"] == pytest.approx(whole["activations_gib"] / 4, rel=0.05)
