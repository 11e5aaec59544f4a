"""The outbox rows of one relay run; selects the rows that may be in flight together. Pure.

A producer may fail at one record and succeed at the next. If both have the same key, the later event would
arrive without the earlier event. So only one record of each (topic, key) is in flight. The next record with
the same topic and key is sent after this one is acknowledged.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable

from sluice.db.records import WaitingRow
from sluice.kafka_io.record_types import Delivery


class OutboxPage:
    """The rows of one run. Send `heads`, and after each delivery the row that `settle` returns."""

    def __init__(self, rows: Iterable[WaitingRow]) -> None:
        self.acknowledged: list[WaitingRow] = []
        self.refused: list[tuple[WaitingRow, str]] = []
        self.away: dict[str, str] = {}
        """Topic → the reason why one of its records did not arrive."""
        self.heads: list[WaitingRow] = []
        """The first row of each (topic, key), and all rows without a key."""
        self._behind: defaultdict[tuple[str, str], deque[WaitingRow]] = defaultdict(deque)
        begun: set[tuple[str, str]] = set()
        for row in rows:
            if row.key is None:
                # Rows without a key have no order.
                self.heads.append(row)
                continue
            place = (row.topic, row.key)
            if place in begun:
                self._behind[place].append(row)
            else:
                begun.add(place)
                self.heads.append(row)

    def settle(self, row: WaitingRow, delivery: Delivery, error: str = "") -> WaitingRow | None:
        """Notes the result of a row. Returns the row to send now, if there is one."""
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
        """Removes and returns the refused rows. The caller sends each alone: another row may be the cause."""
        suspects, self.refused = [row for row, _ in self.refused], []
        return suspects


def ids_by_queue(rows: Iterable[WaitingRow]) -> dict[str, list[int]]:
    """Returns queue → ids of its rows, in the given order."""
    ids: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        ids[row.queue].append(row.id)
    return ids


def sent_through(
    before: int, ids: Collection[int], acknowledged: Iterable[int], lowest_hidden: int | None
) -> int:
    """Returns the highest id of a queue up to which all rows are sent, after a page of its oldest rows.

    `ids` are all rows of that queue in the page. `lowest_hidden` is the lowest id of a row that no page
    contains, because the row is refused or of a newer format. This id may be far above the last id of the
    page. The rows between the two ids were not read.
    """
    left = set(ids).difference(acknowledged)
    if lowest_hidden is not None:
        left.add(lowest_hidden)
    return max(before, min([max(ids, default=before), *(number - 1 for number in left)]))
