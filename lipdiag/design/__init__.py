"""The design of an experiment: what is measured, at which points, in which arithmetic, and how a run tells it."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
