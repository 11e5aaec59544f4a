"""The processes that run tasks: the Celery application and its settings."""
