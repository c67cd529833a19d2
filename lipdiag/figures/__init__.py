"""Datasets -> figures."""
