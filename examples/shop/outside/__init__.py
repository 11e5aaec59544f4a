"""What the two servers that stand for the world outside have in common: a journal, faults, JSON over HTTP."""
