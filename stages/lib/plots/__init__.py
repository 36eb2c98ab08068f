"""The style of figures, and tables."""
