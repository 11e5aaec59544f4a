"""Handles refusals by Redis: it answers, but is full, cannot save, is a replica, or lacks replicas.

A refusal is not an outage. Publishers wait. Workers continue to take and apply messages, because only this
empties a full Redis. A full Redis still allows BRPOP, DEL, HDEL and ZREM.
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
    """Returns a sentence about a refusal. If Redis is full, the sentence contains its memory.

    Never raises.
    """
    if _is_full(error):
        return _describe_full(client)
    # In the error of a pipeline, redis-py writes the command first, and the command contains a part of the
    # message.
    reason = str(error).rpartition("caused error: ")[2]
    return f"Redis refuses a command: {reason[:MAX_REASON_CHARACTERS]}"


def _is_full(error: redis.ResponseError) -> bool:
    # For an error in a script, the client has no class, only the text.
    return isinstance(error, redis.OutOfMemoryError) or "OOM command not allowed" in str(error)


def _describe_full(client: Any) -> str:
    try:
        memory = client.info("memory")
        used, limit = int(memory["used_memory"]), int(memory["maxmemory"])
    except (redis.RedisError, OSError, KeyError):
        return "Redis is full"
    return f"Redis is full: {used / MIB:.0f} of {limit / MIB:.0f} MiB"


class RefusedCommands:
    """Logs refusals, each kind at most once a minute. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._pace = LogPace(clock=clock)

    def note(self, error: redis.ResponseError, make_client: Callable[[], Any]) -> None:
        """Logs a refusal if a line is due.

        `make_client` returns a client with an idle connection, to read the memory.
        """
        with self._lock:
            due = self._pace.allows("full" if _is_full(error) else type(error).__name__)
        if due:
            log.warning(describe_refusal(error, make_client()))

    @contextmanager
    def tolerated(self, make_client: Callable[[], Any]) -> Iterator[None]:
        """Ignores a refusal of a command in the block, and logs the refusal as `note` does."""
        try:
            yield
        except redis.ResponseError as error:
            self.note(error, make_client)


refused = RefusedCommands()
"""The refusals of this process. This is a global variable, because kombu creates the channels that use it."""
