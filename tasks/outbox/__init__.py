"""Outgoing events: sends the outbox to Kafka."""
