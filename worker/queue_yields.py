"""Notes records that this worker could not apply, because of an undeclared topic or a newer format.

The worker's loop writes the notes. The lease thread reads the notes. It gives a queue back if another worker
can apply the records.
"""

import threading
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

HELD_SECONDS = 5.0  # a queue is kept for at least this long before it is given back
# Afterwards it is not taken for this long, so two workers that each lack one topic take turns.
YIELDED_SECONDS = 10.0


class Left(NamedTuple):
    """The records of one queue that this worker could not apply."""

    topics: frozenset[str] = frozenset()
    message_format: int = 0
    """The newest format of a message that was not applied; 0 if every format could be read."""


class QueueYields:
    """The queues with unapplied records.

    The loop calls `note`, and the lease thread calls the other methods.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: dict[str, Left] = {}
        self._until: dict[str, float] = {}

    def note(self, queue: str, *, topics: Iterable[str] = (), message_format: int = 0) -> None:
        """Notes that slices of these topics, or a message of this format, were not applied. Idempotent."""
        with self._lock:
            before = self._left.get(queue, Left())
            self._left[queue] = Left(
                before.topics | frozenset(topics), max(before.message_format, message_format)
            )

    def choose(
        self,
        taken_at: dict[str, float],
        held: Collection[str],
        now: float,
        may_yield: Callable[[str, Left], bool],
    ) -> list[str]:
        """Returns the queues to give back now. They are not taken again for YIELDED_SECONDS.

        `taken_at`: queue → start of its lease. `may_yield` returns True if another worker can apply the
        records.
        """
        with self._lock:
            left = {queue: what for queue, what in self._left.items() if queue in held}
            chosen = [
                queue
                for queue, what in left.items()
                if now - taken_at.get(queue, now) >= HELD_SECONDS and may_yield(queue, what)
            ]
            for queue in chosen:
                del self._left[queue]
                self._until[queue] = now + YIELDED_SECONDS
        return chosen

    def yielded(self, now: float) -> frozenset[str]:
        """Returns the queues that this worker has given back and does not take again yet."""
        self._until = {queue: until for queue, until in self._until.items() if until > now}
        return frozenset(self._until)
