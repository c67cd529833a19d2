"""How good a model's samples are."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
