"""Recipes: everything that decides which model a training run makes.

A DDPM and its E-TSDM twin are two recipes that differ in `clock` alone; the seeds do not depend on it, so both see
the same weights at the start, the same samples, timesteps and noise.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ..errors import UsageError
from .unets import CIFAR10, CIFAR10_CLASSES, DIGITS, EMOJI, FULL256, MNIST

PRECISIONS = ("auto", "float32", "bfloat16")
OWN = "photographs"
"""The data of a recipe that trains on what its user gives."""

MANNER = ("accumulate", "compile", "precision")
"""Fields that change how steps are computed, and the model by rounding only: a training may go on with others."""


@dataclass(frozen=True)
class Recipe:
    """How to train one model.

    Args:
        name: Of the recipe.
        data: Name or path of the data set.
        shape: Of one sample.
        network: Name of the network's class in `lipdiag.formats.networks.NETWORKS`.
        network_config: The arguments of that class.
        schedule: Spelled as `inspect` prints it.
        parameterization: What the network predicts.
        clock: The network's own time; a shared one makes an E-TSDM model.
        steps: Optimizer steps.
        batch: Samples a step, over all processes.
        flip: Whether every other sample, at random, is mirrored along its last axis.
        penalty: Weight of the mean square of the output's derivative in the timestep, added to the loss.
        learning_rate: At its highest, after the warm-up; it falls to 0 along half a cosine.
        warmup: Steps of linear increase of the learning rate.
        weight_decay: Of AdamW.
        clip: Largest norm of the gradient.
        ema_decay: Of the exponential moving average of the weights, min(ema_decay, (1 + step) / (10 + step)) early on.
        seed: Of the first weights, the samples, the timesteps and the noise.
        precision: Of the network's layers: "bfloat16" leaves it to autocast which ones; weights, their average and
            the loss stay float32. "auto" is bfloat16 on a card that has it, else float32.
        accumulate: Pieces that a process takes its share of the batch in, to need less memory.
        compile: Whether the network goes through torch.compile; None, which JSON calls null, where it has been found
            to pay, on a card and in a long training.
    """

    name: str
    data: str
    shape: tuple[int, ...]
    network: str
    network_config: dict[str, Any] = field(default_factory=dict)
    schedule: str = "linear(0.0001, 0.02, 1000)"
    parameterization: str = "eps"
    clock: str = "timesteps(1000)"
    steps: int = 10_000
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: int = 500
    weight_decay: float = 0.0
    clip: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    flip: bool = False
    penalty: float = 0.0
    precision: str = "auto"
    accumulate: int = 1
    compile: bool | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            check(item.name, getattr(self, item.name))
        object.__setattr__(self, "shape", tuple(self.shape))
        # Lists for tuples, as a file gives them back, so that a recipe equals its record.
        object.__setattr__(self, "network_config", json.loads(json.dumps(dict(self.network_config))))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return json.loads(json.dumps(asdict(self)))


def check(name: str, value: Any) -> None:
    """Whether a recipe's field called `name` may have this value.

    Raises:
        UsageError: If not.
    """
    if name in ("steps", "batch", "accumulate"):
        good, allowed = type(value) is int and value > 0, "a positive integer"
    elif name in ("warmup", "seed"):
        good, allowed = type(value) is int and value >= 0, "an integer of at least 0"
    elif name in ("learning_rate", "clip"):
        good, allowed = type(value) in (int, float) and 0 < value < math.inf, "a positive number"
    elif name in ("weight_decay", "penalty"):
        good, allowed = type(value) in (int, float) and 0 <= value < math.inf, "a number of at least 0"
    elif name == "ema_decay":
        good, allowed = type(value) in (int, float) and 0 <= value < 1, "a number in [0, 1)"
    elif name == "flip":
        good, allowed = type(value) is bool, "true or false"
    elif name == "compile":
        good, allowed = value is None or type(value) is bool, "true, false, or null for what pays"
    elif name == "precision":
        good, allowed = value in PRECISIONS, " or ".join(PRECISIONS)
    elif name == "shape":
        sizes = value if isinstance(value, (tuple, list)) else ()
        good = len(sizes) > 0 and all(type(size) is int and size > 0 for size in sizes)
        allowed = "positive integers such as [1, 8, 8]"
    elif name == "network_config":
        good, allowed = isinstance(value, dict), "an object such as {}"
    else:
        good, allowed = isinstance(value, str) and value != "", "a text"
    if not good:
        raise UsageError(f"the recipe's {name} is {value!r} where it has to be {allowed}")


def set_fields(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with `key=value` settings applied in turn.

    Values are JSON, or plain text where the field is a text; `network_config.KEY=VALUE` sets one argument of the
    network.

    Raises:
        UsageError: If a setting has no `=`, names no field, or has a value that the field cannot take.
    """
    names = [item.name for item in fields(Recipe)]
    for setting in settings:
        key, equals, text = setting.partition("=")
        key, dot, argument = key.strip().partition(".")
        if not equals or key not in names or (dot and (key != "network_config" or not argument)):
            raise UsageError(
                f"the setting {setting!r} is not key=value with a key among {', '.join(names)} or network_config.NAME"
            )
        try:
            value = json.loads(text)
        except ValueError:
            value = text.strip()
        if isinstance(getattr(recipe, key), str):
            value = text.strip()
        if dot:
            value = recipe.network_config | {argument: value}
        check(key, value)
        changed: Any = {key: tuple(value) if key == "shape" else value}
        recipe = replace(recipe, **changed)
    return recipe


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("digits", "digits", (1, 8, 8), "UNet2DModel", DIGITS, steps=6_000, learning_rate=4e-3),
        Recipe("mnist", "mnist", (1, 28, 28), "UNet2DModel", MNIST, steps=20_000, batch=128),
        Recipe("emoji", "emoji", (3, 32, 32), "UNet2DModel", EMOJI, steps=40_000, learning_rate=5e-4, flip=True),
        Recipe(
            "tiny32", OWN, (3, 32, 32), "UNet2DModel", EMOJI,
            steps=20_000, batch=128, learning_rate=4e-4, warmup=1_000, flip=True,
        ),
        # Batch, learning rate, warm-up, flips and averaging of Ho, Jain & Abbeel, 2020, appendix B.
        *(
            Recipe(
                name, "cifar10", (3, 32, 32), "UNet2DModel", network,
                steps=800_000, batch=128, learning_rate=2e-4, warmup=5_000, ema_decay=0.9999, flip=True,
            )
            for name, network in (("cifar10", CIFAR10), ("cifar10-classes", CIFAR10_CLASSES))
        ),
        Recipe(
            "full256", "full256", (3, 256, 256), "UNet2DModel", FULL256,
            steps=500_000, batch=64, learning_rate=2e-5, warmup=5_000, ema_decay=0.9999, flip=True,
            accumulate=4,
        ),
    )
}  # fmt: skip
