"""What is looked at while a network is trained: K and loss on fixed draws, how often, and the log."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
