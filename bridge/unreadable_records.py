"""Finds partitions that stop at a record that the client cannot open.

Seeks behind records that operators skipped.
"""

from collections.abc import Mapping, Sequence

import structlog

from sluice.bridge.inflight import Inflight
from sluice.bridge.log_watch import LogWatch
from sluice.bridge.partition_problems import PartitionProblems
from sluice.bridge.progress_store import ProgressStore
from sluice.db.records import PartitionProblem, ProblemKind
from sluice.kafka_io.config import MAX_POLL_RECORDS
from sluice.kafka_io.consumer import Consumer
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from sluice.runtime.skipped_range import SkippedRange, next_unskipped

log = structlog.get_logger("sluice.bridge")

LOOK_SECONDS = 2.0
# librdkafka 2.16 reports no error for a malformed record, and fetches its batch repeatedly.
STALLED_SECONDS = 15.0
# After a longer time between two checks, the bridge was busy or blocked, and may not have polled in between.
LATE_SECONDS = 2 * LOOK_SECONDS


class PositionWatch:
    """Measures how long each partition has been at the same position. Pure."""

    def __init__(self) -> None:
        self._since: dict[Place, tuple[int, float]] = {}

    def note(
        self, positions: Mapping[Place, int], now: float, *, is_late: bool = False
    ) -> tuple[set[Place], set[Place]]:
        """Notes the positions of all partitions that are being read, without paused partitions.

        `is_late`: the client may hold records that the bridge has not polled yet. Then the time of every
        partition starts again.
        Returns two sets. The first set contains the partitions that moved or are no longer read. The second
        set contains the partitions without progress for STALLED_SECONDS, again after every further
        STALLED_SECONDS.
        """
        before, self._since = self._since, {}
        stood: set[Place] = set()
        for place, position in positions.items():
            at, since = before.get(place, (None, now))
            if at != position or is_late:
                since = now
            elif now - since >= STALLED_SECONDS:
                stood.add(place)
                since = now
            self._since[place] = (position, since)
        moved = {place for place, (at, _) in before.items() if positions.get(place) != at}
        return moved, stood


class UnreadableRecords:
    """Adds unreadable records to `problems`. The errors that the client reports are there too."""

    def __init__(
        self, store: ProgressStore, inflight: Inflight, logs: LogWatch, problems: PartitionProblems
    ) -> None:
        self._store = store
        self._inflight = inflight
        self._logs = logs
        self._problems = problems
        self._watch = PositionWatch()
        self._stalled: set[Place] = set()
        self._skipped: Mapping[Place, Sequence[SkippedRange]] = {}
        self._looked_at = float("-inf")
        self._polled_all = True

    def note_polled(self, records: int) -> None:
        """Notes the number of records of a poll. After a full poll, the client may hold further records."""
        if records >= MAX_POLL_RECORDS:
            self._polled_all = False

    def look(self, consumer: Consumer, now: float) -> None:
        """Checks the partitions every LOOK_SECONDS. Call it after all polled records were taken.

        Raises ProgressStoreUnavailable or ConsumerBroken.
        """
        since_last = now - self._looked_at
        if since_last < LOOK_SECONDS:
            return
        is_late = since_last > LATE_SECONDS or not self._polled_all
        self._looked_at, self._polled_all = now, True
        self._note_stalled(consumer, now, is_late)
        self._pass_skipped(consumer)

    def without_skipped(self, place: Place, records: list[Record]) -> list[Record]:
        """Returns the records that no operator skipped.

        The other client library may be able to open skipped records.
        """
        skipped = self._skipped.get(place)
        if not skipped:
            return records
        return [record for record in records if next_unskipped(skipped, record.offset) == record.offset]

    def _note_stalled(self, consumer: Consumer, now: float, is_late: bool) -> None:
        paused = consumer.paused()
        positions = {
            place: partition.position
            for place, partition in self._inflight.partitions.items()
            if place not in paused
        }
        moved, stood = self._watch.note(positions, now, is_late=is_late)
        for place in self._stalled & moved:
            self._problems.clear(place, [ProblemKind.UNREADABLE_RECORD])
        self._stalled -= moved
        # If a partition already has a problem, this problem is the reason why it does not move.
        for place in stood - self._problems.current().keys():
            # The end of the log was read earlier, so it is never higher than the current end.
            offset, end = positions[place], self._logs.ends.get(place, 0)
            if offset < end:
                self._stalled.add(place)
                detail = (
                    f"the client returns no record from offset {offset} on, although the log ends at {end};"
                    f" skip the record that cannot be read with `sluice skip {place[0]}:{place[1]}:{offset}"
                    ' --reason "…"`'
                )
                self._problems.note(place, PartitionProblem(ProblemKind.UNREADABLE_RECORD, detail, offset))

    def _pass_skipped(self, consumer: Consumer) -> None:
        self._skipped = self._store.read_skipped()
        for place in self._skipped.keys() & self._inflight.partitions.keys():
            position = self._inflight.partitions[place].position
            problem = self._problems.current().get(place)
            # If the client reports an unreadable record, no other record is between it and the position.
            named = problem.offset if problem is not None and problem.offset is not None else position
            offset = max(position, named)
            beyond = next_unskipped(self._skipped[place], offset)
            if beyond > offset:
                consumer.seek(place, beyond)
                self._inflight.note_position(place, beyond)
                self._problems.clear(place, [ProblemKind.UNREADABLE_RECORD])
                passed = f"{place[0]}[{place[1]}] from {offset} to {beyond - 1}"
                log.warning("skipped records passed", offsets=passed)
