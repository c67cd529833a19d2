"""Checkpoints of every known format as predictors, and what their files tell."""

from ..formats.checkpoint import assemble
from .factory import factory
from .load import EMBEDDED, Inspection, inspect, inspection, load, predictor, read
from .reading import Reading
from .template import write_factory

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
    "write_factory",
]
