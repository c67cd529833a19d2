"""Dual numbers, a value and a tangent, by torch's inner functions: a pass makes and opens hundreds.

The public ones ask each time what has been settled by the inputs of the pass, and take half as long again.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


def unpacked(x) -> tuple[Any, Tensor | None]:
    """The value of x and its tangent, if it carries one."""
    if type(x) is Parameter or not isinstance(x, Tensor):  # quickly, as most weights are parameters
        return x, None
    return torch._unpack_dual(x, level=0)


def with_tangent(y: Tensor, dy: Tensor) -> Tensor:
    """The dual number, with the tangent in the value's own precision."""
    return torch._make_dual(y, dy if dy.dtype == y.dtype else dy.to(y.dtype), level=0)
