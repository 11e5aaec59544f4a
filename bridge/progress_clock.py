"""Decides when the bridge reads the progress in Postgres, and how much of it. Pure: time is an argument."""

from enum import Enum

# The time between readings while messages are in flight; each applied message makes room for the next one.
BUSY_SECONDS = 0.1
# The most lanes that are read per second while messages are in flight. Each costs Postgres a look-up.
LANES_PER_SECOND = 10_000
# The longest time between readings. Within a second, a bridge must notice that an operator paused a topic.
IDLE_SECONDS = 0.5
# The time between writes of watermarks. A restart reads the records of this time again. Each write costs a
# row version.
WATERMARK_SECONDS = 1.0
# The time between readings of all lanes while no watermark rises. They detect that Postgres lost rows.
WHOLE_SECONDS = 5.0


class ProgressRead(Enum):
    """The lanes whose progress is read. The halted queues and the paused topics are always read."""

    IN_FLIGHT = "the lanes of the queues with messages in flight"
    ALL = "all lanes; watermarks are written in the same transaction"


class ProgressClock:
    """The times of the next readings. Times are by a monotonic clock."""

    def __init__(self) -> None:
        self._read_at = self._all_at = float("-inf")

    def request_all(self) -> None:
        """Makes a reading of all lanes due, because Postgres may have changed in any way."""
        self._all_at = float("-inf")

    def due_at(self, *, is_busy: bool, has_moved: bool, lanes: int = 0) -> float:
        """Returns the time of the next reading.

        `is_busy`: a reading may change what is sent. `has_moved`: a watermark may have risen. `lanes`: the
        number of lanes of the queues with messages in flight.
        """
        seconds = busy_seconds(lanes) if is_busy else IDLE_SECONDS
        return min(self._read_at + seconds, self.all_due_at(has_moved))

    def all_due_at(self, has_moved: bool) -> float:
        """Returns the time of the next reading of all lanes."""
        return self._all_at + (WATERMARK_SECONDS if has_moved else WHOLE_SECONDS)

    def due(self, now: float, *, is_busy: bool, has_moved: bool, lanes: int = 0) -> ProgressRead | None:
        """Returns what must be read now."""
        if now < self.due_at(is_busy=is_busy, has_moved=has_moved, lanes=lanes):
            return None
        return ProgressRead.ALL if now >= self.all_due_at(has_moved) else ProgressRead.IN_FLIGHT

    def note_tried(self, now: float) -> None:
        """Notes an attempt to read, which may have failed."""
        self._read_at = now

    def note_all(self, now: float) -> None:
        """Notes that all lanes were read and the watermarks were written."""
        self._all_at = now


def busy_seconds(lanes: int) -> float:
    """Returns the time between readings of this number of lanes while messages are in flight."""
    return min(max(BUSY_SECONDS, lanes / LANES_PER_SECOND), IDLE_SECONDS)
