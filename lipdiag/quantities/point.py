"""The model at a batch of (draw, timestep) pairs, linearized once for every quantity that asks.

Pairs are flattened into one batch: samples do not see each other, so one batched product gives every pair's own
Jacobian product, and pairs of different timesteps share it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion.predictor import Predictor
from ..linalg.lanczos import SingularValues, singular_values
from ..linalg.linearize import METHODS, Linearization, linearize
from ..linalg.method import FiniteDifferences
from ..linalg.operator import Operator
from ..linalg.products import with_products
from .accuracy import Accuracy


@dataclass
class Point:
    """A predictor at pairs (x_t, t), with the random vectors that its quantities need.

    Attributes:
        predictor: In eval mode, on the device and in the dtype of `x`.
        accuracy: How well to measure.
        t: Unit time of each pair, float64.
        timestep: The model's own time of each pair, float64.
        rate: d t / d timestep of each pair, float64.
        x: Noised samples alpha x0 + sigma noise.
        noise: The true noise in x.
        drawn: Makes the random vectors of a role, float64: "start", "probes" or "perturbation".
        group: A number of each pair: those that share one, of a timestep and a block, share a relative variance.
        block: The number of the block that each pair belongs to, on the CPU, where several are measured at once.
        record: Whether enough products will follow to pay for recording them.
        quantities: Names of what is asked for.
        columns: All timesteps of the plan, which rows of `pairs` and `swap` run over, where these are asked for.
        modules: Names of the network's modules that are listened to, where they are.
        count: Leading singular values that the Krylov steps are taken for.
        methods: What derivatives may come from.
    """

    predictor: Predictor
    accuracy: Accuracy
    t: Float[Tensor, " batch"]
    timestep: Float[Tensor, " batch"]
    rate: Float[Tensor, " batch"]
    x: Float[Tensor, "batch *event"]
    noise: Float[Tensor, "batch *event"]
    drawn: Callable[[str], Tensor]
    group: Int[Tensor, " batch"]
    block: Int[Tensor, " batch"] | None = None
    record: bool = True
    quantities: tuple[str, ...] = ()
    columns: tuple[float, ...] = ()
    modules: tuple[str, ...] = ()
    count: int = 1
    methods: tuple[str, ...] = METHODS

    @cached_property
    def start(self) -> Float[Tensor, "batch n"]:
        """Directions uniform on the sphere, from which Krylov spaces grow."""
        return self.drawn("start")

    @cached_property
    def probes(self) -> Float[Tensor, "probes batch n"]:
        """Rademacher vectors."""
        return self.drawn("probes")

    @cached_property
    def perturbation(self) -> Float[Tensor, "batch n"]:
        """Directions uniform on the sphere, in which x is changed."""
        return self.drawn("perturbation")

    @cached_property
    def linearization(self) -> Linearization:
        return linearize(self.predictor, self.x, self.t, self.methods, self.record)

    @cached_property
    def jacobian(self) -> Operator:
        return self.linearization.jacobian

    @cached_property
    def products(self) -> Operator:
        """The Jacobian by the products that the accuracy asks for.

        Exact ones come first, by which a linearization is recorded. A difference of rounded answers is no product.
        """
        kind = self.accuracy.products
        if kind == "ieee" or self.linearization.method == FiniteDifferences.name:
            return self.jacobian
        return with_products(self.jacobian, kind)

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
        return singular_values(
            self.products,
            self.start,
            steps=min(self.accuracy.krylov_steps, self.start.shape[1]),
            count=self.count,
            width=self.accuracy.certified_width,
            confidence=self.accuracy.confidence,
            exact=None if self.products is self.jacobian else self.jacobian,
            together=self.block,
        )

    @cached_property
    def images(self) -> tuple[Float[Tensor, "probes batch n"], Float[Tensor, "probes batch n"]]:
        """Random vectors z with E z z^T = 1, and J z of each: the Rademacher ones, and the Krylov start free."""
        krylov, scale = self.singular_values, self.start.shape[1] ** 0.5
        A = self.jacobian if "asymmetry" in self.quantities else self.products  # which is a difference of products
        z = [*self.probes, krylov.first.double() * scale]
        Jz = [A.mv(p.to(self.x.dtype)).double() for p in self.probes]
        return torch.stack(z), torch.stack([*Jz, krylov.image.double() * scale])
