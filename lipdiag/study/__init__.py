"""The experiment: a plan carried out on a model, and checked."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
