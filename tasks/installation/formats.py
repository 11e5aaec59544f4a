"""The versions of messages and of stored rows that this code reads and writes."""

NEWEST_FORMAT = 2
"""One number for both: the newest that this code reads. A newer one is left to newer code."""

FLAWED_LETTER_FORMAT = 2
"""Of dead letters whose record is not stored whole. Older code would take them for whole ones."""
