"""Shared by all processes of Sluice: settings, logs, the Celery application, metrics, health."""
