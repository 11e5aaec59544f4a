"""Outgoing events from a transaction of your own, for example of a web application."""

from sluice.tasks.outbox.emit import emit

__all__ = ["emit"]
