"""How well a point is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What decides how near a quantity's number is to the truth, and what it costs.

    Attributes:
        step: Distance of the two times of a difference quotient, in the model's own unit; by default 1 for a model of
            integer timesteps and a thousandth of unit time for the others.
        certified_width: Krylov steps stop when upper / lower - 1 of the spectral norm is below it everywhere.
        confidence: Of the spectral norm's upper bound, for each (draw, timestep).
        krylov_steps: The most Krylov steps taken.
        ranks: Leading singular values and vectors kept, where there are so many and as many Krylov steps.
        probes: Rademacher vectors for traces, besides the one the Krylov start gives.
        products: Of Krylov steps and probes with the Jacobian: `ieee` float32, `tf32` or `3xtf32` on tensor cores, with
            intervals made wider by their measured error, or `auto`, the fastest that still meets `certified_width`.
            Differences, derivatives in time and the loss are always `ieee`.
    """

    step: float | None = None
    certified_width: float = 0.05
    confidence: float = 0.99
    krylov_steps: int = 64
    ranks: int = 5
    probes: int = 2
    products: str = "ieee"

    def kept(self, size: int) -> int:
        """How many leading singular values of a Jacobian of that size are kept; each takes a Krylov step."""
        return min(self.ranks, self.krylov_steps, size)
