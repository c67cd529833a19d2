"""A dataset read back: runs, their curves, their axes, and what theory expects."""
