"""What a model draws."""
