"""Measurements: one runner, one result schema, one case a file."""
