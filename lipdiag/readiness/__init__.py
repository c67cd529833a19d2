"""Whether a model is ready to be measured: its answers are looked at before a run, and refused in words."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
