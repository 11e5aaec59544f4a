"""Partitions that are there and that no bridge has ever started. Pure.

A static member that comes back gets what it had, without a rebalance. If it leads the group, nobody compares
that with what there is by now: partitions added while it was away would stay unread until the next rebalance.
"""

from collections.abc import Iterable

from sluice.kafka_io.consumer import METADATA_MAX_AGE_MS
from sluice.runtime.place import Place

# For so long although the group's leader has looked at the topics meanwhile (every METADATA_MAX_AGE_MS) and
# could have shared them out: it will not see to them any more.
ORPHANED_SECONDS = METADATA_MAX_AGE_MS / 1_000 + 15.0


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
