"""Does the doctor name what is wrong with trained networks? `python -m tests.health.naming` prints a table, in minutes.

Networks of three sizes, and of four kinds (noise, v, flow, EDM), are trained on the embedded digits for some seconds
each, in another process's memory and from seeds that no threshold was chosen on; each fault of `planted` that its kind
can have is put into each of them, and one row says what was found first. Rows of a network without fault come first.

Options: names of models (`eps-48`, `v`, ...) to try those alone, `--only WORDS` for faults with these in their words,
`--seed N`.
"""

import argparse
import copy
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lipdiag.data.dataset import dataset
from lipdiag.diffusion.clock import Clock, LogSigma, Reversed, Sigma, Timesteps, Unit
from lipdiag.diffusion.continuous import Schedule
from lipdiag.diffusion.parameterization import Edm, eps, v, velocity
from lipdiag.diffusion.predictor import NetworkPredictor
from lipdiag.diffusion.schedule import Karras, Linear, SquaredCosine, Straight
from lipdiag.health.examine import PLAN, doctor
from tests.health.planted import Perceptron, among, around, emptied, plain, random_weights, transplanted

STEPS, BATCH, SIZE = 3000, 256, 64


class Kind(NamedTuple):
    """How a network is used, by how much its timestep is multiplied before it is embedded, and its whole time."""

    parameterization: Callable
    schedule: Schedule
    clock: Clock
    scale: float
    low: float
    high: float


KINDS = {
    "eps": Kind(eps, Linear(), Timesteps(), 1.0, 0, 999),
    "v": Kind(v, SquaredCosine(), Timesteps(), 1.0, 0, 999),
    "flow": Kind(velocity, Straight(), Unit(), 1000.0, 1e-3, 1),
    "edm": Kind(Edm(), Karras(), LogSigma(Karras()), 250.0, -1.5, 1.09),
}
MODELS = {"eps-48": ("eps", 48), "eps-96": ("eps", 96), "eps-192": ("eps", 192)} | {
    name: (name, 128) for name in ("v", "flow", "edm")
}


class Scaled(nn.Module):
    """A perceptron that is told x of one size, and a multiple of the timestep."""

    def __init__(self, kind: Kind, width: int) -> None:
        super().__init__()
        self.inner, self.scale = Perceptron(SIZE, width), kind.scale
        self.noisy = isinstance(kind.clock, LogSigma)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        if self.noisy:
            x = x / (torch.exp(4 * timestep) ** 2 + 0.25).sqrt()[:, None]
        return self.inner(x, self.scale * timestep)


def digits() -> Tensor:
    shown = dataset("digits", shape=(1, 8, 8))
    return torch.stack([shown[i] for i in range(len(shown))]).flatten(1).float()


@cache
def trained(name: str, seed: int, steps: int = STEPS) -> NetworkPredictor:
    """One of `MODELS`, trained with the loss of its own prediction at times that are even in its clock."""
    kind, width = KINDS[MODELS[name][0]], MODELS[name][1]
    torch.manual_seed(seed)
    network, rows = Scaled(kind, width), digits()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        told = kind.low + (kind.high - kind.low) * torch.rand(BATCH, dtype=torch.float64)
        told = told.round() if kind.clock.discrete else told
        t = kind.clock.time(told)
        (alpha, sigma), (a, b) = (
            [c.float()[:, None] for c in pair] for pair in (kind.schedule(t), kind.parameterization(kind.schedule, t))
        )
        x0, noise = rows[torch.randint(0, len(rows), (BATCH,))], torch.randn(BATCH, SIZE)
        optimizer.zero_grad()
        error = network(alpha * x0 + sigma * noise, told.float()) - (a * x0 + b * noise)
        error.square().mean().backward()
        optimizer.step()
        decay.step()
    return NetworkPredictor(network.eval(), kind.schedule, kind.parameterization, kind.clock, (SIZE,))


def band(kind: Kind, low: float, high: float) -> Callable[[NetworkPredictor], NetworkPredictor]:
    """An answer that was never trained, in a part of the time."""
    first, last = (kind.low + share * (kind.high - kind.low) for share in (low, high))
    return lambda m: around(m, lambda ask, x, k: torch.where(among(x, k, first, last), 0.3 * x.sin(), ask(x, k)))


