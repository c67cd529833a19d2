"""How fast the training loop is next to a bare one: the same network, batch and optimizer, and nothing else.

Both take turns in one process, a few steps each; the bare loop has its batches ready, no averaged weights, no clipping,
no checks and no log. The ratio of the two rates is the median over rounds.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import nn

from benchmarks.cost import seconds
from lipdiag.data.dataset import dataset
from lipdiag.diffusion.continuous import along
from lipdiag.training.batch import draw
from lipdiag.training.loop import build, train
from lipdiag.training.recipe import RECIPES, Recipe

STEPS = 4
"""How many steps each of the two trains in a round."""


def bare(recipe: Recipe) -> Callable[[], float]:
    """One step of the loop that one would write first."""
    predictor = build(recipe).train()
    batch = draw(recipe, dataset(recipe.data, recipe.shape), predictor.clock.base, 0)
    alpha, sigma = (along(c.float(), batch.x0) for c in predictor.schedule(batch.t))
    x, timestep = alpha * batch.x0 + sigma * batch.noise, predictor.clock(batch.t).float()
    optimizer = torch.optim.AdamW(predictor.parameters(), recipe.learning_rate, weight_decay=0.0, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        value = nn.functional.mse_loss(predictor.network(x, timestep).sample, batch.noise)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def relative_rate(name: str = "digits", rounds: int = 9) -> float:
    """Steps a second of `train` over those of the bare loop."""
    recipe = replace(RECIPES[name], steps=10**9)
    ours, theirs = train(recipe), bare(recipe)
    for _ in range(2):  # what is set up once in a process belongs to neither
        next(ours), theirs()
    ratios = []
    for _ in range(rounds):
        mine = seconds(lambda: list(itertools.islice(ours, STEPS)))
        ratios.append(seconds(lambda: [theirs() for _ in range(STEPS)]) / mine)
    return median(ratios)
