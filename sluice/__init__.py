"""Kafka events to Postgres state, effectively once, with Celery workers doing the work."""
