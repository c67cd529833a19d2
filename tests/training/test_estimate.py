"""What recipes cost, against published sizes and against the passes themselves."""

import contextlib
import dataclasses

import pytest
import torch

from lipdiag.errors import UsageError
from lipdiag.training import estimate as module
from lipdiag.training.batch import classes
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
        told = {"class_labels": torch.zeros(2, dtype=torch.long)} if classes(recipe) else {}
        assert network(torch.zeros(2, *recipe.shape), torch.zeros(2), **told).sample.shape == (2, *recipe.shape)


@pytest.mark.parametrize("name", ["mnist", "emoji"])
def test_recipes_of_middling_size_are_trained_on_by_one_step(name, tmp_path):
    import numpy as np

    from lipdiag.training.loop import train

    recipe = set_fields(RECIPES[name], ["batch=2"])
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (3, *recipe.shape), dtype=np.uint8))
    state = next(train(dataclasses.replace(recipe, data=str(tmp_path / "x.npy"))))
    assert state.loss == pytest.approx(1, abs=0.5)  # of a network whose last layer has not learned anything


def test_a_trial_finds_the_seconds_of_a_step(recipe, monkeypatch):
    """On a clock of the test's own, on which a sample takes a hundredth of a second and the weights two."""
    now = [0.0]

    def costs(_, batch, *__):
        now[0] += 0.01 * len(batch.x0)
        return torch.zeros((), requires_grad=True)

    def update(_):
        now[0] += 0.02

    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(module, "loss", costs)
    monkeypatch.setattr(torch.optim.AdamW, "step", update)
    found = module.trial(dataclasses.replace(recipe, batch=128), 1, "cpu")
    assert found.samples == 32  # more would take a quarter of the trial and more
    assert found.step == pytest.approx(128 * 0.01 + 0.02)
    assert now[0] < 3


def test_a_trial_computes_as_a_training_does_and_its_peak_as_convolutions_do(recipe, monkeypatch):
    """On a card by kernels that do not race, and in float32 on tensor cores where torch lets convolutions."""
    inside, told = [], []

    @contextlib.contextmanager
    def noted(device):
        inside.append(device)
        yield
        inside.clear()

    def passes(*_):
        assert inside == [torch.device("cpu")]
        return torch.zeros((), requires_grad=True)

    monkeypatch.setattr(module, "repeatable", noted)
    monkeypatch.setattr(module, "loss", passes)
    monkeypatch.setattr(torch, "mm", lambda *_: told.append(torch.backends.cuda.matmul.fp32_precision))
    assert module.trial(recipe, 1, "cpu", 1e-3).samples
    assert set(told) == {"tf32"}
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"


CLASSES = "network_config.num_class_embeds"


def test_classes_come_with_the_data(tmp_path, capfd):
    """A conditional recipe is told the class of each picture; of others it is said what is ignored, and what helps."""
    import numpy as np

    from lipdiag.training.loop import train

    recipe = RECIPES["cifar10-classes"]
    assert classes(recipe) == 10
    assert (
        dataclasses.replace(recipe, name="cifar10", network_config=RECIPES["cifar10"].network_config)
        == RECIPES["cifar10"]
    )
    small = {
        "block_out_channels": [32, 32],
        "down_block_types": ["DownBlock2D"] * 2,
        "up_block_types": ["UpBlock2D"] * 2,
    }
    labels = np.arange(8) % 10
    np.savez(tmp_path / "x.npz", samples=np.zeros((8, 32, 32, 3), np.uint8), labels=labels)
    tried = dataclasses.replace(
        recipe, data=str(tmp_path / "x.npz"), batch=2, network_config=recipe.network_config | small
    )
    assert next(train(tried)).predictor.class_input == "class_labels"
    assert capfd.readouterr().err == ""
    told_none = dataclasses.replace(tried, network_config=RECIPES["cifar10"].network_config | small)
    assert next(train(told_none)).predictor.class_input is None
    (said,) = capfd.readouterr().err.splitlines()
    assert said.endswith(f"x.npz are ignored, since the recipe's network is told none; {CLASSES}=8 trains one that is")
    follows = {CLASSES.partition(".")[2]: 8}
    obeyed = dataclasses.replace(told_none, network_config=told_none.network_config | follows)
    assert next(train(obeyed)).predictor.class_input == "class_labels"