def half(model: NetworkPredictor) -> NetworkPredictor:
    """The network with its embedding of time in half precision, on the way in and out."""
    broken = around(copy.deepcopy(model), plain)
    embed = broken.network.network.inner.time_embed
    broken.network.network.inner.time_embed = Half(embed)
    return broken


class Half(nn.Module):
    """A module in bfloat16."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.bfloat16().to(x.dtype)).bfloat16().to(x.dtype)


def faults(kind: Kind, donor: Callable[[], NetworkPredictor]) -> dict[str, tuple[str, Callable]]:
    """Every fault that a kind can have: its name in words, the doctor's name, and how it is put in."""
    index, flow = kind.clock.discrete, isinstance(kind.clock, Unit)
    found = {
        "15 % too large": ("wrong_scale", lambda m: around(m, lambda ask, x, k: 1.15 * ask(x, k))),
        "20 % too small": ("wrong_scale", lambda m: around(m, lambda ask, x, k: 0.8 * ask(x, k))),
        "deaf to time": (
            "ignored_time",
            lambda m: around(m, lambda ask, x, k: ask(x, torch.full_like(k, kind.low + (kind.high - kind.low) / 3))),
        ),
        "time in half precision": (
            "rounded_time",
            lambda m: around(m, lambda ask, x, k: ask(x, k.bfloat16().to(k.dtype))),
        ),
        "embedding in half precision": ("rounded_time", half),
        "untrained band": ("untrained_band", band(kind, 0.2, 0.5)),
        "untrained high band": ("untrained_band", band(kind, 0.5, 1.01)),
        "narrow band": ("untrained_band", band(kind, 0.55, 0.6)),
        "dead block": ("dead_block", lambda m: emptied(m, "inner.blocks.1.3")),
        "untrained weights": ("untrained", random_weights),
        "a layer of another model": ("foreign_weights", lambda m: transplanted(m, donor(), "inner.last")),
        "first layer of another": ("foreign_weights", lambda m: transplanted(m, donor(), "inner.first")),
        "wrong prediction": (
            "wrong_prediction",
            lambda m: around(m, plain, parameterization=v if kind.parameterization is eps else eps),
        ),
        "wrong schedule": (
            "wrong_schedule",
            lambda m: around(
                m, plain, schedule=Linear() if isinstance(kind.schedule, SquaredCosine) else SquaredCosine()
            ),
        ),
    }
    if index or flow:
        found["time backwards"] = ("wrong_time", lambda m: around(m, plain, clock=Reversed(kind.clock)))
    if index:
        found["time in [0, 1]"] = ("wrong_time", lambda m: around(m, plain, clock=Unit()))
        found["one more"] = ("shifted_time", lambda m: around(m, lambda ask, x, k: ask(x, k + 1)))
        found["one less"] = ("shifted_time", lambda m: around(m, lambda ask, x, k: ask(x, (k - 1).clamp_min(0))))
    else:
        found["time as sigma"] = ("wrong_time", lambda m: around(m, plain, clock=Sigma(kind.schedule)))
    if isinstance(kind.clock, LogSigma):
        found.pop("wrong schedule")  # its clock tells the noise level itself
    return found


def first(model: NetworkPredictor, seed: int) -> str:
    """What the doctor says first."""
    found = doctor(model, digits().numpy(), plan=PLAN.replace(seed=seed), progress=False)
    return found.faults[0].name if found.faults else found.verdict


def main() -> None:
    """Print the table, and how many were named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", help="faults with this in their words")
    arguments = parser.parse_args()
    named = tried = 0
    for name in arguments.models or MODELS:
        kind, began = KINDS[MODELS[name][0]], time.perf_counter()
        model = trained(name, arguments.seed)
        print(f"{name} (trained in {time.perf_counter() - began:.0f} s)")
        print(f"  {'no fault':<29}{first(model, arguments.seed):<21}", flush=True)
        for words, (fault, how) in faults(kind, lambda name=name: trained(name, 99, STEPS // 3)).items():
            if arguments.only and arguments.only not in words:
                continue
            said = first(how(model), arguments.seed)
            named, tried = named + (said == fault), tried + 1
            print(f"  {words:<29}{said:<21}{'' if said == fault else f'is {fault}'}", flush=True)
    print(f"{named} of {tried} faults named")


if __name__ == "__main__":
    main()
