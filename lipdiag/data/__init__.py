"""Where x0 comes from: embedded sets, folders, arrays, the model's own samples."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
