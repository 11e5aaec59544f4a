"""What beat starts, and when: all of it, in one place."""

from typing import Any

from sluice.runtime.celery_options import (
    EXPIRE_CLAIMS_TASK,
    MAINTENANCE_QUEUE,
    PURGE_TASK,
    RELAY_QUEUE,
    RELAY_TASK,
    SELF_CHECK_TASK,
    START_REBUILDS_TASK,
)


def _every(seconds: float, task: str, queue: str) -> dict[str, Any]:
    return {"task": task, "schedule": seconds, "options": {"queue": queue}}


SCHEDULE = {
    # The safety net under the wake-ups, and what dispatches calls whose back-off is over.
    "relay and dispatch": _every(1.0, RELAY_TASK, RELAY_QUEUE),
    "rebuilds": _every(1.0, START_REBUILDS_TASK, MAINTENANCE_QUEUE),
    "leases": _every(5.0, EXPIRE_CLAIMS_TASK, MAINTENANCE_QUEUE),
    "self-check": _every(60.0, SELF_CHECK_TASK, MAINTENANCE_QUEUE),
    "purge": _every(3_600.0, PURGE_TASK, MAINTENANCE_QUEUE),
}
