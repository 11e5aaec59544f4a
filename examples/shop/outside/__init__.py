"""Shared by the two servers that play external services: a journal, faults, JSON over HTTP."""
