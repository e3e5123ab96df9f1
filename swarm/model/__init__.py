"""Slices of decoder models, and the directory a finished model is exported to."""
