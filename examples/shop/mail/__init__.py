"""A realistic mail server: SMTP, no idempotency keys, and a log of every accepted message."""
