"""A model at a point, and the numbers that are measured there."""
