"""Advice that runs the model: where the functions of `advice` get their numbers."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
