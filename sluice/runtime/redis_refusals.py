"""Handles refusals by a Redis that answers: it is full, cannot save, is a replica, or lacks replicas.

A refusal is not an outage. Publishers wait. Workers continue to take and apply messages, since only they can
empty a full Redis, which allows BRPOP, DEL, HDEL and ZREM.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
import structlog

from sluice.runtime.log_pace import LogPace

log = structlog.get_logger("sluice.redis")

MIB = 1024 * 1024
MAX_REASON_CHARACTERS = 200


def describe_refusal(error: redis.ResponseError, client: Any) -> str:
    """Returns a sentence for a refusal. Reads the memory of a full Redis. Raises nothing."""
    if _is_full(error):
        return _describe_full(client)
    # redis-py puts the command, which contains a part of the message, before the error of a pipeline.
    reason = str(error).rpartition("caused error: ")[2]
    return f"Redis refuses a command: {reason[:MAX_REASON_CHARACTERS]}"


def _is_full(error: redis.ResponseError) -> bool:
    # For a script, the client gives only the text of the error.
    return isinstance(error, redis.OutOfMemoryError) or "OOM command not allowed" in str(error)


def _describe_full(client: Any) -> str:
    try:
        memory = client.info("memory")
        used, limit = int(memory["used_memory"]), int(memory["maxmemory"])
    except (redis.RedisError, OSError, KeyError):
        return "Redis is full"
    return f"Redis is full: {used / MIB:.0f} of {limit / MIB:.0f} MiB"


class RefusedCommands:
    """Logs refusals, each kind once a minute. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._pace = LogPace(clock=clock)

    def note(self, error: redis.ResponseError, make_client: Callable[[], Any]) -> None:
        """Logs a refusal if a line is due. `make_client` returns a client whose connection is idle."""
        with self._lock:
            due = self._pace.allows("full" if _is_full(error) else type(error).__name__)
        if due:
            log.warning(describe_refusal(error, make_client()))

    @contextmanager
    def tolerated(self, make_client: Callable[[], Any]) -> Iterator[None]:
        """Ignores a refusal of the block's commands, and logs it as `note` does."""
        try:
            yield
        except redis.ResponseError as error:
            self.note(error, make_client)


refused = RefusedCommands()
"""The refusals of this process. A global, since kombu makes its channels itself."""
