"""What makes predictors: recipes, the loop, and the folder a training lives in."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
