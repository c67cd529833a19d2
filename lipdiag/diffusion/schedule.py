"""All schedules, by name: how much signal and noise there is at time t, x = alpha(t) x0 + sigma(t) eps.

Those given by formulas are in `continuous`, those given by tables in `betas`.
"""

from .betas import Discrete, Linear, Quadratic, ScaledLinear, Sigmoid, SquaredCosine, Table, ZeroTerminalSNR
from .continuous import VE, VP, Cosine, Karras, Normalized, Schedule, ShiftedCosine, Straight, SubVP, UnnormalizedCosine

SCHEDULES: dict[str, type[Schedule]] = {
    "linear": Linear,
    "scaled_linear": ScaledLinear,
    "quadratic": Quadratic,
    "sigmoid": Sigmoid,
    "squared_cosine": SquaredCosine,
    "zero_terminal_snr": ZeroTerminalSNR,
    "discrete": Discrete,
    "vp": VP,
    "sub_vp": SubVP,
    "ve": VE,
    "cosine": Cosine,
    "unnormalized_cosine": UnnormalizedCosine,
    "shifted_cosine": ShiftedCosine,
    "karras": Karras,
    "straight": Straight,
    "normalized": Normalized,
}

__all__ = ["SCHEDULES", "Schedule", "Table", *(kind.__name__ for kind in SCHEDULES.values())]
