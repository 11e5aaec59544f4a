"""A real Kafka, Postgres and Redis on this machine, for the demo, the tests and the bench."""

from ops.stack.local import Stack
from ops.stack.service import ServiceName, ServiceStatus, StackError, StopSignal
from ops.stack.urls import StackUrls, external_urls

__all__ = ["ServiceName", "ServiceStatus", "Stack", "StackError", "StackUrls", "StopSignal", "external_urls"]
