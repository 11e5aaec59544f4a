"""Decides how many events are tried together, to find the events that Postgres refuses. Pure."""

from collections.abc import Sequence

from sluice.tasks.fold.plan import Planned, touched_rows


def count_apart(events: Sequence[Planned]) -> int:
    """Returns how many of the first events write different rows, at least 1.

    Postgres checks a row only as the last of several events leaves it. If a later event of the same savepoint
    corrected the row of a refused event, that event would be applied, and perhaps another one refused.
    """
    written: set[tuple[str, str]] = set()
    for number, event in enumerate(events):
        rows = {(table.name, key) for table, key in touched_rows(event)}
        reads = any(run.reads for run in event.runs)  # it may write any row
        if reads or rows & written:
            return max(1, number)
        written |= rows
    return len(events)


class Halving:
    """The search in a batch that Postgres refused as a whole.

    A refused event costs about 2 · log2(n) attempts. If Postgres refuses many events, there are at most three
    attempts per event.
    """

    def __init__(self, events: int) -> None:
        """The batch of `events` events was refused."""
        self._suspected = events
        """So many of the next events contain a refused one; 0: unknown."""
        self._size = 1
        """The number of events to try while none is suspected."""
        self._accepted = 0
        """The number of events that were accepted since the newest refused one."""

    def next_count(self, left: int) -> int:
        """Returns how many of the `left` next events are tried together."""
        wanted = self._suspected // 2 if self._suspected else self._size
        return max(1, min(wanted, left))

    def note_accepted(self, count: int) -> None:
        """Notes that Postgres accepted the next `count` events."""
        self._accepted += count
        if self._suspected:
            self._suspected = max(0, self._suspected - count)
        else:
            self._size *= 2

    def note_refused(self, count: int) -> None:
        """Notes that Postgres refused the next `count` events together."""
        self._suspected = count

    def note_single(self, *, accepted: bool) -> None:
        """Notes that the next event was settled alone. After a refused event, the search begins again."""
        self._suspected = 0
        if accepted:
            self.note_accepted(1)
        else:
            self._size, self._accepted = max(1, self._accepted), 0
