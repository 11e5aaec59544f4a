"""A mail server as one meets them: SMTP, no idempotency keys, and a line for every message it accepted."""
