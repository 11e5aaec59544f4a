"""Rebuilding generations of projections from the log."""
