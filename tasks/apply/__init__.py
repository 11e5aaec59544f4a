"""One batch of a queue, applied in one transaction."""
