"""Settings tried on the model itself: where the functions of `advice` get their numbers."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
