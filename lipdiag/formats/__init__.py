"""The formats of checkpoints, each read into one record of what its files tell."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
