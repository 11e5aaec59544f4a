"""Handlers and their effects, folded in memory. Pure."""
