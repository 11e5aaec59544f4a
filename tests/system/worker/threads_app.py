"""Sluice's application with a pool that is set where `-P` is not given."""

from sluice.runtime.app import app

app.conf.worker_pool = "threads"

__all__ = ["app"]
