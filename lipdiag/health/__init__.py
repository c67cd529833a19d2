"""What is wrong with a model, where, and how sure that is."""
