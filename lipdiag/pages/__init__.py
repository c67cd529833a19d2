"""Words about runs: verdicts, tables for a terminal, one HTML page."""

from ..lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
