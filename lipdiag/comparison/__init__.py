"""Two models set side by side."""
