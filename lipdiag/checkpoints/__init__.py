"""Checkpoints of every known format as predictors, and what their files tell."""

from ..formats.checkpoint import assemble
from .factory import factory, make
from .load import EMBEDDED, Inspection, inspect, load, predictor, read

__all__ = ["EMBEDDED", "Inspection", "assemble", "factory", "inspect", "load", "make", "predictor", "read"]
