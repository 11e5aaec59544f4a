"""SQL that operators read and decide by."""
