"""Wakes the relay when there is something to send. Without a wake-up, the relay runs once a second."""

import redis
import structlog

from sluice.runtime.celery_options import RELAY_QUEUE, RELAY_TASK
from sluice.tasks.task_sender import TaskSender

log = structlog.get_logger("sluice.relay_wakeup")

WAKEUP_KEY = "relay-wakeup"
# If the message is lost, no other message is sent for this time.
WAKEUP_MS = 1_000


class RelayWakeup:
    """Wakes the relay, at most one time per group of commits. A key in Redis suppresses further wake-ups."""

    def __init__(self, sender: TaskSender) -> None:
        self._sender = sender
        self._redis = sender.redis

    def notify(self) -> None:
        """Wakes the relay unless its message is on the list. Idempotent. Raises no errors of Redis."""
        try:
            if not self._redis.set(WAKEUP_KEY, 1, nx=True, px=WAKEUP_MS):
                return
            if not self._sender.is_waiting(RELAY_TASK, RELAY_QUEUE):
                self._sender.send(RELAY_TASK, RELAY_QUEUE)
        except (redis.RedisError, OSError) as error:
            # Beat starts the relay in any case.
            log.debug("relay not woken", error=str(error))

    def hold(self, milliseconds: int) -> None:
        """Suppresses wake-ups while the relay runs, for at most this time."""
        try:
            self._redis.set(WAKEUP_KEY, 1, px=milliseconds)
        except (redis.RedisError, OSError) as error:
            log.debug("wakeup not held", error=str(error))

    def release(self) -> None:
        """Allows wake-ups again. Called before the relay ends, for rows that are committed from then on."""
        try:
            self._redis.delete(WAKEUP_KEY)
        except (redis.RedisError, OSError) as error:
            log.debug("wakeup not released", error=str(error))
