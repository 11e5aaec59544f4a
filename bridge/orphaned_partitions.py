"""Detects partitions that no bridge reads, and a bridge without partitions. Pure.

A static member that joins again gets its old partitions, without a rebalance. If this member leads the group,
no member compares the assignment with the current topics. Then partitions that were added meanwhile stay
unread until a rebalance.
"""

from collections.abc import Iterable, Mapping

from sluice.kafka_io.config import METADATA_MAX_AGE_MS, SESSION_TIMEOUT_MS
from sluice.kafka_io.consumer import TopicFacts
from sluice.runtime.place import Place

# Within this time, the group's leader reads the topics (every METADATA_MAX_AGE_MS) and assigns new
# partitions. If partitions are still not assigned after this time, only a rebalance helps.
ORPHANED_SECONDS = METADATA_MAX_AGE_MS / 1_000 + 15.0

# A working group assigns its partitions within five session time-outs. The time doubles each time that a new
# consumer gets no partition either.
EMPTY_SECONDS = 5 * SESSION_TIMEOUT_MS / 1_000
MAX_EMPTY_SECONDS = 600.0


class EmptyAssignment:
    """Measures how long this bridge has had no partition, although every bridge could have one.

    Observed after a restart of the only broker under load: the client polls, reports no error, and never gets
    a partition again. A new consumer gets partitions.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._patience = EMPTY_SECONDS

    def is_overdue(
        self, assigned: bool, topics: Mapping[str, TopicFacts], instance: int | None, now: float
    ) -> bool:
        """Returns True if the consumer should be replaced now.

        `assigned`: True if the member has a partition, of any share. `instance`: the bridge's number, from 0.
        """
        # With a share, the group assigns each topic separately, and always begins with the same members.
        counts = [known.partitions for known in topics.values()]
        shared = any(not known.share.is_whole for known in topics.values())
        useful = max(counts, default=0) if shared else sum(counts)
        is_spare = instance is None or instance >= useful
        if assigned or is_spare:
            self._since = None
            self._patience = EMPTY_SECONDS if assigned else self._patience
            return False
        self._since = now if self._since is None else self._since
        if now - self._since < self._patience:
            return False
        self._since, self._patience = None, min(MAX_EMPTY_SECONDS, 2 * self._patience)
        return True


class OrphanedPartitions:
    """Measures how long partitions have had no bridge."""

    def __init__(self) -> None:
        self._since: dict[Place, float] = {}

    def note(self, places: Iterable[Place], now: float) -> None:
        """Notes all partitions that have no bridge now."""
        self._since = {place: self._since.get(place, now) for place in places}

    def overdue(self, now: float, instance: int) -> list[Place]:
        """Returns the partitions for which this bridge should join again.

        Bridges with lower numbers do so earlier.
        """
        patience = ORPHANED_SECONDS * (1 + instance)
        return sorted(place for place, since in self._since.items() if now - since >= patience)
