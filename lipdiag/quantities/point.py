"""The model at a batch of (draw, timestep) pairs, linearized once for every quantity that asks.

Pairs are flattened into one batch: samples do not see each other, so one batched product gives every pair's own
Jacobian product, and pairs of different timesteps share it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion.continuous import slope
from ..diffusion.predictor import NetworkPredictor, Predictor, RawOutput
from ..linalg.lanczos import SingularValues, singular_values
from ..linalg.linearize import Linearization, linearize
from ..study.plan import Plan
from . import draw


@dataclass
class Point:
    """A predictor at pairs (x_t, t), with the random vectors that its quantities need.

    Attributes:
        predictor: In eval mode, on the device and in the dtype of `x`.
        plan: How well to measure.
        t: Unit time of each pair, float64.
        timestep: The model's own time of each pair, float64.
        rate: d t / d timestep of each pair, float64.
        x: Noised samples alpha x0 + sigma noise.
        noise: The true noise in x.
        start: Directions uniform on the sphere.
        probes: Rademacher vectors, float64.
        record: Whether enough products will follow to pay for recording them.
        perturbation: Unit directions in which x is changed, where `sensitivity` is asked for.
    """

    predictor: Predictor
    plan: Plan
    t: Float[Tensor, " batch"]
    timestep: Float[Tensor, " batch"]
    rate: Float[Tensor, " batch"]
    x: Float[Tensor, "batch *event"]
    noise: Float[Tensor, "batch *event"]
    start: Float[Tensor, "batch n"]
    probes: Float[Tensor, "probes batch n"]
    record: bool = True
    perturbation: Float[Tensor, "batch n"] | None = None

    @cached_property
    def linearization(self) -> Linearization:
        return linearize(self.predictor, self.x, self.t, record=self.record)

    @cached_property
    def eps(self) -> Float[Tensor, "batch *event"]:
        """The predicted noise, of a plain evaluation.

        Not the linearization's output: that comes from other kernels and differs in the last digits, which would hide
        that a model which is told the same timestep twice gives exactly the same answer.
        """
        with torch.no_grad():
            return self.predictor(self.x, self.t)

    @cached_property
    def singular_values(self) -> SingularValues:
        """Leading singular values of d eps / d x, with what the first Krylov step gives free."""
        ranks = self.plan.ranks if "singular_values" in self.plan.quantities else 1
        return singular_values(
            self.linearization.jacobian,
            self.start,
            steps=min(self.plan.krylov_steps, self.start.shape[1]),
            count=ranks,
            width=self.plan.certified_width,
            confidence=self.plan.confidence,
        )

    @cached_property
    def group(self) -> Int[Tensor, " batch"]:
        """Pairs of one timestep share a number: their estimates share a relative variance."""
        return self.timestep.unique(return_inverse=True)[1]

    @cached_property
    def images(self) -> tuple[Float[Tensor, "probes batch n"], Float[Tensor, "probes batch n"]]:
        """Random vectors z with E z z^T = 1, and J z of each: the Rademacher ones, and the Krylov start free."""
        krylov, scale = self.singular_values, self.start.shape[1] ** 0.5
        z = [*self.probes, krylov.first.double() * scale]
        Jz = [self.linearization.jacobian.mv(p.to(self.x.dtype)).double() for p in self.probes]
        return torch.stack(z), torch.stack([*Jz, krylov.image.double() * scale])


def points(
    predictor: Predictor,
    plan: Plan,
    sample: Callable[[int], Tensor],
    timesteps: Sequence[float],
    draws: range,
    record: bool = True,
    label: Callable[[int], int] | None = None,
) -> Point:
    """The point of all given timesteps by all given draws, timestep-major.

    Args:
        predictor: The model, already in eval mode.
        plan: Seeds and accuracy.
        sample: Draw number -> x0.
        timesteps: In the model's own unit.
        draws: Draw numbers.
        record: As in `Point`.
        label: Draw number -> the class that a network is told with it.
    """
    if label is not None and isinstance(predictor, NetworkPredictor | RawOutput) and predictor.class_input:
        predictor = predictor.told(predictor.class_input, [label(i) for i in draws] * len(timesteps))
    device = next((p.device for p in [*predictor.parameters(), *predictor.buffers()]), torch.device("cpu"))
    times, number, n = len(timesteps), len(draws), 1
    x0 = torch.stack([sample(i).double() for i in draws])
    noise = torch.stack([draw.noise(plan.seed, i, predictor.shape) for i in draws])
    n = noise[0].numel()
    start = torch.stack([draw.start(plan.seed, i, n) for i in draws])
    probes = torch.stack([draw.probes(plan.seed, i, plan.probes, n) for i in draws], 1)

    perturbation = None
    if "sensitivity" in plan.quantities:
        drawn = torch.stack([draw.perturbation(plan.seed, i, n) for i in draws])
        perturbation = drawn.repeat(times, 1).to(device)

    timestep = torch.tensor(timesteps, dtype=torch.float64).repeat_interleave(number)
    t = predictor.clock.base.time(timestep)
    clock_rate = slope(predictor.clock.base, t)
    alpha, sigma = predictor.schedule(t)
    expand = (-1, *[1] * len(predictor.shape))
    x0, noise = (z.repeat(times, *[1] * len(predictor.shape)) for z in (x0, noise))
    x = alpha.view(expand) * x0 + sigma.view(expand) * noise

    def place(z: Tensor) -> Tensor:
        return z.to(device, plan.torch_dtype)

    return Point(
        predictor=predictor,
        plan=plan,
        t=t.to(device),
        timestep=timestep.to(device),
        rate=(1 / clock_rate).to(device),
        x=place(x),
        noise=place(noise),
        start=start.repeat(times, 1).to(device),
        probes=probes.repeat(1, times, 1).to(device),
        record=record,
        perturbation=perturbation,
    )
