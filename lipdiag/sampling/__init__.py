"""What a model draws."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
