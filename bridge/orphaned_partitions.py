"""Partitions that no bridge reads, and a bridge without partitions. Pure.

A static member that comes back gets what it had, without a rebalance. If it leads the group, nobody compares
that with what there is by now: partitions added while it was away would stay unread until the next rebalance.
"""

from collections.abc import Collection, Iterable, Mapping

from sluice.kafka_io.config import METADATA_MAX_AGE_MS, SESSION_TIMEOUT_MS
from sluice.kafka_io.consumer import TopicFacts
from sluice.runtime.place import Place

# For so long although the group's leader has looked at the topics meanwhile (every METADATA_MAX_AGE_MS) and
# could have shared them out: it will not see to them any more.
ORPHANED_SECONDS = METADATA_MAX_AGE_MS / 1_000 + 15.0

# Five sessions: a group that works has assigned its partitions by then. Doubled while that changes nothing.
EMPTY_SECONDS = 5 * SESSION_TIMEOUT_MS / 1_000
MAX_EMPTY_SECONDS = 600.0


class EmptyAssignment:
    """Since when this bridge has had no partition, although there are enough for every bridge.

    Seen after a restart of the only broker under load: the client polls on, reports no error, and is never
    assigned a partition again. A new consumer is.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._patience = EMPTY_SECONDS

    def is_overdue(
        self, assigned: Collection[Place], topics: Mapping[str, TopicFacts], instance: int | None, now: float
    ) -> bool:
        """Returns True if the consumer should be replaced now. `instance` counts the bridges from 0."""
        is_spare = instance is None or instance >= sum(known.partitions for known in topics.values())
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
    """Since when partitions have been nobody's."""

    def __init__(self) -> None:
        self._since: dict[Place, float] = {}

    def note(self, places: Iterable[Place], now: float) -> None:
        """All that are nobody's now."""
        self._since = {place: self._since.get(place, now) for place in places}

    def overdue(self, now: float, instance: int) -> list[Place]:
        """Those that this bridge should see to: of several the one with the lowest number is the first."""
        patience = ORPHANED_SECONDS * (1 + instance)
        return sorted(place for place, since in self._since.items() if now - since >= patience)
