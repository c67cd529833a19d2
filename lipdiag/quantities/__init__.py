"""A model at a point, and the numbers that are measured there."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
