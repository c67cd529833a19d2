"""What is measured: noise schedules, what a network predicts, its clock, and predictors of noise."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
