"""How well a point is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Accuracy:
    """What decides how near a quantity's number is to the truth, and what it costs.

    Attributes:
        step: Distance of the two times of a difference quotient, in the model's own unit; by default 1 for a model of
            integer timesteps and a thousandth of unit time for the others.
        certified_width: Krylov steps stop when upper / lower - 1 of the spectral norm is below it everywhere.
        confidence: Of the spectral norm's upper bound, for each (draw, timestep).
        krylov_steps: The most Krylov steps taken.
        ranks: Leading singular values and vectors kept.
        probes: Rademacher vectors for traces, besides the one the Krylov start gives.
        products: Of Krylov steps and probes with the Jacobian: "ieee", or "tf32" and "3xtf32" on tensor cores.
    """

    step: float | None = None
    certified_width: float = 0.05
    confidence: float = 0.99
    krylov_steps: int = 64
    ranks: int = 5
    probes: int = 2
    products: str = "ieee"
