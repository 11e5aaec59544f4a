"""Wakes the relay as soon as there is something to send. Without it, the relay runs once a second."""

import redis
import structlog

from sluice.runtime.celery_options import RELAY_QUEUE, RELAY_TASK
from sluice.tasks.task_sender import TaskSender

log = structlog.get_logger("sluice.relay_wakeup")

WAKEUP_KEY = "relay-wakeup"
# A lost message suppresses others for this long.
WAKEUP_MS = 1_000


class RelayWakeup:
    """The key in Redis by which workers wake the relay once per batch of commits."""

    def __init__(self, sender: TaskSender) -> None:
        self._sender = sender
        self._redis = sender.redis

    def notify(self) -> None:
        """Wakes the relay unless its message is in the list. Idempotent. Never raises errors of Redis."""
        try:
            if not self._redis.set(WAKEUP_KEY, 1, nx=True, px=WAKEUP_MS):
                return
            if not self._sender.is_waiting(RELAY_TASK, RELAY_QUEUE):
                self._sender.send(RELAY_TASK, RELAY_QUEUE)
        except (redis.RedisError, OSError) as error:
            # Beat starts the relay anyway.
            log.debug("relay not woken", error=str(error))

    def hold(self, milliseconds: int) -> None:
        """Suppresses wake-ups while the relay runs, for at most this long."""
        try:
            self._redis.set(WAKEUP_KEY, 1, px=milliseconds)
        except (redis.RedisError, OSError) as error:
            log.debug("wakeup not held", error=str(error))

    def release(self) -> None:
        """Allows wake-ups again before the relay ends, for rows that are committed from now on."""
        try:
            self._redis.delete(WAKEUP_KEY)
        except (redis.RedisError, OSError) as error:
            log.debug("wakeup not released", error=str(error))
