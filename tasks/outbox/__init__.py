"""Outgoing events: from the outbox to Kafka."""
