"""Rebuilds generations of projections from the log."""
