"""Checkpoints of every known format as predictors, and what their files tell."""

from lipdiag.zoo.factory import factory
from lipdiag.zoo.load import EMBEDDED, Inspection, inspect, load, read

__all__ = ["EMBEDDED", "Inspection", "factory", "inspect", "load", "read"]
