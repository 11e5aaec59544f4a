"""The Celery application of Sluice, with a pool of threads as the configured default."""

from sluice.runtime.app import app

app.conf.worker_pool = "threads"

__all__ = ["app"]
