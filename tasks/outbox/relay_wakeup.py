"""Calls the relay as soon as there is something to send; without a call it comes once a second by itself."""

import redis
import structlog

from sluice.runtime.celery_options import RELAY_QUEUE, RELAY_TASK
from sluice.tasks.task_sender import TaskSender

log = structlog.get_logger("sluice.relay_wakeup")

WAKEUP_KEY = "relay-wakeup"
# A call that was lost holds back others for so long.
WAKEUP_MS = 1_000


class RelayWakeup:
    """The key in Redis by which workers wake the relay once per batch of commits."""

    def __init__(self, sender: TaskSender) -> None:
        self._sender = sender
        self._redis = sender.redis

    def notify(self) -> None:
        """Wakes the relay unless its message lies in the list. Idempotent. Never raises what Redis raises."""
        try:
            if not self._redis.set(WAKEUP_KEY, 1, nx=True, px=WAKEUP_MS):
                return
            if not self._sender.is_waiting(RELAY_TASK, RELAY_QUEUE):
                self._sender.send(RELAY_TASK, RELAY_QUEUE)
        except (redis.RedisError, OSError) as error:
            # Beat calls it anyway.
            log.debug("relay not called", error=str(error))

    def hold(self, milliseconds: int) -> None:
        """The relay is there: nobody need call it, for so long at most."""
        try:
            self._redis.set(WAKEUP_KEY, 1, px=milliseconds)
        except (redis.RedisError, OSError) as error:
            log.debug("wakeup not held", error=str(error))

    def release(self) -> None:
        """The relay is about to leave: what is committed from now on calls it again."""
        try:
            self._redis.delete(WAKEUP_KEY)
        except (redis.RedisError, OSError) as error:
            log.debug("wakeup not released", error=str(error))
