"""The versions of messages and of stored rows that this code reads and writes."""

NEWEST_FORMAT = 3
"""The newest format of messages and rows that this code reads. Newer formats are left to newer code."""

FLAWED_LETTER_FORMAT = 2
"""The format of dead letters without the whole record. Older code would take such a letter for whole."""
