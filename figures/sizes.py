"""The sizes that the study is made at: digits on a CPU, photographs on a CPU, photographs on a card."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

from lipdiag.training.unets import DIGITS

KINDS: dict[str, dict[str, Any]] = {"ddpm": {}, "etsdm": {"etsdm": True}}
"""What each seed trains: words of `lipdiag.train` that differ."""

SWAPPED = {
    "ddpm_shared": ("ddpm", "shared(timesteps(1000), 100, 5)"),
    "etsdm_unshared": ("etsdm", "timesteps(1000)"),
}
"""Kind -> whose weights it has, and the twin's clock, by which these are told the time when measured and sampled."""

LINEAR = "linear(0.0001, 0.02, 1000)"


def sine(count: int = 1000, largest: float = 0.999) -> str:
    """The table with sigma = sin(pi t / 2), whose slope at t = 0 is finite; its last beta is cut to stay below 1."""
    quarter = math.pi / 2 / count
    left = [math.cos(quarter * k) ** 2 for k in range(count)] + [0.0]
    betas = [min(1 - after / before, largest) for before, after in itertools.pairwise(left)]
    return f"discrete(({', '.join(map(repr, betas))}))"


VARIANTS: dict[str, dict[str, Any]] = {
    "log_snr": {"clock": f"log_snr({LINEAR})"},
    "sine": {"schedule": sine()},
    "penalty": {"penalty": 1e4},
}
"""What the paper weighs against sharing: another clock, a penalty on the derivative in time, another schedule."""


def grid(steps: tuple[int, ...]) -> tuple[str, ...]:
    """Deterministic samplers of first and second order, and the ancestral one, each with these steps."""
    return tuple(f"{name}:{count}" for name in ("ddim", "dpm", "ddpm") for count in steps)


@dataclass(frozen=True)
class Size:
    """A size of the study.

    Attributes:
        file: What its tables, figure and words are called.
        data: In words; photographs are the user's own.
        recipe: That all are trained by.
        settings: Of the recipe that are other than its own.
        side: Of a photograph, in pixels; 0 for data that the recipe names.
        held: Photographs that no model is trained on, and all are measured on and compared with.
        seeds: Trainings of each kind.
        embedded: Whether those of seed 0 are the embedded models.
        swapped: Kinds that are not trained: the weights of another under its twin's clock.
        variants: What is trained once beside them.
        timesteps: Where all are measured.
        draws: Samples x0 a timestep and model.
        samplers: Of the two kinds.
        few: Samplers of the variants.
        n: Samples a sampler and sampling seed.
        sampling_seeds: How many of these.
        extractors: Of features.
        remarks: Sentences below the tables: what this size can show and what it cannot.
    """

    file: str
    data: str
    recipe: str
    timesteps: str
    samplers: tuple[str, ...]
    extractors: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    side: int = 0
    held: int = 0
    seeds: int = 3
    embedded: bool = False
    swapped: dict[str, tuple[str, str]] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    draws: int = 32
    few: tuple[str, ...] = ()
    n: int = 1000
    sampling_seeds: int = 1
    remarks: str = ""

    @property
    def pairs(self) -> dict[str, dict[str, Any]]:
        """Name -> the words of `lipdiag.train` that differ, of both kinds side by side for each seed."""
        return {f"{kind}-{seed}": told | {"seed": seed} for seed in range(self.seeds) for kind, told in KINDS.items()}

    @property
    def trainings(self) -> dict[str, dict[str, Any]]:
        """These of the pairs, then of the variants."""
        return self.pairs | {f"{variant}-0": told | {"seed": 0} for variant, told in self.variants.items()}

    @property
    def models(self) -> list[str]:
        """Names of all that is measured and judged: these, then the swapped kinds."""
        return [*self.trainings, *(f"{kind}-{seed}" for kind in self.swapped for seed in range(self.seeds))]


# Dense below the end of sharing, with both sides of every edge, and evenly spaced in log t from there on.
DENSE = "0,1,2,3,5,7,10,14,19,20,24,30,39,40,49,59,60,70,79,80,90,99,100,110,130,160,200,260,330,420,530,670,830,999"
COARSE = "0,1,2,4,7,10,19,20,30,39,40,50,59,60,79,80,99,100,130,200,330,530,830,999"
PACKAGED = ("efficientnet-lite0", "efficientnet-lite1")

SMALL: dict[str, Any] = DIGITS | {"in_channels": 3, "out_channels": 3, "block_out_channels": [16, 32]}

BUSY = """
The photographs are 14,000 of Tiny-ImageNet, under ImageNet's terms (research, no redistribution): neither they nor
samples of models that were trained on them are kept here. Means over squares made them 8x8; 13,000 were trained on,
and all is measured on the other 1,000 and compared with them. A network of 0.19 million parameters saw 1,800 batches
of 16: a size for a few minutes of one core a model, which leaves much unsaid. The DDPMs' K is flat below timestep 20,
where that of a network that has learned the singularity rises, as the digits' does: of what sharing does to such a
network nothing is said here. The samples of all are far from the photographs (KID, beside that of real data). Three
trainings make wide intervals. 64 samples in 1,280 features make every FID large by itself, real data's too, so that
its differences alone count, and KID, which has no such bias. Nothing is said of 32x32 pixels and more:
`photographs32` is that size, for a card, and has not been run.
"""

SIZES = {
    "digits": Size(
        "study", "digits", "digits", DENSE, ("ddim:20", "dpm:20", "ddpm:100"), ("digits",),
        seeds=5, embedded=True, sampling_seeds=2,
    ),
    "photographs8": Size(
        "photographs8", "photographs of 8x8 pixels", "tiny32", COARSE, grid((5, 10, 20, 50, 250)), PACKAGED,
        {
            "shape": (3, 8, 8), "network_config": SMALL, "steps": 1800, "batch": 16, "learning_rate": 3e-3,
            "warmup": 100, "ema_decay": 0.995,
        },
        side=8, held=1000, swapped=SWAPPED, variants=VARIANTS, draws=8, few=grid((5, 20)), n=64,
        remarks=" ".join(BUSY.split()),
    ),
    "photographs32": Size(
        "photographs32", "photographs of 32x32 pixels", "tiny32", DENSE, grid((5, 10, 20, 50, 250)), PACKAGED,
        side=32, held=4000, swapped=SWAPPED, variants=VARIANTS, few=grid((5, 10, 20, 50, 250)), n=4000,
    ),
}  # fmt: skip
