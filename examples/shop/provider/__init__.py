"""A payment provider as one meets them: HTTP, idempotency keys, and an answer that does not always come."""
