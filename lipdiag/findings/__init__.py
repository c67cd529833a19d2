"""What follows from a dataset: the anatomy of a singularity, the geometry of the data, what theory expects."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
