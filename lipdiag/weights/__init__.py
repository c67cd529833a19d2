"""What a stranger's file holds beside code: tensors under names, numbers and texts."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
