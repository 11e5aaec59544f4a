"""One lane's records between Kafka and Postgres: records in flight, and records not yet sent. Pure.

A lane contains the records of one partition that belong to one queue. A slice states that it contains all
records of the lane with offsets in (prev, last]. This only depends on the log, so the bridge makes new slices
each time that it sends records, and stores no slice.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

from sluice.kafka_io.record_types import Record, size_bytes
from sluice.tasks.apply.batch_message import Slice

# If a lane has made no progress for this time, its message is searched for. Usually a batch is applied within
# some 10 ms. The time doubles with each resend without progress, so that a slow database gets few resends.
FIRST_PATIENCE_SECONDS = 1.0
MAX_PATIENCE_SECONDS = 60.0
MAX_PAUSE_SECONDS = 10.0  # the longest pause of a lane without progress in a queue whose other lanes advance
# The pause of a lane that older workers cannot read; the list of workers is read every 10 s.
HELD_SECONDS = 5.0
REFUSED_AFTER = 2  # consecutive messages without an applied record; one message may be lost, but rarely two


@dataclass(frozen=True)
class Origin:
    """The fields that are equal in all slices of a partition, as read with the partition's assignment."""

    topic: str
    topic_id: str
    partition: int
    epoch: int


Sized: TypeAlias = tuple[Record, int]
"""A record and its size in bytes. The size is used three times, so it is stored."""


class Lane:
    """The lane's unapplied records with their sizes, in offset order: `sent` (in flight), then `unsent`.

    All records of the lane at or below the offset `applied` are applied. The next record of the lane is the
    first held record.
    """

    __slots__ = (
        "applied",
        "origin",
        "patience_seconds",
        "refusals",
        "sent",
        "unsent",
        "unsent_bytes",
        "waiting_since",
    )

    def __init__(self, origin: Origin, applied: int) -> None:
        self.origin = origin
        self.applied = applied
        self.sent: deque[Sized] = deque()
        self.unsent: deque[Sized] = deque()
        self.unsent_bytes = 0
        self.waiting_since = 0.0
        self.patience_seconds = FIRST_PATIENCE_SECONDS
        self.refusals = 0

    @property
    def is_refused(self) -> bool:
        """Returns True if the lane was sent several times, and no record of it was applied.

        A reason may be that no running worker declares the topic. Such a lane must not block the queue's
        other lanes.
        """
        return self.refusals >= REFUSED_AFTER

    def overdue_at(self) -> float:
        """Returns the time at which the message of a lane in flight is searched for."""
        return self.waiting_since + self.patience_seconds

    def first_unapplied(self) -> int | None:
        """Returns the offset of the first held record; None if no record is held."""
        if self.sent:
            return self.sent[0][0].offset
        return self.unsent[0][0].offset if self.unsent else None

    def add(self, records: list[Record]) -> int:
        """Adds the lane's next records, in order, without records that are applied.

        Returns the added bytes.
        """
        if records and records[0].offset <= self.applied:
            records = [record for record in records if record.offset > self.applied]
        sizes = list(map(size_bytes, records))
        added = sum(sizes)
        self.unsent.extend(zip(records, sizes, strict=True))
        self.unsent_bytes += added
        return added

    def advance(self, applied: int, now: float) -> int:
        """Drops the records up to the offset `applied`. Returns the freed bytes.

        `applied` must not decrease.
        """
        freed = 0
        while self.sent and self.sent[0][0].offset <= applied:
            freed += self.sent.popleft()[1]
        # Unsent records can be applied too, if another bridge sent them.
        while self.unsent and self.unsent[0][0].offset <= applied:
            size = self.unsent.popleft()[1]
            self.unsent_bytes -= size
            freed += size
        self.applied = applied
        self.waiting_since = now
        self.patience_seconds = FIRST_PATIENCE_SECONDS
        self.refusals = 0
        return freed

    def rewind(self) -> None:
        """Marks all unapplied records as unsent, in order."""
        self.unsent_bytes += sum(size for _, size in self.sent)
        self.unsent.extendleft(reversed(self.sent))
        self.sent.clear()

    def head(self, records: int, room_bytes: int) -> tuple[list[Record], int]:
        """Returns the first unsent records that fit into both limits, and their bytes. Changes nothing."""
        taken: list[Record] = []
        used = 0
        for record, size in self.unsent:
            used_with = used + size
            if len(taken) == records or used_with > room_bytes:
                break
            taken.append(record)
            used = used_with
        return taken, used

    def slice_of(self, records: list[Record]) -> Slice:
        """Returns a slice with these records, which must be the first unsent records."""
        origin = self.origin
        prev = self.sent[-1][0].offset if self.sent else self.applied
        return Slice(origin.topic, origin.topic_id, origin.partition, origin.epoch, prev, records)

    def note_sent(self, count: int, used_bytes: int, now: float) -> None:
        """Marks the first `count` unsent records as in flight."""
        if not self.sent:
            self.waiting_since = now
        for _ in range(count):
            self.sent.append(self.unsent.popleft())
        self.unsent_bytes -= used_bytes

    def held(self) -> Iterator[Record]:
        """Returns all unapplied records, in order."""
        return (record for record, _ in chain(self.sent, self.unsent))
