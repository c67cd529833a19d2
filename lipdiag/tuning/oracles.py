"""Is the advice right? Against models in closed form, on draws of their own, with a table that anybody can print.

Sharing: the largest root mean square that blocks hide at any timestep, by the formula of the model, against that of the
usual 5 equal blocks below timestep 100, at the same end and number. Sampling: the endpoint error of the advised grid,
against the best uniform grid and against the best published one. Where the advice is that grid itself, the ratio is
that of the fitted one, which was not shown to be better.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..advice.choice import ROUNDING, better
from ..advice.sharing import advise as share
from ..design.plan import Plan
from ..diffusion.clock import Timesteps
from ..diffusion.exact import Empirical, Gaussian, GaussianMixture
from ..diffusion.schedule import VP, Linear, Schedule
from ..selftest import models
from ..statistics import Estimate, ratio
from ..study.measure import measure
from .advise import advise_steps

END, BLOCKS, DRAWS, SAMPLES = 100, 5, 256, 2048
SAMPLERS = ("ddim", "dpm", "heun")
STEPS = (5, 10, 20, 50)
QUANTITIES = ("pairs", "time_difference", "loss")
Exact = Gaussian | GaussianMixture | Empirical


class Row(NamedTuple):
    """One comparison: what is advised against what is usual, as a ratio of errors."""

    oracle: str
    advice: str
    usual: str
    against: Estimate
    kept: bool = False

    @property
    def verdict(self) -> str:
        """What the interval of the ratio says; `kept` where the usual is the advice."""
        if self.kept:
            return "kept"
        if better(self.against):
            return "better"
        return "worse" if self.against.low > 1 + ROUNDING else "equal"

    def __str__(self) -> str:
        against = str(self.against).partition(", n")[0]
        return f"{self.oracle:<18}{self.advice:<19}{self.usual:<16}{against:<21} {self.verdict}"


HEADING = f"{'oracle':<18}{'advice':<19}{'against':<16}{'ratio of errors':<21}"


def oracles(schedule: Schedule) -> Iterator[tuple[str, Exact]]:
    """The closed forms of the self-test, and a plane in space."""
    yield from models(schedule)
    flat = torch.tensor([1.0, 0.5, 0.25, 0.0, 0.0, 0.0], dtype=torch.float64)
    yield "plane", Gaussian(torch.zeros(len(flat), dtype=torch.float64), flat, schedule)


def table() -> Iterator[Row]:
    """Advice on all oracles, in a minute or two."""
    for name, model in oracles(Linear()):
        yield sharing(name, model)
    for name, model in oracles(VP()):
        for sampler in SAMPLERS:
            yield from sampling(name, model, sampler, STEPS, SAMPLES)


def sharing(name: str, model: Exact) -> Row:
    """Edges from a run of the model, judged by its formula on other draws."""
    model.clock = Timesteps(1000)
    data = model.draw(64, torch.Generator().manual_seed(1))
    run = measure(model, data=data, plan=Plan(timesteps="log:48", draws=16, quantities=QUANTITIES), progress=False)
    advised = share(run, end=END, blocks=BLOCKS).edges
    usual = tuple(np.linspace(0, END, BLOCKS + 1))
    ours, theirs = (bias(model, edges) for edges in (advised, usual))
    return Row(name, f"{BLOCKS} blocks below {END}", "equal blocks", ratio(ours, theirs))


def bias(model: Exact, edges: tuple[float, ...]) -> np.ndarray:
    """What blocks hide of eps at the timestep where its mean over draws is largest, for each draw."""
    g = torch.Generator().manual_seed(2)
    x0 = model.draw(DRAWS, g)
    noise = torch.randn(x0.shape, generator=g, dtype=torch.float64)

    def hidden(k: int) -> Tensor:
        t = torch.full((DRAWS,), float(model.clock.time(torch.tensor(float(k)))), dtype=torch.float64)
        left = edges[np.searchsorted(edges, k, side="right") - 1]
        alpha, sigma = (amplitude[:, None] for amplitude in model.schedule(t))
        x = alpha * x0 + sigma * noise
        told = model.conditioned(x, t, torch.full_like(t, float(left)))
        return (told - model(x, t)).norm(dim=1)

    return max((hidden(k).numpy() for k in range(END)), key=np.mean)


def sampling(name: str, model: Exact, sampler: str, steps: tuple[int, ...], draws: int) -> Iterator[Row]:
    """Grids of the model, judged on draws that they were not fitted on."""
    for choice in advise_steps(model, sampler, steps, draws).choices:
        told = f"{sampler}, {choice.steps} steps"
        *usual, fitted = choice.judged
        published = min(usual, key=lambda other: choice.judged[other].mean())
        for other, what in ((choice.uniform, "best uniform"), (published, "best published")):
            kept = choice.name == other
            ours = choice.judged[fitted if kept else choice.name]
            yield Row(name, told, what, ratio(ours, choice.judged[other]), kept)
