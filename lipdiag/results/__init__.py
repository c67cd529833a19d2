"""A dataset read back: runs, their curves, their axes, and what theory expects."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
