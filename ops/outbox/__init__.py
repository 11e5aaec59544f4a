"""`sluice outbox`: outgoing events that wait, or were refused."""
