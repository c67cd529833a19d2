"""A model card: what a trained model is, how it was made, and how its output moves with the timestep.

With data on a finite set of points and sigma -> 0 the exact noise is (x - alpha x0) / sigma, so that K(k, k + 1) of
the table goes to sqrt(d) (1 - sigma_k / sigma_(k+1)).
"""

import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from ..data.dataset import Data
from ..data.shipped import SHIPPED
from ..diffusion.predictor import Predictor
from ..watching.difference import DRAWS, TIMESTEPS, differences, edges
from ..watching.panel import undisturbed
from .recipe import RECIPES, Recipe

FEWEST_DRAWS = 16
SHARE = 0.1
"""Samples that pass for the table, of those that passed in training, where that allows of the fewest draws."""

DIGITS = """The data are the 1797 handwritten digits of the test part of E. Alpaydin and C. Kaynak, *Optical
Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998 (https://doi.org/10.24432/C50P49), licensed
under CC BY 4.0, as distributed with scikit-learn: 8 x 8 pixels, grey values 0..16, seen by the model as value/8 - 1."""


def model_card(recipe: Recipe, predictor: Predictor, facts: Mapping[str, Any], data: Data) -> str:
    """The text of a README.md for a trained model, with the metadata block that model hubs read.

    Args:
        recipe: It was trained by.
        predictor: With the weights that are stored.
        facts: On record about the training.
        data: It was trained on.
    """
    shared = recipe.clock.startswith("shared")
    count = sum(weight.numel() for weight in predictor.parameters())
    title = f"{recipe.name}-{'etsdm' if shared else 'ddpm'}"
    return f"""---
license: apache-2.0
library_name: lipdiag
tags:
- diffusion
- {"e-tsdm" if shared else "ddpm"}
datasets:
- {recipe.data}
---

# {title}

A diffusion model of {len(data)} samples of shape {recipe.shape}: {recipe.network} with {count} parameters, predicting
`{recipe.parameterization}` under `{recipe.schedule}` with the clock `{recipe.clock}`.
It is made for demonstrating and testing lipdiag, not for its pictures.
{how_told(shared)}

## How it was made

    {command(recipe)}

{steps(recipe)}, seed {recipe.seed}; uniform timesteps, mean squared error{penalty(recipe)}.
The stored weights are the exponential moving average (decay {recipe.ema_decay:g}).
The mean loss over the last steps was {facts["loss"]:.5f}.
{origin()}
`config.json` holds the whole recipe and the SHA-256 of the weights; that of the data is
{data.fingerprint}.

## How its output moves with the timestep

{table(predictor, data, affordable_draws(recipe))}

## Limits

It knows {len(data)} samples, and nothing about any other data. {fitted(predictor, shared)}
One seed was trained: how much K differs between seeds is not in the table's errors.

## Rights

{rights(recipe.data)}
"""


def steps(recipe: Recipe) -> str:
    """How the optimizer went, in a sentence that has no end yet."""
    return (
        f"{recipe.steps} steps of AdamW, {recipe.batch} samples each, learning rate {recipe.learning_rate:g} after "
        f"{recipe.warmup} steps of warm-up and\ndown to 0 along a cosine, gradient clipped at {recipe.clip:g}"
    )


def penalty(recipe: Recipe) -> str:
    """What is added to the loss, where something is."""
    return f" plus {recipe.penalty:g} times that of its derivative in the timestep" if recipe.penalty else ""


def origin() -> str:
    """The libraries by which the weights were made."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "numpy"))
    return f"Made with {versions}; others give it up to rounding, which training amplifies."


def how_told(shared: bool) -> str:
    """What the network is told of its timestep."""
    return (
        "The clock is shared (E-TSDM): near the data the network is told only in which block its timestep lies, while\n"
        "the noise level of its input is the true one. Inside a block the output does not move with the timestep, by\n"
        "construction; it jumps where two blocks meet, and K has to be read there."
        if shared
        else "The network is told every timestep."
    )


def fitted(predictor: Predictor, shared: bool) -> str:
    """How far K of the model can be compared with K of the exact prediction."""
    return (
        "A jump is the sum of what a whole block leaves out:\nit is compared with the sum of the unshared K over it."
        if shared
        else "The first timesteps are fitted last, so that what is\nlearned there falls short of the exact K of these "
        f"data, for which K(k, k + 1) -> sqrt(d) (1 - sigma_k / sigma_(k+1))\nas k falls{limit(predictor)}."
    )


def rights(data: str) -> str:
    """The licenses of the weights and of the data."""
    if data == "digits":
        return f"Weights: Apache-2.0. Data: CC BY 4.0.\n\n{DIGITS}"
    if data in SHIPPED:
        return f"Weights: Apache-2.0.\n\n{SHIPPED[data].rights}"
    return "Weights: Apache-2.0."


def limit(predictor: Predictor) -> str:
    """What the exact K is at the first timestep, in words, where timesteps are counted."""
    clock = predictor.clock.base
    if not clock.discrete:
        return ""
    sigma = predictor.schedule(clock.time(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")))[1]
    value = math.sqrt(math.prod(predictor.shape)) * (1 - sigma[0] / sigma[1]).item()
    return f" ({value:.2f} for k = 0)"


def command(recipe: Recipe) -> str:
    """The command line that trains by this recipe."""
    words = [f"lipdiag train --recipe {recipe.name}"]
    named = RECIPES.get(recipe.name)
    if named is None:
        return words[0]
    mine, theirs = recipe.to_dict(), named.to_dict()
    shared = f"shared({named.clock}, "
    if recipe.clock.startswith(shared) and mine["clock"] != theirs["clock"]:
        rule = recipe.clock.removeprefix(shared).removesuffix(")").replace(" ", "")
        words.append("--etsdm" if rule == "100,5" else f"--etsdm {rule}")
        theirs["clock"] = mine["clock"]
    words += [f"--set '{key}={text(mine[key])}'" for key in mine if mine[key] != theirs[key]]
    return " ".join([*words, "--out DIR"])


def text(value: object) -> str:
    """A field's value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def affordable_draws(recipe: Recipe) -> int:
    """Draws of the table: all of them but after a training so short that they would take longer than it did."""
    return max(FEWEST_DRAWS, min(DRAWS, int(SHARE * recipe.steps * recipe.batch / (2 * len(TIMESTEPS)))))


def table(predictor: Predictor, data: Data, draws: int = DRAWS) -> str:
    """K(k, k + 1) at some timesteps and at the edges of shared blocks, as a Markdown table.

    Cost: two evaluations of the model on every draw at every row.
    """
    if not predictor.clock.base.discrete:
        return "The timesteps of this model are continuous: `lipdiag measure` measures their derivative."
    marked = edges(predictor)
    rows = ["| k | K(k, k + 1) | standard error |", "|---|---|---|"]
    with undisturbed(predictor):
        for k, mean, error, *_ in differences(predictor, data, draws):
            rows.append(f"| {k}{' (edge)' if k in marked else ''} | {mean:.4f} | {error:.4f} |")
    return "\n".join([*rows, "", f"Mean of the Euclidean norm over {draws} draws of data and noise."])
