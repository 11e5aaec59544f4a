"""Messages that this process dropped: counted by reason, and logged once a minute per reason."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import structlog

log = structlog.get_logger("sluice.messages")

LOG_SECONDS = 60.0


class DroppedMessages:
    """Counts by reason. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._unlogged: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}
        self._listeners: list[Callable[[str], None]] = []

    def note(self, reason: str, **where: object) -> None:
        """Counts one. Never logs what it held."""
        with self._lock:
            self._counts[reason] += 1
            self._unlogged[reason] += 1
            now = self._clock()
            due = now - self._logged_at.get(reason, float("-inf")) >= LOG_SECONDS
            if due:
                self._logged_at[reason] = now
                count = self._unlogged.pop(reason)
        for listener in self._listeners:
            listener(reason)
        if due:
            log.warning("messages dropped", reason=reason, messages=count, **where)

    def listen(self, listener: Callable[[str], None]) -> None:
        """Calls `listener` with the reason of each message that is dropped from now on."""
        self._listeners.append(listener)

    @property
    def counts(self) -> Mapping[str, int]:
        """Reason → messages dropped since this process started."""
        return dict(self._counts)


dropped = DroppedMessages()
"""Those of this process: kombu makes its channels itself, so nothing can be handed to them."""
