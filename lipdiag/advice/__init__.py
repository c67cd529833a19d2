"""What to do about what was measured."""
