"""The outbox rows of one relay run, and which of them may be in flight together. Pure.

A producer may fail at one record and succeed at the next. If both were of one key, the later event would be
there without the earlier one. So of one (topic, key) never two are in flight: the second is handed over when
the first is acknowledged.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable

from sluice.db.records import WaitingRow
from sluice.kafka_io.record_types import Delivery


class OutboxPage:
    """The rows of one run. Hand over `heads`, and after each delivery what `settle` returns."""

    def __init__(self, rows: Iterable[WaitingRow]) -> None:
        self.acknowledged: list[WaitingRow] = []
        self.refused: list[tuple[WaitingRow, str]] = []
        self.away: dict[str, str] = {}
        """Topic → why something of it did not arrive."""
        self.heads: list[WaitingRow] = []
        """The first row of each (topic, key), and all rows without a key."""
        self._behind: defaultdict[tuple[str, str], deque[WaitingRow]] = defaultdict(deque)
        begun: set[tuple[str, str]] = set()
        for row in rows:
            if row.key is None:
                # No key, no order.
                self.heads.append(row)
                continue
            place = (row.topic, row.key)
            if place in begun:
                self._behind[place].append(row)
            else:
                begun.add(place)
                self.heads.append(row)

    def settle(self, row: WaitingRow, delivery: Delivery, error: str = "") -> WaitingRow | None:
        """Notes what became of a row; the row to hand over now, if there is one."""
        if delivery is Delivery.ACKNOWLEDGED:
            self.acknowledged.append(row)
            if row.key is not None and (behind := self._behind.get((row.topic, row.key))):
                return behind.popleft()
        elif delivery is Delivery.REFUSED:
            self.refused.append((row, error))
        else:
            self.away.setdefault(row.topic, error)
        return None

    def take_refused(self) -> list[WaitingRow]:
        """The refused ones, to be handed over one by one: perhaps it was their company that was refused."""
        suspects, self.refused = [row for row, _ in self.refused], []
        return suspects


def ids_by_queue(rows: Iterable[WaitingRow]) -> dict[str, list[int]]:
    """Queue → ids of its rows, in the order they come in."""
    ids: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        ids[row.queue].append(row.id)
    return ids


def sent_through(
    before: int, ids: Collection[int], acknowledged: Iterable[int], lowest_hidden: int | None
) -> int:
    """The highest id of a queue at or below which nothing is left, after a page of its oldest rows.

    `ids` are all of the page of that queue; `lowest_hidden` is the lowest id there that no page shows: it is
    refused, or of a newer format. It may lie far above a page that was cut short: what is between them was
    not seen.
    """
    left = set(ids).difference(acknowledged)
    if lowest_hidden is not None:
        left.add(lowest_hidden)
    return max(before, min([max(ids, default=before), *(number - 1 for number in left)]))
