"""Code shared by the two servers that simulate external services: a journal, faults, JSON over HTTP."""
