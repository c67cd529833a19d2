"""What to do about what was measured."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
