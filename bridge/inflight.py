"""All records that the bridge has read and that are not applied yet, by partition and by queue. Pure."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import TypeAlias

from sluice.bridge.lanes import Lane, Origin
from sluice.bridge.queue_buffer import QueueBuffer
from sluice.bridge.queue_messages import Resend
from sluice.bridge.queue_schedule import QueueSchedule
from sluice.db.delivery.progress import Assignment
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from sluice.tasks.events.routing import queue_name, shard_of

# Number of keys per partition whose queue is cached. To hash a key costs ten times as much as a look-up.
REMEMBERED_KEYS = 10_000
# Longer keys are not cached, so the cached keys of a partition take at most 10 MB.
REMEMBERED_KEY_BYTES = 1024

Asked: TypeAlias = tuple[list[Place], AbstractSet[str]]
"""The partitions and queues of a reading of the progress."""
Watermarks: TypeAlias = dict[Place, tuple[int, int]]
"""Partition → (epoch, watermark)."""


class Partition:
    """A started partition: its lanes, and the position up to which it was read.

    A lane contains the partition's records of one queue. It starts at the applied offset in Postgres.
    """

    def __init__(self, place: Place, assignment: Assignment, watermark: int) -> None:
        topic, number = place
        self.assignment = assignment
        self.lanes: dict[str, Lane] = {}
        self.position = watermark
        self.watermark = watermark
        """The highest watermark known to be stored in Postgres."""
        self.held_bytes = 0
        self._holding: dict[Lane, None] = {}  # the lanes with records
        self._lowest: Lane | None = None  # the lane with the lowest record; None if it is not computed
        self._origin = Origin(topic, assignment.topic_id, number, assignment.epoch)
        self._by_key: dict[bytes | None, str] = {}
        for queue in assignment.applied:
            self.lane(queue)

    def lane(self, queue: str) -> Lane:
        """Returns the lane of a queue.

        If Postgres has no row for the lane, none of its records is applied.
        """
        if queue not in self.lanes:
            self.lanes[queue] = Lane(self._origin, self.assignment.applied.get(queue, -1))
        return self.lanes[queue]

    def route(self, records: Iterable[Record]) -> dict[str, list[Record]]:
        """Returns the records by queue, in order."""
        by_key, routed = self._by_key, dict[str, list[Record]]()
        for record in records:
            queue = by_key.get(record.key) or self._queue_of(record.key)
            try:
                routed[queue].append(record)
            except KeyError:
                routed[queue] = [record]
        return routed

    def hold(self, lane: Lane, records: list[Record]) -> None:
        """Adds the lane's next records. Their offsets are higher than those of all held records."""
        self.held_bytes += lane.add(records)
        if lane.first_unapplied() is not None:
            self._holding[lane] = None

    def advance(self, lane: Lane, applied: int, now: float) -> None:
        """Drops the lane's records up to the offset `applied`, which must not decrease."""
        self.held_bytes -= lane.advance(applied, now)
        if lane.first_unapplied() is None:
            self._holding.pop(lane, None)
        if lane is self._lowest:
            self._lowest = None

    def lowest_unapplied(self) -> int:
        """Returns the lowest offset without an outcome, which is the new watermark."""
        if self._lowest is None and self._holding:
            self._lowest = min(self._holding, key=lambda lane: lane.first_unapplied() or 0)
        lowest = None if self._lowest is None else self._lowest.first_unapplied()
        return self.position if lowest is None else lowest

    def _queue_of(self, key: bytes | None) -> str:
        if len(self._by_key) >= REMEMBERED_KEYS:
            self._by_key.clear()
        queue = queue_name(self.assignment.entity, shard_of(key, self.assignment.shards))
        if key is None or len(key) <= REMEMBERED_KEY_BYTES:
            self._by_key[key] = queue
        return queue

    def why_lost(self, now: Assignment | None, queues: Iterable[str] | None = None) -> str | None:
        """Returns the reason why the held records no longer match the state in Postgres; None if they match.

        `queues`: the queues whose lanes `now` contains, if not all.
        """
        was = self.assignment
        if now is None or now.watermark is None:
            return "the rows of the partition were deleted"
        if now.topic_id != was.topic_id:
            return "the topic has another id"
        if (now.epoch, now.partition_epoch, now.shards) != (was.epoch, was.epoch, was.shards):
            return "the entity type of the topic was re-routed"
        if now.watermark < self.watermark:
            return "the watermark in Postgres decreased"
        # Postgres may lose the newest writes, for example in a failover. Without this check, the records of a
        # lane that were applied in the lost writes would be skipped.
        read = self.lanes if queues is None else self.lanes.keys() & set(queues)
        if any(now.applied.get(queue, -1) < self.lanes[queue].applied for queue in read):
            return "the applied offset of a lane in Postgres decreased"
        return None


