"""Checkpoints of every known format as predictors, and what their files tell."""

from ..formats.checkpoint import assemble
from .factory import factory
from .load import EMBEDDED, Inspection, inspect, inspection, load, predictor, read
from .reading import Reading

__all__ = [
    "EMBEDDED",
    "Inspection",
    "Reading",
    "assemble",
    "factory",
    "inspect",
    "inspection",
    "load",
    "predictor",
    "read",
]
