"""The versions of messages and of stored rows that this code reads and writes."""

NEWEST_FORMAT = 1
"""One number for both: the newest that this code reads. A newer one is left to newer code."""
