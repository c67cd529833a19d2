"""Checkpoints of every known format as predictors, and what their files tell."""

from lipdiag.training.checkpoint import assemble
from lipdiag.zoo.factory import factory, make
from lipdiag.zoo.load import EMBEDDED, Inspection, inspect, load, predictor, read

__all__ = ["EMBEDDED", "Inspection", "assemble", "factory", "inspect", "load", "make", "predictor", "read"]
