"""Which outgoing records may be in flight together: of one (topic, key) never two. Pure.

A producer may fail at one record and succeed at the next. If both were of one key, the later event would be
there without the earlier one. So the second is handed over when the first is acknowledged, and not before.
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum

from db.relay import WaitingRow


class Delivery(Enum):
    """What became of a record that was handed to the producer."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"  # the broker wants it in no company, or not at all
    AWAY = "away"  # nobody knows; it stays and is sent again, with the same id


class Page:
    """The rows of one run. Hand over `heads`, and after each delivery what `settle` returns."""

    def __init__(self, rows: Iterable[WaitingRow]) -> None:
        self.acknowledged: list[WaitingRow] = []
        self.refused: list[tuple[WaitingRow, str]] = []
        self.away: dict[str, str] = {}
        """Topic → why something of it did not arrive."""
        self.heads: list[WaitingRow] = []
        """The first row of each (topic, key), and all rows without a key."""
        self._behind: dict[tuple[str, str], deque[WaitingRow]] = {}
        for row in rows:
            if row.key is None:
                # No key, no order.
                self.heads.append(row)
                continue
            place = (row.topic, row.key)
            behind = self._behind.get(place)
            if behind is None:
                self._behind[place] = deque()
                self.heads.append(row)
            else:
                behind.append(row)

    def settle(self, row: WaitingRow, delivery: Delivery, error: str = "") -> WaitingRow | None:
        """Notes what became of a row; the row to hand over now, if there is one."""
        if delivery is Delivery.ACKNOWLEDGED:
            self.acknowledged.append(row)
            behind = self._behind.get((row.topic, row.key)) if row.key is not None else None
            if behind:
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


def sent_through(
    before: int, rows: Iterable[WaitingRow], acknowledged: Iterable[WaitingRow], lowest_refused: int | None
) -> int:
    """The highest id of a queue at or below which nothing is left, after a page of its oldest rows.

    `rows` are all rows of the page of that queue; `lowest_refused` is the lowest id refused there, which no
    page shows. It may lie far above a page that was cut short: what is between them was not seen.
    """
    ids = {row.id for row in rows}
    left = ids - {row.id for row in acknowledged}
    if lowest_refused is not None:
        left.add(lowest_refused)
    return max(before, min([max(ids, default=before), *(number - 1 for number in left)]))
