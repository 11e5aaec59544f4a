"""A realistic payment provider: HTTP, idempotency keys, and answers that may be lost."""
