"""Recipes and their settings."""

import dataclasses
import json

import pytest

from lipdiag.errors import UsageError
from lipdiag.training.recipe import RECIPES, Recipe, set_fields


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_equals_its_record(recipe):
    record = json.loads(json.dumps(recipe.to_dict()))
    assert Recipe(**(record | {"shape": tuple(record["shape"])})) == recipe


def test_settings_change_what_they_name_and_nothing_else():
    digits = RECIPES["digits"]
    changed = set_fields(
        digits,
        [
            "steps=7",
            "shape=[2, 4]",
            "learning_rate=1e-4",
            "clock=unit()",
            "network_config.dropout=0.5",
            "network_config.sample_size=16",
        ],
    )
    config = digits.network_config | {"dropout": 0.5, "sample_size": 16}
    assert changed == dataclasses.replace(
        digits, steps=7, shape=(2, 4), learning_rate=1e-4, clock="unit()", network_config=config
    )
    assert set_fields(digits, []) == digits


@pytest.mark.parametrize(
    "setting",
    ["steps", "stepz=3", "steps=0", "steps=2.5", "steps=true", "learning_rate=nan", "ema_decay=1", "shape=[0]",
     "shape=8", "network_config=3", "network_config.=3", "seed.x=1", "clock="],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(setting):
    with pytest.raises(UsageError, match=setting.partition("=")[0].partition(".")[0]):
        set_fields(RECIPES["digits"], [setting])