class Inflight:
    """The started partitions, and the queues of their records.

    `max_bytes` and `max_span` limit the held records. Each partition gets an equal share of both limits.
    """

    def __init__(self, *, max_bytes: int, max_span: int) -> None:
        self._max_bytes = max_bytes
        self._max_span = max_span
        self.partitions: dict[Place, Partition] = {}
        self.queues: dict[str, QueueBuffer] = {}
        self.schedule = QueueSchedule()
        self._holding: dict[Place, Partition] = {}  # partitions that may hold records
        self.moved: dict[Place, Partition] = {}
        """Partitions whose watermark may be higher than the stored one."""
        self._halted: frozenset[str] = frozenset()
        self._paused_topics: frozenset[str] | None = None

    def start(self, place: Place, assignment: Assignment, watermark: int) -> None:
        """Adds a partition, whose records are held from now on.

        The consumer's position must be the watermark.
        """
        self.forget(place)
        self.partitions[place] = Partition(place, assignment, watermark)

    def forget(self, place: Place) -> None:
        """Drops the partition and its records. Idempotent.

        Messages that were sent are harmless, because workers apply each record only once.
        """
        partition = self.partitions.pop(place, None)
        self._holding.pop(place, None)
        self.moved.pop(place, None)
        if partition is not None:
            for queue, lane in partition.lanes.items():
                if queue in self.queues:
                    self._buffer(queue).forget(lane)

    def take(self, place: Place, records: list[Record], now: float) -> None:
        """Holds the next records of a partition. Discards them if the partition is not started.

        Records of a partition that is not started were polled before the seek to the watermark. If they were
        held, the records between the watermark and them would be skipped.
        """
        partition = self.partitions.get(place)
        if partition is None or not records:
            return
        for queue, routed in partition.route(records).items():
            lane = partition.lane(queue)
            partition.hold(lane, routed)
            self._buffer(queue).note_added(lane, now)
        partition.position = records[-1].offset + 1
        self._holding[place] = self.moved[place] = partition

    def note_position(self, place: Place, position: int) -> None:
        """Notes the consumer's position.

        It may be behind entries of the log that are no records, such as transaction markers. Call it after
        `take` for all polled records.
        """
        partition = self.partitions.get(place)
        if partition is not None and position > partition.position:
            partition.position = position
            self.moved[place] = partition

    @property
    def is_busy(self) -> bool:
        """Returns True if a reading of the progress may soon change what is sent."""
        return bool(self.schedule.in_flight or self._halted)

    def asked(self) -> Asked:
        """Returns the partitions and queues whose progress may soon change what is sent."""
        return list(self._holding), frozenset(self.schedule.in_flight)

    def settle(
        self, read: Mapping[Place, Assignment], now: float, asked: Asked | None = None
    ) -> tuple[dict[Place, str], dict[Lane, Resend]]:
        """Drops the records that are applied according to Postgres.

        `asked`: the partitions and queues whose lanes were read; by default, all lanes were read. Returns the
        partitions whose records no longer match Postgres, with the reasons, and the lanes that will be sent
        again. The caller drops these partitions with `forget`, and starts them again as after an assignment.
        """
        lost: dict[Place, str] = {}
        moved: dict[str, QueueBuffer] = {}
        places, queues = (self.partitions.keys(), None) if asked is None else asked
        for place in places:
            partition = self.partitions[place]
            reason = partition.why_lost(read.get(place), queues)
            if reason is not None:
                lost[place] = reason
                continue
            partition.watermark = max(partition.watermark, read[place].watermark or 0)
            for queue, applied in read[place].applied.items():
                lane = partition.lane(queue)
                if applied > lane.applied:
                    moved[queue] = buffer = self._buffer(queue)
                    partition.advance(lane, applied, now)
                    buffer.note_applied(lane)
                    self.moved[place] = partition
        resent: dict[Lane, Resend] = {}
        for buffer in moved.values():
            resent.update(buffer.resend_overtaken(now))
        for name in self.queues.keys() if queues is None else queues:
            self.queues[name].note_settled()
        return lost, resent

    def watermarks(self) -> Watermarks:
        """Returns the new watermarks that are higher than the stored watermarks in Postgres."""
        found: Watermarks = {}
        for place, partition in list(self.moved.items()):
            watermark = partition.lowest_unapplied()
            if watermark > partition.watermark:
                found[place] = (partition.assignment.epoch, watermark)
            else:
                del self.moved[place]
        return found

    def note_halted(self, halted: frozenset[str]) -> tuple[list[str], list[str]]:
        """Notes the queues that are halted now.

        Returns the newly halted queues, and the queues that are no longer halted.
        """
        before, self._halted = self._halted, halted & self.queues.keys()
        fresh, mended = sorted(self._halted - before), sorted(before - self._halted)
        for name in [*fresh, *mended]:
            self._buffer(name).halted = name in halted
        return fresh, mended

    def note_paused(self, topics: frozenset[str]) -> tuple[list[str], list[str]]:
        """Notes the paused topics.

        Returns the newly paused topics, and the topics that are no longer paused.
        """
        before = self._paused_topics or frozenset()
        self._paused_topics = topics
        return sorted(topics - before), sorted(before - topics)

    def paused_by_hand(self) -> frozenset[Place]:
        """Returns the partitions of the topics that an operator paused.

        Before the first answer of Postgres, returns all partitions, because any topic may be paused.
        """
        topics = self._paused_topics
        if topics is not None and not topics:
            return frozenset()
        return frozenset(place for place in self.partitions if topics is None or place[0] in topics)

    def rewind_all(self) -> int:
        """Marks all records in flight as unsent, because Redis lost its lists.

        Returns the number of lanes.
        """
        return sum(self._buffer(name).rewind_all() for name in self.queues)

    def over_bounds(self, paused: frozenset[Place]) -> frozenset[Place]:
        """Returns the partitions whose held records exceed a limit.

        For a paused partition, half of the limit counts. The result is computed in every turn from the held
        records, because a stored result would be wrong after a rebalance.
        """
        share = max(len(self.partitions), 1)
        found = set()
        for place, partition in list(self._holding.items()):
            if not partition.held_bytes:
                del self._holding[place]
                continue
            factor = share * (2 if place in paused else 1)
            span = partition.position - partition.lowest_unapplied()
            if partition.held_bytes * factor > self._max_bytes or span * factor > self._max_span:
                found.add(place)
        return frozenset(found)

    def _buffer(self, queue: str) -> QueueBuffer:
        """Returns the buffer of a queue, and notes that the caller changes it."""
        if queue not in self.queues:
            self.queues[queue] = QueueBuffer(queue)
        buffer = self.queues[queue]
        self.schedule.touch(buffer)
        return buffer
