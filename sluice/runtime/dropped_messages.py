"""Counts the messages that this process dropped, by reason, and logs each reason at most once a minute."""

import threading
import time
from collections import Counter
from collections.abc import Callable

import structlog

from sluice.runtime.log_pace import LogPace

log = structlog.get_logger("sluice.messages")


class DroppedMessages:
    """Counts dropped messages by reason. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._pace = LogPace(clock=clock)
        self._unlogged: Counter[str] = Counter()
        self._listeners: list[Callable[[str], None]] = []

    def note(self, reason: str, **where: object) -> None:
        """Counts one message. Never logs its content."""
        with self._lock:
            self._unlogged[reason] += 1
            due = self._pace.allows(reason)
            count = self._unlogged.pop(reason) if due else 0
        for listener in self._listeners:
            listener(reason)
        if due:
            log.warning("messages dropped", reason=reason, messages=count, **where)

    def listen(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with the reason of each message that is dropped from now on."""
        self._listeners.append(listener)


dropped = DroppedMessages()
"""The counts of this process. This is a global variable, because kombu creates the channels that use it."""
