"""How Jacobians are measured: operators known by their products; nothing here knows of diffusion."""

from .bidiagonalization import Bidiagonalization, golub_kahan
from .forward_mode import ForwardMode, forward_mode, push_forward
from .lanczos import ExtremeEigenvalues, SingularValues, extreme_eigenvalues, singular_values
from .linearize import METHODS, Linearization, linearize
from .operator import Operator, dense, jacobian, symmetric_part, transpose
from .products import PRODUCTS, with_products
from .trace import ProbeEstimate, hutchinson_squared_frobenius_norm, hutchinson_trace, rademacher, sphere

__all__ = [
    "METHODS",
    "PRODUCTS",
    "Bidiagonalization",
    "ExtremeEigenvalues",
    "ForwardMode",
    "Linearization",
    "Operator",
    "ProbeEstimate",
    "SingularValues",
    "dense",
    "extreme_eigenvalues",
    "forward_mode",
    "golub_kahan",
    "hutchinson_squared_frobenius_norm",
    "hutchinson_trace",
    "jacobian",
    "linearize",
    "push_forward",
    "rademacher",
    "singular_values",
    "sphere",
    "symmetric_part",
    "transpose",
    "with_products",
]
