"""Two models set side by side."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