def test_what_else_goes_with_the_data_is_refused_before_the_first_step(tmp_path, recipe):
    import numpy as np

    from lipdiag.training.loop import train

    np.savez(tmp_path / "x.npz", samples=np.zeros((8, 8, 8), np.uint8), text=np.zeros((8, 3), np.float32))
    with pytest.raises(UsageError, match=r"holds text beside the samples, and a recipe trains on .* leave it out"):
        next(train(dataclasses.replace(recipe, data=str(tmp_path / "x.npz"))))


def test_photographs_are_the_users_own(tmp_path):
    import numpy as np

    import lipdiag

    assert 5e6 < parameters(RECIPES["tiny32"]) < 10e6
    with pytest.raises(UsageError, match=r"photographs of your own.*give data=, a folder") as refusal:
        lipdiag.train("tiny32", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "32 x 32" in str(refusal.value)
    np.save(tmp_path / "x.npy", np.zeros((4, 32, 32, 3), np.uint8))
    changes = {
        "batch": 1,
        "network_config": RECIPES["tiny32"].network_config
        | {"block_out_channels": [32, 32, 32], "layers_per_block": 1, "attention_head_dim": 8},
    }
    lipdiag.train("tiny32", tmp_path / "out", data=str(tmp_path / "x.npy"), steps=1, progress=False, **changes)
    assert lipdiag.load(tmp_path / "out").shape == (3, 32, 32)


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


def test_what_is_too_dear_to_be_tried_is_told_at_its_best(recipe, monkeypatch):
    """By the rate of products of large matrices, which the trial of a network that can be tried does not exceed."""
    dear, tried = estimate(RECIPES["full256"]), estimate(recipe, seconds=0.1)
    assert dear["trial"].startswith("none, since one sample takes a processor long: at best")
    assert dear["share_of_peak"] is None
    assert dear["hours"] == pytest.approx(500_000 * 64 / dear["images_per_s"] / 3600, rel=0.1)
    assert dear["images_per_s"] == pytest.approx(64 * dear["flop_per_s"] / dear["step_flop"], rel=0.1)
    monkeypatch.setattr(module, "DEAR", 0)
    best = estimate(recipe, seconds=0.1)
    assert best["step_seconds"] < tried["step_seconds"]
    assert best["flop_per_s"] > tried["flop_per_s"]


def test_an_estimate_adds_up(recipe):
    state = torch.get_rng_state()
    facts = estimate(dataclasses.replace(recipe, batch=64), seconds=0.3)
    assert torch.equal(torch.get_rng_state(), state)
    assert facts["trial"].startswith("0.3 s on cpu, ")
    assert facts["parameters"] == sum(weight.numel() for weight in build(recipe).parameters())
    assert facts["memory_gib"] == pytest.approx(facts["weights_gib"] + facts["activations_gib"], rel=0.1)
    assert facts["weights_gib"] == pytest.approx(20 * facts["parameters"] / 2**30, rel=0.05)
    assert facts["hours"] == pytest.approx(facts["step_seconds"] * recipe.steps / 3600, rel=0.1)
    assert facts["images_per_s"] == pytest.approx(64 / facts["step_seconds"], rel=0.1)
    assert facts["flop"] == pytest.approx(facts["step_flop"] * recipe.steps, rel=0.1)
    assert facts["flop_per_s"] == pytest.approx(facts["step_flop"] / facts["step_seconds"], rel=0.1)
    whole, pieces = (estimate(dataclasses.replace(RECIPES["cifar10"], accumulate=n), seconds=0) for n in (1, 4))
    assert pieces["activations_gib"] == pytest.approx(whole["activations_gib"] / 4, rel=0.05)
