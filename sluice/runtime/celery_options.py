"""How Celery reaches Redis: what the producers and the workers of batches must agree on."""

from typing import Any

from celery import Celery
from kombu.entity import Exchange, Queue

from sluice.runtime.settings import Settings

RELAY_QUEUE, MAINTENANCE_QUEUE, EFFECTS_QUEUE, REBUILD_QUEUE = "relay", "maintenance", "effects", "rebuild"
SERVICE_QUEUES = (RELAY_QUEUE, MAINTENANCE_QUEUE, EFFECTS_QUEUE, REBUILD_QUEUE)

APPLY_TASK = "sluice.apply"
RELAY_TASK = "sluice.relay"
EFFECT_TASK = "sluice.run_effect"
REBUILD_TASK = "sluice.rebuild"
START_REBUILDS_TASK = "sluice.start_rebuilds"
EXPIRE_CLAIMS_TASK = "sluice.expire_claims"
PURGE_TASK = "sluice.purge"
SELF_CHECK_TASK = "sluice.self_check"

EXCHANGE = Exchange("sluice", type="direct")  # type: ignore[no-untyped-call]

# Seconds, but for the throttle (rounds) and the steps (priorities).
TRANSPORT_OPTIONS: dict[str, Any] = {
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 10,
    # One list per queue, called like the queue: its length is one LLEN.
    "priority_steps": [0],
    # A Redis that swallows packets must not hold up the loop for longer than this.
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "health_check_interval": 10,
}


def make_celery(settings: Settings) -> Celery:
    """An application that can publish; importing nothing, connecting to nothing."""
    app = Celery("sluice", broker=settings.redis_url.get_secret_value())
    app.conf.update(
        # No result backend: a write less per task, and a dead Redis blocks for 19 s with one.
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json", "msgpack"],
        # A queue comes from `sluice init` or a re-routing, never from a misspelt name.
        task_create_missing_queues=False,
        # A batch is applied within seconds; that of a dead worker should come back soon. The guard makes
        # a message that returns too early harmless.
        broker_transport_options={
            **TRANSPORT_OPTIONS,
            "visibility_timeout": settings.visibility_timeout_seconds,
        },
    )
    return app


def apply_queue(name: str) -> Queue:
    """The queue as both sides declare it."""
    return Queue(name, EXCHANGE, routing_key=name)  # type: ignore[no-untyped-call]
