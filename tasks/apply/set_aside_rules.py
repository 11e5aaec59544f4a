"""Decides which events are set aside, when they are retried, and when one becomes a dead letter. Pure."""

from collections import defaultdict
from dataclasses import dataclass

from sluice.db.errors import LOCK_NOT_AVAILABLE, QUERY_CANCELED, sqlstate
from sluice.db.records import RetryKind
from sluice.runtime.backoff import backoff_seconds

# 25P03 and 25P04: Postgres ended the session, because its transaction was idle or took too long.
_TIME_OUTS = frozenset({QUERY_CANCELED, "25P03", "25P04"})
_MAX_REMEMBERED = 10_000  # letters per process; the next time-out of a forgotten letter may not count


@dataclass(frozen=True)
class RetryLimits:
    """How often and how long events that were set aside are retried."""

    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 60.0
    max_failures: int = 5
    """Number of counted time-outs after which the event becomes a dead letter."""
    share: float = 0.1
    """The share of a queue's time that its retries may take."""
    run_seconds: float = 0.1
    """After this time of retries behind one batch, no further retry begins."""

    def pause_seconds(self, attempts: int) -> float:
        """Returns the pause after `attempts` consecutive failed attempts."""
        return backoff_seconds(self.first_pause_seconds, self.longest_pause_seconds, attempts)


def kind_of(error: BaseException) -> RetryKind:
    """Returns the kind of retry for an event with this error of the surroundings."""
    code = sqlstate(error)
    if code in _TIME_OUTS:
        return RetryKind.TIMED_OUT
    return RetryKind.ROW_HELD if code == LOCK_NOT_AVAILABLE else RetryKind.UNAVAILABLE


class RetryBudget:
    """Keeps the retries of one queue within their share of the queue's time."""

    def __init__(self, share: float) -> None:
        self._rest = 1 / share - 1
        self._closed_until = float("-inf")

    def allows(self, now: float) -> bool:
        """Returns True if a retry may begin."""
        return now >= self._closed_until

    def note(self, started: float, ended: float) -> None:
        """Allows no retry until the time that the retries took is within their share."""
        self._closed_until = ended + (ended - started) * self._rest


class CommitCounts:
    """Counts the commits of one worker per queue, to distinguish a slow event from a slow server.

    A time-out of an event counts only if, after the event's previous time-out, this worker committed other
    events of the queue and none of its batches timed out.
    """

    def __init__(self) -> None:
        self._commits: defaultdict[str, int] = defaultdict(int)
        self._time_outs: defaultdict[str, int] = defaultdict(int)
        self._seen: dict[int, tuple[int, int]] = {}

    def note_committed(self, queue: str) -> None:
        """Counts a committed batch with events of the queue."""
        self._commits[queue] += 1

    def note_timed_out(self, queue: str) -> None:
        """Counts a batch of the queue that timed out."""
        self._time_outs[queue] += 1

    def counts(self, queue: str, letter_id: int) -> bool:
        """Returns True if a time-out of the letter counts. The next time-out counts only after a commit."""
        commits, time_outs = self._seen.get(letter_id, (0, 0))
        if len(self._seen) >= _MAX_REMEMBERED:
            self._seen.clear()
        self._seen[letter_id] = now = (self._commits[queue], self._time_outs[queue])
        return now[0] > commits and now[1] == time_outs

    def forget(self, letter_id: int) -> None:
        """Forgets a letter that is no longer retried."""
        self._seen.pop(letter_id, None)
