"""A real Kafka, Postgres and Redis on this machine, for the demo, the tests and the bench."""

from sluice.runtime.service_urls import StackUrls
from sluice.stack.external_urls import external_urls
from sluice.stack.local import Stack
from sluice.stack.service import ComponentMissing, ServiceName, ServiceStatus, StackError, StopSignal

__all__ = [
    "ComponentMissing",
    "ServiceName",
    "ServiceStatus",
    "Stack",
    "StackError",
    "StackUrls",
    "StopSignal",
    "external_urls",
]
